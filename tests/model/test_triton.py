"""The response norms' GPU kernels, made without a GPU: inductor writes their Triton code, Triton compiles it to PTX.

Stand-ins say what a device would: its properties and its target. No kernel runs. Needs a PyTorch that has Triton.
"""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from model.response_norm import CHANNEL_NORM, SPATIAL_NORM

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="this PyTorch has no Triton")
GPU = torch.device("cuda", 0)


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Inductor and Triton believe in a GPU of compute capability `request.param`, A100 or H100."""
    import triton
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor.runtime.hints import DeviceProperties
    from triton.backends.compiler import GPUTarget

    major, minor = divmod(request.param, 10)
    properties = SimpleNamespace(
        name="stand-in", major=major, minor=minor, multi_processor_count=108, total_memory=80 * 2**30, warp_size=32,
        regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024,
        shared_memory_per_block=49152, shared_memory_per_block_optin=166912, L2_cache_size=40 * 2**20,
    )  # fmt: skip
    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", request.param, 32),
        get_current_device=lambda: 0,
        get_active_torch_device=lambda: GPU,
    )
    for owner in (CudaInterface, CudaInterface.Worker):
        monkeypatch.setattr(owner, "get_device_properties", staticmethod(lambda *_: properties))
    monkeypatch.setattr(CudaInterface, "get_compute_capability", staticmethod(lambda *_: request.param))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (major, minor))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("torch._inductor.scheduler.has_triton", lambda: True)
    monkeypatch.setattr("torch._inductor.runtime.triton_helpers.set_driver_to_gpu", lambda: None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    DeviceProperties.create.cache_clear()  # it knows the device of the test before
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)  # its own way back asks for a GPU
    yield request.param
    DeviceProperties.create.cache_clear()


def kernels(function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> dict[str, list[str]]:
    """What inductor makes of `function` of float32 maps in channels-last memory: kernel → the PTX of its variants."""
    from torch._inductor import config
    from torch._inductor.codecache import PyCodeCache
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with mode, config.patch(compile_threads=1, use_static_cuda_launcher=False):
        maps = [torch.empty(shape, device=GPU).contiguous(memory_format=torch.channels_last) for shape in shapes]
        traced = make_fx(function, decomposition_table=select_decomp_table(), tracing_mode="fake")(*maps)
        graph = GraphLowering(traced, example_inputs=maps, shape_env=mode.shape_env)
        with V.set_graph_handler(graph), V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
            with V.set_extern_kernel_nodes([]):
                graph.run(*maps)
                wrapper, _ = graph.codegen()
        sources = re.findall(r"async_compile\.triton\('(\w+)', '''(.*?)''', device_str='cuda'\)", wrapper.value, re.S)
        compiled = {}
        for name, source in sources:
            kernel = getattr(PyCodeCache.load(source), name)
            kernel.precompile(warm_cache_only=True)
            compiled[name] = [result.kernel.asm["ptx"] for result in kernel.compile_results]
    return compiled


@pytest.mark.parametrize("device", [80, 90], indirect=True)
@pytest.mark.parametrize(("norm", "towers"), [(CHANNEL_NORM, 2), (SPATIAL_NORM, 1)])
def test_norms_are_one_kernel_forward_and_two_backward(norm: Any, towers: int, device: int) -> None:
    maps = (4, 96, 55, 55)
    forward = kernels(lambda x: norm.plain(x, 1e-4, towers), maps)
    backward = kernels(lambda x, dy: norm.gradient(x, dy, 1e-4, towers), maps, maps)
    assert (len(forward), len(backward)) == (1, 2)
    for variants in (forward | {f"backward {name}": code for name, code in backward.items()}).values():
        assert variants
        for ptx in variants:
            assert re.search(rf"^\.target sm_{device}a?$", ptx, re.M) and ".visible .entry" in ptx
