"""The memory of batches: it comes back when nothing refers to it any more, and not before."""

import gc

import numpy as np
import torch

from dali_pipelines.cpu_producer import BufferPool


def addresses(pool: BufferPool, count: int) -> list[int]:
    """Where `count` batches lie that are held at the same time."""
    held = [pool.take(2) for _ in range(count)]
    return [batch.data_ptr() for batch in held]


def test_memory_that_nothing_refers_to_is_used_again() -> None:
    pool = BufferPool(4, torch.uint8, spare=3)
    first = {pool.take(1 + number % 4).data_ptr() for number in range(20)}
    assert len(first) == 1
    assert len(set(addresses(pool, 3))) == 3 and first <= set(addresses(pool, 3))


def test_a_batch_has_the_shape_and_memory_that_networks_eat() -> None:
    batch = BufferPool(4, torch.float32, spare=3).take(3)
    assert batch.shape == (3, 3, 224, 224) and batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_views_slices_arrays_and_storages_of_a_batch_keep_its_memory() -> None:
    pool = BufferPool(4, torch.uint8, spare=9)
    for refer in (
        lambda batch: batch[1:2, :, ::7],
        lambda batch: batch.permute(0, 2, 3, 1),
        lambda batch: batch.numpy()[:1],
        lambda batch: batch.untyped_storage(),
        lambda batch: batch.detach(),
        lambda batch: np.from_dlpack(batch),
    ):
        batch = pool.take(4)
        address, reference = batch.data_ptr(), refer(batch)
        del batch
        gc.collect()
        assert address not in addresses(pool, 5)
        del reference
        gc.collect()
        assert address in addresses(pool, 9)


def test_no_more_memory_waits_than_is_spare() -> None:
    pool = BufferPool(4, torch.uint8, spare=2)
    addresses(pool, 6)
    waiting = []
    for _ in range(6):
        waiting.append(pool.take(4))
    assert len({batch.data_ptr() for batch in waiting}) == 6
