"""A profile of a run: `--profile N` in; a torch.profiler trace of N steps of each rank out, for https://ui.perfetto.dev.

The first steps are left out: they compile, choose algorithms and wait for the loader's first batches.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator

from torch.profiler import ProfilerActivity, _ExperimentalConfig, profile, schedule

from training.config import TrainConfig
from training.mesh import Mesh

logger = logging.getLogger(__name__)
FOLDER = "profile"
WARM_UP_STEPS = 5


@contextlib.contextmanager
def profiling(config: TrainConfig, mesh: Mesh) -> Iterator[Callable[[], None]]:
    """Gives what is to be called after each step; without --profile that does nothing.

    RUN/profile/rank-R.json.gz shows kernels, copies and the operations of all threads, the loader's among them.
    """
    if config.profile is None:
        yield lambda: None
        return
    path = config.run_dir / FOLDER / f"rank-{mesh.rank}.json.gz"

    def write(profiler: profile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(path))
        logger.info("profile of %d steps: %s", config.profile, path)

    cuda = [ProfilerActivity.CUDA] if mesh.device.type == "cuda" else []
    with profile(
        activities=[ProfilerActivity.CPU, *cuda],
        schedule=schedule(wait=WARM_UP_STEPS - 1, warmup=1, active=config.profile, repeat=1),
        on_trace_ready=write,
        experimental_config=_ExperimentalConfig(profile_all_threads=True),
    ) as profiler:
        yield profiler.step
    if profiler.step_num < WARM_UP_STEPS + config.profile:
        logger.warning("--profile %d needs %d steps more than that; the run had fewer", config.profile, WARM_UP_STEPS)
