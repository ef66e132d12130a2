"""Who gets which sample, at which step, on how many ranks; resuming; bad arguments."""

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipelines import Batch, DataConfig, EpochOrder, Loader, LoaderError
from sharding import ShardSet, Statistics

WORLDS = range(1, 9)
Split = dict[int, list[tuple[list[int], list[int]]]]


def order_of(sizes: np.ndarray, seed: int, epoch: int, window: int | None = None) -> np.ndarray:
    """All ids of an epoch in their order."""
    return EpochOrder(sizes, seed, epoch, window)[np.arange(int(sizes.sum()))]


def joined(lists: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def parts(shards: ShardSet, config: DataConfig, statistics: Statistics, world: int, epoch: int = 0) -> Split:
    """For each step, each rank's ids and positions, after checks that hold for every batch."""
    found: Split = {}
    steps = set()
    for rank in range(world):
        with Loader(shards, config, rank, world, statistics) as loader:
            steps.add(loader.steps_per_epoch)
            for batch in loader.epoch(epoch):
                samples = len(batch.ids)
                assert batch.images.shape == (samples, 3, 224, 224)
                assert batch.images.is_contiguous(memory_format=torch.channels_last)
                np.testing.assert_array_equal(batch.labels.numpy(), shards.labels(batch.ids.numpy()))
                assert (batch.epoch, len(batch.augmentation)) == (epoch, samples)
                assert batch.wait_seconds >= 0
                found.setdefault(batch.step, []).append((batch.ids.tolist(), batch.positions.tolist()))
    assert len(steps) == 1 and sorted(found) == list(range(steps.pop()))
    assert all(len(ranks) == world for ranks in found.values())
    return found


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("world", WORLDS)
def test_training_global_batches_are_the_same_for_every_number_of_ranks(
    raw_shards: ShardSet, statistics: Statistics, world: int, window: int | None
) -> None:
    config = DataConfig(batch_size=10, seed=2, output="uint8", window=window)
    steps = parts(raw_shards, config, statistics, world, epoch=4)
    assert len(steps) == 4  # 45 samples: the last five are dropped
    order = order_of(raw_shards.shard_sizes, 2, 4, window).tolist()
    for step, ranks in steps.items():
        assert joined(ids for ids, _ in ranks) == order[step * 10 : step * 10 + 10]
        assert joined(positions for _, positions in ranks) == list(range(step * 10, step * 10 + 10))
        assert {len(ids) for ids, _ in ranks} <= {10 // world, -(-10 // world)}
    shown = Counter(joined(ids for ranks in steps.values() for ids, _ in ranks))
    assert len(shown) == 40 and set(shown.values()) == {1}


@pytest.mark.parametrize("batch_size", [3, 8, 45, 64])
@pytest.mark.parametrize("world", WORLDS)
def test_evaluation_sees_every_sample_once_in_split_order(
    raw_shards: ShardSet, statistics: Statistics, world: int, batch_size: int
) -> None:
    config = DataConfig(batch_size=batch_size, training=False, output="uint8")
    steps = parts(raw_shards, config, statistics, world)
    assert len(steps) == -(-45 // batch_size)
    seen = joined(ids for step in sorted(steps) for ids, _ in steps[step])
    assert seen == list(range(45))


def test_a_share_of_nothing_is_an_empty_batch_and_counts_the_others(
    jpeg_shards: ShardSet, statistics: Statistics
) -> None:
    """Five samples left for eight ranks; float32 through the decoder, both routes."""
    for fused in (True, False):
        config = DataConfig(batch_size=8, training=False, fused=fused, threads=1)
        with Loader(jpeg_shards, config, 0, 8, statistics) as loader:
            got = [(tuple(batch.images.shape), batch.samples, batch.ids.tolist()) for batch in loader.epoch(0)]
        assert [samples for _, samples, _ in got] == [8, 8, 8, 8, 8, 5]
        assert got[-1] == ((0, 3, 224, 224), 5, [])
        assert [ids for _, _, ids in got[:-1]] == [[0], [8], [16], [24], [32]]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_decode_the_pixels_of_the_whole_batch(jpeg_shards: ShardSet, statistics: Statistics, world: int) -> None:
    config = DataConfig(batch_size=10, seed=3, threads=2)
    with Loader(jpeg_shards, config, statistics=statistics) as loader:
        whole = [batch.images.clone() for batch in loader.epoch(7)]
    shares: list[list[torch.Tensor]] = [[] for _ in whole]
    for rank in range(world):
        with Loader(jpeg_shards, config, rank, world, statistics) as loader:
            for batch in loader.epoch(7):
                shares[batch.step].append(batch.images.clone())
    assert len(whole) == 4
    for images, share in zip(whole, shares):
        assert len(share) == world
        torch.testing.assert_close(torch.cat(share), images, rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_any_part_is_told_without_decoding_it(raw_shards: ShardSet, statistics: Statistics, training: bool) -> None:
    """Rank 1 of 3, asked in the middle of another epoch, knows what ranks 0 and 3 of 4 get."""
    config = DataConfig(recipe="original", batch_size=10, seed=2, output="uint8", training=training)
    with Loader(raw_shards, config, 1, 3, statistics) as asked:
        under_way = asked.epoch(1)
        next(under_way)
        for rank in (0, 3):
            with Loader(raw_shards, config, rank, 4, statistics) as loader:
                for batch in loader.epoch(5):
                    spec, drawn = asked.slice_metadata(5, batch.step, rank, 4), batch.augmentation
                    assert (spec.epoch, spec.step, spec.samples) == (5, batch.step, batch.samples)
                    for name in ("ids", "labels", "positions"):
                        assert getattr(spec, name).tolist() == getattr(batch, name).tolist()
                    for name in ("crop_y", "crop_x", "mirror", "rgb_offset", "divisor"):
                        np.testing.assert_array_equal(getattr(spec.augmentation, name), getattr(drawn, name))
        order = np.arange(45) if not training else order_of(raw_shards.shard_sizes, 2, 1)
        assert next(under_way).ids.tolist() == order[10:20][3:6].tolist()
        with pytest.raises(ValueError, match="step 9: expected 0 to"):
            asked.slice_metadata(5, 9, 0, 4)


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (3, 4), (13, 2)])
def test_threads_and_prefetch_change_nothing(
    jpeg_shards: ShardSet, statistics: Statistics, threads: int, prefetch: int
) -> None:
    kept = []
    for config in (
        DataConfig(batch_size=10, threads=2),
        DataConfig(batch_size=10, threads=threads, prefetch=prefetch),
    ):
        with Loader(jpeg_shards, config, statistics=statistics) as loader:
            kept.append([(batch.ids.tolist(), batch.images.clone()) for batch in loader.epoch(1)])
    assert len(kept[0]) == len(kept[1]) == 4
    for (ids, images), (other_ids, other_images) in zip(*kept):
        assert ids == other_ids
        torch.testing.assert_close(images, other_images, rtol=0, atol=0)


def contents(batch: Batch) -> tuple[int, list[int], list[int], torch.Tensor]:
    return batch.step, batch.ids.tolist(), batch.positions.tolist(), batch.images.clone()


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("training", [True, False])
def test_a_resumed_epoch_is_the_rest_of_the_full_one_and_reads_nothing_before_it(
    jpeg_shards: ShardSet,
    statistics: Statistics,
    monkeypatch: pytest.MonkeyPatch,
    training: bool,
    window: int | None,
) -> None:
    config = DataConfig(batch_size=10, training=training, window=window if training else None, threads=2)
    asked: list[int] = []
    read = ShardSet.addresses

    def recorded(self: ShardSet, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.extend(np.asarray(ids).tolist())
        return read(self, ids)

    monkeypatch.setattr(ShardSet, "addresses", recorded)
    with Loader(jpeg_shards, config, statistics=statistics) as loader:
        steps = loader.steps_per_epoch
        full = [contents(batch) for batch in loader.epoch(3)]
        for start in range(steps + 1):
            asked.clear()
            rest = [contents(batch) for batch in loader.epoch(3, start_step=start)]
            assert len(rest) == steps - start
            assert asked == joined(ids for _, ids, _, _ in full[start:])
            for (step, ids, positions, images), (*other, other_images) in zip(full[start:], rest):
                assert [step, ids, positions] == other
                torch.testing.assert_close(images, other_images, rtol=0, atol=0)


def test_epochs_side_by_side_do_not_disturb_each_other(jpeg_shards: ShardSet, statistics: Statistics) -> None:
    config = DataConfig(batch_size=10, threads=1)
    with Loader(jpeg_shards, config, statistics=statistics) as loader:
        alone = [[contents(batch) for batch in loader.epoch(epoch)] for epoch in (0, 1)]
        pairs = [(contents(first), contents(second)) for first, second in zip(loader.epoch(0), loader.epoch(1))]
    assert len(pairs) == 4
    for step, pair in enumerate(pairs):
        for epoch in (0, 1):
            assert pair[epoch][:3] == alone[epoch][step][:3]
            torch.testing.assert_close(pair[epoch][3], alone[epoch][step][3], rtol=0, atol=0)


def test_a_consumer_that_stops_early_keeps_its_last_batch(jpeg_shards: ShardSet, statistics: Statistics) -> None:
    with Loader(jpeg_shards, DataConfig(batch_size=10, threads=1), statistics=statistics) as loader:
        batch = next(iter(loader.epoch(0)))
        images = batch.images.clone()
        assert sum(len(other.ids) for epoch in (1, 2) for other in loader.epoch(epoch)) == 80
        torch.testing.assert_close(batch.images, images, rtol=0, atol=0)


def test_statistics_default_to_those_of_the_shards(jpeg_shards: ShardSet) -> None:
    config = DataConfig(batch_size=5, training=False, threads=1)
    with Loader(jpeg_shards, config) as loader, Loader(jpeg_shards, config, statistics=jpeg_shards.statistics) as same:
        for batch, expected in zip(loader.epoch(0), same.epoch(0)):
            torch.testing.assert_close(batch.images, expected.images, rtol=0, atol=0)
        assert abs(float(batch.images.mean())) < 60  # about the mean of its own images


@pytest.mark.parametrize(("rank", "world"), [(1, 1), (-1, 2), (2, 2)])
def test_a_rank_outside_the_axis_is_refused(
    jpeg_shards: ShardSet, statistics: Statistics, rank: int, world: int
) -> None:
    with pytest.raises(ValueError, match=f"data_rank {rank} of {world}: expected 0 to {world - 1}"):
        Loader(jpeg_shards, DataConfig(batch_size=4), rank, world, statistics)


def test_a_start_beyond_the_epoch_is_refused(jpeg_shards: ShardSet, statistics: Statistics) -> None:
    with Loader(jpeg_shards, DataConfig(batch_size=10), statistics=statistics) as loader:
        with pytest.raises(ValueError, match="start_step 5: expected 0 to 4"):
            loader.epoch(0, start_step=5)


def test_a_split_smaller_than_a_batch_says_what_to_ask_for(
    jpeg_folder: Path, jpeg_shards: ShardSet, statistics: Statistics
) -> None:
    with pytest.raises(LoaderError, match="45 samples make no batch of 46; ask for --batch-size 45") as raised:
        Loader(jpeg_shards, DataConfig(batch_size=46), statistics=statistics)
    assert str(jpeg_folder) in str(raised.value)


def test_without_random_crops_an_image_is_its_center_mirrored_or_not(
    raw_shards: ShardSet, statistics: Statistics
) -> None:
    config = DataConfig(recipe="paper", batch_size=45, output="uint8", random_crops=False)
    mirrored = 0
    with Loader(raw_shards, config, statistics=statistics) as loader:
        for batch in loader.epoch(0):
            pixels = raw_shards.images(batch.ids.numpy())
            for image, stored, mirror in zip(
                batch.images.permute(0, 2, 3, 1).numpy(), pixels, batch.augmentation.mirror
            ):
                center = stored[16:240, 16:240]
                np.testing.assert_array_equal(image, center[:, ::-1] if mirror else center)
                mirrored += mirror
    assert 5 < mirrored < 40


def test_a_loader_is_an_iterable_of_epochs(raw_shards: ShardSet, statistics: Statistics) -> None:
    """`iter` goes through the epoch that `set_epoch` names, then through the next; `len` counts its batches."""
    with Loader(raw_shards, DataConfig(batch_size=10, seed=2, output="uint8"), statistics=statistics) as loader:
        assert len(loader) == 4
        loader.set_epoch(3)
        for epoch in (3, 4):
            assert [batch.ids.tolist() for batch in loader] == [batch.ids.tolist() for batch in loader.epoch(epoch)]


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("delivered", [0, 1, 3, 4])
def test_state_goes_on_behind_the_last_batch_on_any_number_of_ranks(
    raw_shards: ShardSet, statistics: Statistics, delivered: int, world: int
) -> None:
    config = DataConfig(batch_size=10, seed=2, output="uint8")
    with Loader(raw_shards, config, statistics=statistics) as loader:
        loader.set_epoch(1)
        batches = iter(loader)
        for _ in range(delivered):
            next(batches)
        state = loader.state_dict()
        expected = [batch.ids.tolist() for batch in loader.epoch(1, delivered)]
    assert (state["epoch"], state["step"]) == (1, delivered)
    parts: list[list[int]] = [[] for _ in expected]
    for rank in range(world):
        with Loader(raw_shards, config, rank, world, statistics) as loader:
            loader.load_state_dict(state)
            for step, batch in enumerate(loader):
                parts[step] += batch.ids.tolist()
    assert parts == expected


def test_the_state_of_another_order_is_refused(raw_shards: ShardSet, statistics: Statistics) -> None:
    with Loader(raw_shards, DataConfig(batch_size=10), statistics=statistics) as loader:
        state = loader.state_dict()
        for wrong in ({"seed": 1}, {"batch_size": 9}, {"window": 2}, {"step": None}, {"more": 1}):
            with pytest.raises(ValueError, match="is not of this loader"):
                loader.load_state_dict(state | wrong)
        with pytest.raises(ValueError, match="is not of this loader"):
            loader.load_state_dict({})


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize(
    ("normalize", "mean", "deviation"),
    [("none", (0, 0, 0), (1, 1, 1)), ("imagenet", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))],
)
def test_other_normalizations_are_the_crop_by_channel(
    jpeg_shards: ShardSet,
    statistics: Statistics,
    fused: bool,
    views: int,
    normalize: str,
    mean: tuple,
    deviation: tuple,
) -> None:
    """Against the uint8 crops and the color offsets that the batch names, both routes."""
    names = {"batch_size": 8, "training": views == 1, "views": views}
    with (
        Loader(jpeg_shards, DataConfig(output="uint8", **names), statistics=statistics) as crops,
        Loader(jpeg_shards, DataConfig(normalize=normalize, fused=fused, **names), statistics=statistics) as loader,
    ):
        crop, batch = next(iter(crops)), next(iter(loader))
    assert batch.augmentation.divisor == 1.0 and (views == 10 or batch.augmentation.rgb_offset.any())
    pixels = crop.images.permute(0, 2, 3, 1).numpy() + batch.augmentation.rgb_offset[:, None, None]
    expected = (pixels - np.float32(mean)) / np.float32(deviation)
    np.testing.assert_allclose(
        batch.images.permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=2e-5 * 256 / deviation[0]
    )
