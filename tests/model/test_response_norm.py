"""The response norms against PyTorch's, against NumPy loops, and by gradcheck, in every layout and thread count."""

import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.response_norm import (
    SPATIAL_SCALE,
    _compiled,
    _plain_spatial,
    can_compile,
    implementation,
    missing_for_triton,
    response_norm,
    spatial_norm,
)

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SHAPES = [  # (n, C, H, W), towers; narrow towers, towers wider than a block of scratch, one pixel, one channel a tower
    ((2, 12, 7, 9), 2),
    ((1, 96, 5, 4), 2),
    ((3, 5, 6, 6), 1),
    ((2, 2, 3, 3), 2),
    ((2, 3, 1, 1), 1),
    ((1, 4100, 2, 1), 2),
    ((4, 64, 40, 40), 2),  # enough for several threads and several blocks each
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def random_images(shape: tuple[int, ...], dtype: torch.dtype, layout: str = "contiguous", size: float = 30.0) -> Tensor:
    x = size * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))
    return x.to(dtype).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()


def pytorch_norm(x: Tensor, scale: float, towers: int) -> Tensor:
    """PyTorch's own, tower by tower; its alpha is divided by the size."""
    return torch.cat([F.local_response_norm(part, 5, 5 * scale, 0.75, 2.0) for part in x.chunk(towers, dim=1)], dim=1)


def numpy_spatial(x: np.ndarray, scale: float) -> np.ndarray:
    """b = a / (1 + scale Σ a²)^0.75 over the 5×5 pixels around, those outside counting 0."""
    height, width = x.shape[2:]
    result = np.empty_like(x)
    for row in range(height):
        for column in range(width):
            window = x[:, :, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            sums = (window**2).sum(axis=(2, 3))
            result[:, :, row, column] = x[:, :, row, column] / (1 + scale * sums) ** 0.75
    return result


def value_and_gradient(function, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    y = function(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).to(y).reshape(y.shape)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    return y.detach(), gradient


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    error = (found - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"relative error {error:.2e}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "towers"), SHAPES)
def test_equals_pytorch_with_its_gradient(shape: tuple[int, ...], towers: int, layout: str, dtype: torch.dtype) -> None:
    x = random_images(shape, dtype, layout)
    for scale in (1e-4, 2e-5, 1e-2):
        found = value_and_gradient(lambda x, scale=scale: response_norm(x, scale, towers), x)
        expected = value_and_gradient(lambda x, scale=scale: pytorch_norm(x, scale, towers), x)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 8, 2, 3), (3, 1, 1, 1), (2, 20, 27, 27)])
def test_spatial_norm_equals_numpy(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    x = random_images(shape, dtype, layout, size=100.0)
    expected = numpy_spatial(x.detach().numpy().astype(np.float64), 1e-3 / 25)
    assert_close(spatial_norm(x).detach().double(), torch.from_numpy(expected), TOLERANCE[dtype])
    assert pytest.approx(4e-5) == SPATIAL_SCALE


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: response_norm(x, 0.02, 2), (2, 6, 3, 2)),
        (lambda x: response_norm(x, 0.3, 1), (1, 7, 2, 2)),
        (lambda x: spatial_norm(x, 0.02), (2, 2, 5, 4)),
        (lambda x: spatial_norm(x, 0.3), (1, 1, 7, 6)),
    ],
)
def test_gradcheck_in_double_precision(function, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    assert torch.autograd.gradcheck(function, (random_images(shape, torch.float64, size=2.0),), atol=1e-7, rtol=1e-6)


def test_towers_do_not_see_each_other() -> None:
    x = random_images((1, 12, 4, 4), torch.float64).detach()
    changed = x.clone()
    changed[:, 6:] += 50.0
    before, after = response_norm(x, 0.1, towers=2), response_norm(changed, 0.1, towers=2)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(response_norm(x, 0.1)[:, 5], response_norm(changed, 0.1)[:, 5])


@pytest.mark.parametrize("norm", [functools.partial(response_norm, scale=0.1, towers=2), spatial_norm])
def test_the_number_of_threads_changes_no_bit(norm: Callable[[Tensor], Tensor]) -> None:
    x = random_images((6, 24, 31, 29), torch.float32, size=100.0)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(value_and_gradient(norm, x))
    finally:
        torch.set_num_threads(threads)
    assert len(results) == 3
    for result in results[1:]:
        assert torch.equal(result[0], results[0][0])
        assert torch.equal(result[1], results[0][1])


def test_two_threads_of_a_program_may_normalize_at_once() -> None:
    x = random_images((8, 24, 31, 29), torch.float32).detach()
    expected, found = response_norm(x, 0.1, 2), []
    work = [threading.Thread(target=lambda: found.append(response_norm(x, 0.1, 2))) for _ in range(6)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(found) == 6
    assert all(torch.equal(result, expected) for result in found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    x = random_images((2, 12, 5, 5), dtype)
    for norm in (functools.partial(response_norm, scale=0.1, towers=2), spatial_norm):
        y, gradient = value_and_gradient(norm, x)
        assert gradient.dtype == dtype
        assert torch.equal(y, norm(x.detach().float()).to(dtype))


def test_an_empty_batch_and_a_strided_view() -> None:
    whole = random_images((4, 12, 6, 6), torch.float64).detach()
    assert response_norm(whole[:0], 1e-4, 2).shape == (0, 12, 6, 6)
    assert spatial_norm(whole[:0]).shape == (0, 12, 6, 6)
    view = whole[::2, 2:8, 1:, ::2]
    assert torch.equal(response_norm(view, 0.1, 2), response_norm(view.clone(), 0.1, 2))
    assert torch.equal(spatial_norm(view), spatial_norm(view.clone()))
    assert torch.equal(
        value_and_gradient(lambda x: response_norm(x, 0.1).transpose(2, 3), view.clone().requires_grad_())[0],
        response_norm(view, 0.1).transpose(2, 3),
    )


@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (2, 6, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[n, C, H, W\]"):
        response_norm(torch.zeros(shape), 1e-4, towers=2)
    with pytest.raises(ValueError, match=r"expected \[n, C, H, W\]"):
        spatial_norm(torch.zeros(shape[:3]))


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine with Triton and without compiler and headers; the folder where headers would lie."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/opt/{name}" if name == "mycc" else None)
    monkeypatch.setattr("sysconfig.get_path", lambda _name, _scheme: str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    can_compile.cache_clear()
    yield tmp_path
    can_compile.cache_clear()


def test_a_gpu_without_a_compiler_takes_the_plain_formula_and_says_so_once(
    bare_machine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert implementation(torch.device("cuda")) == "plain"
    assert implementation(torch.device("cpu")) == "numba"
    (record,) = caplog.records
    message = record.getMessage()
    assert "a C compiler (apt-get install gcc) and Python's headers" in message
    assert f"{bare_machine / 'Python.h'} (apt-get install python3-dev)" in message


def test_a_gpu_with_compiler_and_headers_compiles_the_norms(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (bare_machine / "Python.h").touch()
    assert missing_for_triton() == ["a C compiler (apt-get install gcc)"]
    monkeypatch.setenv("CC", "mycc -O2")
    assert missing_for_triton() == []
    assert implementation(torch.device("cuda")) == "compiled"
    assert not caplog.records


@pytest.mark.parametrize("norm", [functools.partial(response_norm, scale=0.01, towers=2), spatial_norm])
def test_inside_torch_compile_the_plain_formula_gives_the_same(norm: Callable[[Tensor], Tensor]) -> None:
    x = random_images((2, 12, 7, 6), torch.float64)
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    for found, expected in zip(value_and_gradient(compiled, x), value_and_gradient(norm, x), strict=True):
        assert_close(found, expected, 1e-12)


@pytest.mark.slow
def test_many_shapes_stay_within_the_limit_of_recompilations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten batch sizes and three sizes of picture, through torch.compile as on a GPU; one shape too many raises."""
    monkeypatch.setattr("model.response_norm.implementation", lambda _device: "compiled")
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr("torch._dynamo.config.fail_on_recompile_limit_hit", True)
    _compiled.cache_clear()
    shapes = [(n, 12, size, size) for n in range(1, 11) for size in (3, 6, 9)]
    assert len(shapes) == 30
    for shape in shapes:
        x = random_images(shape, torch.float64)
        for norm, formula, towers in ((response_norm, pytorch_norm, 2), (spatial_norm, _plain_spatial, 1)):
            options = {"towers": 2} if towers == 2 else {}
            found = value_and_gradient(lambda x, norm=norm, options=options: norm(x, 0.1, **options), x)
            expected = value_and_gradient(lambda x, formula=formula, towers=towers: formula(x, 0.1, towers), x)
            for one, other in zip(found, expected, strict=True):
                assert_close(one, other, 1e-12)
    pixels = [(n, c, size, size) for n in range(1, 4) for c in (12, 24, 2) for size in (1, 2, 3, 6)]
    assert len(pixels) == 36
    for shape in pixels:  # more than dynamo's own choice of what is dynamic would bear
        for x in (random_images(shape, torch.float64), random_images(shape, torch.float64).detach()):
            assert_close(spatial_norm(x, 0.1), _plain_spatial(x, 0.1, 1), 1e-12)
    _compiled.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_equals_the_cpu(dtype: torch.dtype) -> None:
    x = random_images((4, 96, 27, 27), dtype, "channels_last")
    on_gpu = x.detach().cuda().requires_grad_()
    for norm in (functools.partial(response_norm, scale=1e-4, towers=2), spatial_norm):
        for found, expected in zip(value_and_gradient(norm, on_gpu), value_and_gradient(norm, x), strict=True):
            assert_close(found.cpu().float(), expected.float(), 1e-5 if dtype == torch.float32 else 2e-2)
