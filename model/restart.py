"""Restarts by torchrun: a start's config in; the config to go on with out, if this torchrun began the run itself.

`torchrun --max-restarts` starts the same command line again. The first start that may use the run's folder records
there which torchrun processes it came from (`torchrun.json`); only a restart by one of them goes on by itself. A start
that was refused, since the folder holds another run, is refused again.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from model.config import TrainConfig
from model.run_folder import CONFIG, write_whole
from model.stopping import Control

AGENTS = "torchrun.json"
RUN_ID, RESTARTS = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"


def after_restart(config: TrainConfig) -> TrainConfig:
    """The config for this start: one by `torchrun --max-restarts` goes on from where the last one got to."""
    if not int(os.environ.get(RESTARTS, "0")) or agent() not in _recorded(config.run):
        return config
    config = replace(config, resume="auto")
    written = config.run / CONFIG
    if config.resume_from is not None and written.is_file():
        before = json.loads(written.read_text(encoding="utf-8"))["train"]["resume_from"]
        if before == str(config.resume_from):  # the first start took it up as last.pt
            return replace(config, resume_from=None)
    return config


def agent() -> str:
    """The torchrun process that started this one, as no other is called: its run's id, machine's start, number, start.

    The id alone would not do: it may be given by hand, and is `none` by default.
    """
    parent = os.getppid()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    # The name of the program, in brackets, may hold spaces; behind it, the start is the 20th field.
    start = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return f"{os.environ.get(RUN_ID, '')} {boot} {parent} {start}"


def agents_of_all(control: Control) -> list[str] | None:
    """The torchrun processes of all ranks, since rank 0 may be another's after a restart; None without torchrun."""
    if RUN_ID not in os.environ:
        return None
    if control.mesh.control_group is None:
        return [agent()]
    found = [""] * control.mesh.world
    dist.all_gather_object(found, agent(), group=control.mesh.control_group)
    return sorted(set(found))


def record_agents(run: Path, agents: list[str]) -> None:
    """Note in the run's folder who may go on with it by itself."""
    run.mkdir(parents=True, exist_ok=True)
    write_whole(run / AGENTS, json.dumps(agents) + "\n")


def _recorded(run: Path) -> list[str]:
    path = run / AGENTS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
