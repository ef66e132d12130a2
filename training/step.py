"""One network on the mesh: batches in, one optimizer step and its loss out, the same for any number of ranks.

Pairs of ranks compute a split network (`TwoTowerAlexNet`), single ranks an unsplit one. Over the data axis
DistributedDataParallel averages gradients; since shares of a global batch may differ by one (or be nothing), each
rank's loss is its sum over the global batch's size, times the number of data ranks.
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError, first_line
from dali_pipelines.order import slice_range
from model.alexnet import AlexNet, ModelConfig
from model.dropout import DropoutKey
from model.optimizer import make_optimizer
from model.response_norm import missing_for_triton
from model.two_tower import TwoTowerAlexNet
from training.config import TrainConfig
from training.mesh import Mesh

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # malloc.h of glibc
# What torch says, in plain RuntimeErrors, of tensors that no memory is large enough for.
TOO_LARGE = ("can't allocate memory", "storage size calculation overflowed", "not enough memory")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next allocations. Returns whether the C library can.

    glibc maps each large tensor of the CPU anew, and the system clears every page of it again: with the memory kept, a
    step takes an eighth less CPU time (`benchmarks/LOG.md`), and the process stays as large as it once was. Only
    glibc's `mallopt` is known to work so; elsewhere nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, -1))


@contextlib.contextmanager
def advising_on_memory() -> Iterator[None]:
    """Turn the errors of an allocation that fails, on CPU or GPU, into MemoryError with advice; let all others pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if known or any(words in str(error).lower() for words in TOO_LARGE):
            advice = "try a higher --accumulate, or a lower --batch-size or --width"
            raise MemoryError(f"not enough memory: {first_line(error)}; {advice}") from error
        raise


def set_up_torch(config: TrainConfig) -> str:
    """Set what holds for the whole process: freed memory, threads, repeatability, precision. Returns the device's type.

    Raises UserError for --compile on a GPU without what its compiler needs.
    """
    keep_freed_memory()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with it
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not config.deterministic
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device_type = automatic if config.device == "auto" else config.device
    # PyTorch's own default is neither: cuDNN's convolutions in TF32, matrix products in float32.
    tf32 = precision_on(device_type, config) != "float32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    missing = missing_for_triton() if config.compile and device_type == "cuda" else []
    if missing:
        raise UserError(f"--compile needs {' and '.join(missing)}; install it, or leave --compile out")
    return device_type


def precision_on(device_type: str, config: TrainConfig) -> str:
    """What --precision is on this type of device: `float32`, `tf32` or `bfloat16`."""
    if config.precision in ("auto", "tf32"):
        return "tf32" if device_type == "cuda" else "float32"
    return config.precision


class ParallelNetwork:
    """`net` is this rank's network (its tower, if split); `step` and `logits` are called by all ranks alike."""

    def __init__(self, model_config: ModelConfig, config: TrainConfig, mesh: Mesh) -> None:
        self.config, self.mesh = config, mesh
        self.net: AlexNet | TwoTowerAlexNet
        if mesh.model_group is None:
            self.net = AlexNet(model_config, seed=config.seed)
        else:
            self.net = TwoTowerAlexNet(model_config, mesh.model_group, seed=config.seed)
        self.net.to(mesh.device)
        if config.compile:
            self.net.compile()
        self.optimizer = make_optimizer(self.net, config.recipe, config.rate_scale)
        self._forward: nn.Module = self.net

    def distribute(self) -> None:
        """Begin to average gradients over the data axis; call it once the weights are those to start from."""
        if self.mesh.data_group is None:
            return
        # Dynamo would split what is compiled inside DDP (the network, or the response norm alone) at DDP's buckets, and
        # asserts where no two parameters fit into one. DDP imports torch._dynamo anyway.
        torch._dynamo.config.optimize_ddp = False
        # One bucket for each parameter, before and after the first step: no two fit into 0 MB. Else DDP puts buckets
        # together anew then, with them the order of sums changes from three ranks on, and a resumed run would not
        # be bitwise the run that never stopped.
        self._forward = DistributedDataParallel(
            self.net, process_group=self.mesh.data_group, bucket_cap_mb_list=[0], gradient_as_bucket_view=True
        )

    def step(
        self, images: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor, *, step: int, samples: int
    ) -> torch.Tensor:
        """One update from this data rank's images float32 [n, 3, 224, 224], labels and ids int64 [n] on the device.

        `step` counts from 0 over the whole run; `samples` is the size of the global batch. Returns float64 [3] on the
        device: the sum of this rank's losses, and how many of its images were wrong in top-1 and in top-5.
        """
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(3, dtype=torch.float64, device=self.mesh.device)
        scale = self.mesh.data_world / samples
        sizes = self._pass_sizes(len(labels))
        ddp = self._forward if isinstance(self._forward, DistributedDataParallel) else None
        parts = zip(images.split(sizes), labels.split(sizes), ids.split(sizes))
        for index, (pixels, answers, numbers) in enumerate(parts, 1):
            with ddp.no_sync() if ddp is not None and index < len(sizes) else contextlib.nullcontext():
                key = DropoutKey(self.config.seed, step, numbers)
                with self._autocast():
                    logits = self._forward(pixels, dropout=key)
                    loss = F.cross_entropy(logits, answers, reduction="sum")
                (loss * scale).backward()
            best = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices
            wrong = (best != answers.unsqueeze(1)).cumprod(dim=1).sum(dim=0)
            totals += torch.stack([loss.detach(), wrong[0], wrong[-1]]).double()
        self.optimizer.step()
        return totals

    def _pass_sizes(self, n: int) -> list[int]:
        """How many of n samples are computed together, one group after the other; no empty one before the last."""
        passes = self.config.accumulate
        sizes = [part.stop - part.start for part in (slice_range(n, index, passes) for index in range(passes))]
        return [size for size in sizes[:-1] if size] + sizes[-1:]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.mesh.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32 [n, classes] of images [n, 3, 224, 224], in evaluation mode."""
        self.net.eval()
        with self._autocast():
            return self.net(images).float()
