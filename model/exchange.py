"""Exchange: the half of a pair's samples that this rank decoded in, all of the pair's samples out, on both ranks.

A pair of ranks computes one network on the same samples. Each decodes half of them and both swap halves, in the main
thread and on a group of their own, so that nothing can get between the messages of the network.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist


def part_size(samples: int, part: int, parts: int) -> int:
    """How many of `samples` belong to contiguous part `part` of `parts`."""
    return (part + 1) * samples // parts - part * samples // parts


def swap_halves(
    halves: Sequence[torch.Tensor], sizes: tuple[int, int], model_rank: int, group: dist.ProcessGroup
) -> list[torch.Tensor]:
    """Each tensor [n, …] becomes [sizes[0] + sizes[1], …]: rank 0's rows, then rank 1's.

    All tensors are on one device, have n = sizes[model_rank] rows and, but for n, the same shapes on both ranks;
    they travel as bytes in one message, so any dtype arrives unchanged. Raises ValueError for another n.
    """
    rows = sizes[model_rank]
    wrong = [list(half.shape) for half in halves if len(half) != rows]
    if wrong:
        raise ValueError(f"rank {model_rank} of a pair should hold {rows} of {sum(sizes)} samples, got {wrong}")
    widths = [half.shape[1:].numel() * half.element_size() for half in halves]
    packed = [
        half.clone(memory_format=torch.contiguous_format).view(rows, half.shape[1:].numel()).view(torch.uint8)
        for half in halves
    ]
    message = torch.zeros(max(sizes), sum(widths), dtype=torch.uint8, device=halves[0].device)
    message[:rows] = torch.cat(packed, dim=1)
    both = [torch.empty_like(message) for _ in sizes]
    dist.all_gather(both, message, group=group)
    whole = torch.cat([part[:size] for part, size in zip(both, sizes)])
    return [
        column.clone(memory_format=torch.contiguous_format).view(half.dtype).view(sum(sizes), *half.shape[1:])
        for column, half in zip(whole.split(widths, dim=1), halves)
    ]
