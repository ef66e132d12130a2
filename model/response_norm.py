"""Local response normalization, and the original's spatial one, with their own backward: float [n, C, H, W] in and out.

    across channels   b = a / (2 + scale · Σ a²)^0.75   Σ over 5 channels of one tower (Krizhevsky 2012 §3.3)
    over pixels       b = a / (1 + scale · Σ a²)^0.75   Σ over 5×5 pixels of a channel (`rnorm`, layers-145.cfg)

Where it runs: on the CPU in numba (`model.norm_kernels`), one pass forward and one backward; on a GPU by torch.compile,
one kernel forward and two backward (tests/model/test_triton.py), or the plain formula where kernels cannot be compiled
(with a warning); inside another torch.compile the plain formula. `implementation` says which. To check on a GPU: `make
test-gpu` (equality), `python -m benchmarks step` (speed).
"""

import functools
import importlib.util
import logging
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from model import norm_kernels

logger = logging.getLogger(__name__)
CHANNEL_CONSTANT = 2.0  # k, §3.3; minDiv of the original
SPATIAL_CONSTANT = 1.0
SPATIAL_SCALE = 1e-3 / 25  # layer-params: scale 1e-3, which cuda-convnet divides by the size squared
WIDE = (torch.float32, torch.float64)


def response_norm(x: Tensor, scale: float, towers: int = 1) -> Tensor:
    """Normalize each channel by five neighbors of its tower.

    x: float [n, C, H, W], any layout; C is `towers` equal parts that do not see each other. float16 and bfloat16 are
    computed in float32. Returns the same shape and dtype; on the CPU channels_last. scale multiplies each square:
    PyTorch's local_response_norm(x, 5, alpha, 0.75, 2.0) has scale = alpha / 5. Raises ValueError for another shape.
    """
    if x.ndim != 4 or x.shape[1] % towers:
        raise ValueError(f"response norm got {list(x.shape)}, expected [n, C, H, W] with C a multiple of {towers}")
    return _dispatch(x, CHANNEL_NORM, scale, towers)


def spatial_norm(x: Tensor, scale: float = SPATIAL_SCALE) -> Tensor:
    """Normalize each pixel by the 5×5 pixels around it in its own channel. Shapes and dtypes as in `response_norm`."""
    if x.ndim != 4:
        raise ValueError(f"spatial norm got {list(x.shape)}, expected [n, C, H, W]")
    return _dispatch(x, SPATIAL_NORM, scale, 1)


def implementation(device: torch.device) -> str:
    """How tensors on `device` are normalized here and now: `numba`, `compiled` or `plain`.

    Ask before the first step: on a GPU it logs a warning, once, if kernels cannot be compiled and `plain` stands in.
    """
    if torch.compiler.is_compiling():
        return "plain"
    if device.type == "cpu":
        return "numba"
    return "compiled" if can_compile() else "plain"


def missing_for_triton() -> list[str]:
    """What this machine lacks to run torch.compile's GPU kernels, with the command that installs it.

    Triton builds a launcher for each kernel when it first runs, by a C compiler and with Python's headers
    (triton/runtime/build.py), so a bare machine fails in its first step.
    """
    compilers = [os.environ["CC"].split()[0]] if os.environ.get("CC") else ["gcc", "clang"]
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # as Triton does
    header = Path(sysconfig.get_path("include", scheme), "Python.h")
    present = {
        "Triton (pip install triton)": importlib.util.find_spec("triton") is not None,
        "a C compiler (apt-get install gcc)": any(shutil.which(compiler) for compiler in compilers),
        f"Python's headers, {header} (apt-get install python3-dev)": header.is_file(),
    }
    return [name for name, is_there in present.items() if not is_there]


@functools.cache
def can_compile() -> bool:
    missing = missing_for_triton()
    if missing:
        logger.warning("response norms run as plain PyTorch operations, slower: missing %s", " and ".join(missing))
    return not missing


def _dispatch(x: Tensor, norm: "_Norm", scale: float, towers: int) -> Tensor:
    wide = x if x.dtype in WIDE else x.float()
    is_plain = implementation(x.device) == "plain"
    result = norm.plain(wide, scale, towers) if is_plain else _Fused.apply(wide, norm, scale, towers)
    return result.to(x.dtype)


@functools.cache
def _compiled(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(formula, dynamic=True)  # else few small shapes exceed dynamo's limit of eight recompilations


def _sum_channels(values: Tensor, towers: int) -> Tensor:
    """Σ over the five channels of one tower around each."""
    n, channels, height, width = values.shape
    count = channels // towers
    padded = F.pad(values.view(n, towers, count, height, width), (0, 0, 0, 0, 2, 2))
    sums = sum(padded[:, :, first : first + count] for first in range(5))
    assert isinstance(sums, Tensor)
    return sums.reshape_as(values)


def _mean_pixels(values: Tensor) -> Tensor:
    """Σ / 25 over the 5×5 pixels around each, zeros outside."""
    return F.avg_pool2d(values, 5, stride=1, padding=2, count_include_pad=True)


def _plain_channel(x: Tensor, scale: float, towers: int) -> Tensor:
    return x * (CHANNEL_CONSTANT + scale * _sum_channels(x.square(), towers)).pow(-0.75)


def _channel_gradient(x: Tensor, dy: Tensor, scale: float, towers: int) -> Tensor:
    """What autograd makes of `_plain_channel` is seven kernels, and keeps the padded squares; this is two."""
    sums = CHANNEL_CONSTANT + scale * _sum_channels(x.square(), towers)
    scaled = dy * sums.pow(-0.75)
    return scaled - 1.5 * scale * x * _sum_channels(scaled * x / sums, towers)


def _plain_spatial(x: Tensor, scale: float, towers: int) -> Tensor:
    """Towers play no part, since each channel is alone."""
    return x * (SPATIAL_CONSTANT + 25 * scale * _mean_pixels(x.square())).pow(-0.75)


def _spatial_gradient(x: Tensor, dy: Tensor, scale: float, towers: int) -> Tensor:
    sums = SPATIAL_CONSTANT + 25 * scale * _mean_pixels(x.square())
    scaled = dy * sums.pow(-0.75)
    return scaled - 37.5 * scale * x * _mean_pixels(scaled * x / sums)


class _Norm(NamedTuple):
    """A norm and its gradient in PyTorch's operations (dynamo counts recompilations by function); its CPU kernel."""

    plain: Callable[[Tensor, float, int], Tensor]
    gradient: Callable[[Tensor, Tensor, float, int], Tensor]
    kernel: Callable[..., None]
    constant: float


CHANNEL_NORM = _Norm(_plain_channel, _channel_gradient, norm_kernels.channel_norm, CHANNEL_CONSTANT)
SPATIAL_NORM = _Norm(_plain_spatial, _spatial_gradient, norm_kernels.spatial_norm, SPATIAL_CONSTANT)


def _run(norm: _Norm, x: Tensor, dy: Tensor | None, scale: float, towers: int) -> Tensor:
    """What the kernel makes of x, or of x and the output's gradient; all [n, C, H, W] in channels_last memory."""
    n, channels, height, width = x.shape
    shape = (n, height, width * channels) if norm is SPATIAL_NORM else (-1,)

    def array(tensor: Tensor) -> Any:
        return tensor.detach().permute(0, 2, 3, 1).view(shape).numpy()  # never copies

    out = torch.empty_like(x)
    arrays = array(x), None if dy is None else array(dy), array(out)
    number = arrays[0].dtype.type
    numbers = number(norm.constant), number(scale)
    if norm is SPATIAL_NORM:  # each channel is alone: towers play no part
        norm_kernels.over_threads(norm.kernel, (*arrays, channels, *numbers), n)
    else:
        own = max(1, channels // towers)
        masks = norm_kernels.edge_masks(own, arrays[0].dtype)
        norm_kernels.over_threads(norm.kernel, (*arrays, masks, *numbers), x.numel() // own, own)
    return out


class _Fused(torch.autograd.Function):
    """A norm of which nothing but the input is kept: numba's kernels on the CPU, compiled formulas on a GPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: _Norm, scale: float, towers: int) -> Tensor:
        on_gpu = implementation(x.device) == "compiled"
        x = x if on_gpu else x.contiguous(memory_format=torch.channels_last)
        ctx.settings = norm, scale, towers
        ctx.save_for_backward(x)
        return _compiled(norm.plain)(x, scale, towers) if on_gpu else _run(norm, x, None, scale, towers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        norm, scale, towers = ctx.settings
        if implementation(x.device) == "compiled":
            return _compiled(norm.gradient)(x, dy, scale, towers), None, None, None
        dy = dy.contiguous(memory_format=torch.channels_last)
        return _run(norm, x, dy, scale, towers), None, None, None
