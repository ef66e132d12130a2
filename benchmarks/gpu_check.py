"""What works on this node's GPUs, and how fast: `python -m benchmarks.gpu_check [--out DIR] [--device cuda|cpu]`.

Enters: the node, and photographs (`data.py`). Leaves: `gpu_check.json` and `gpu_check.md`, one page that fits an issue,
within `--minutes`: environment, correctness beside the CPU, throughput, the fastest options, and the hours that
ImageNet takes with them. A part that fails is reported and the others go on. With `--device cpu` the same program
runs over gloo, in small sizes: a rehearsal. Exit status: 0 all is well, 1 a part failed or differs.
"""

import dataclasses
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import data
from benchmarks.gpu_parts import FULL_SIZE, PARTS, Finding, Node
from benchmarks.processes import FIRST_STEP, own_process
from benchmarks.results import write_both
from benchmarks.scaling import SPARE
from common.command_line import flag, option, parse_config
from common.errors import UserError, run_command

PART_SECONDS = 240.0  # the most for one part
LOADED = 4096  # the fewest samples of an epoch that tells how fast a GPU's loader is


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Options of the command line."""

    out: Path = option("folder for gpu_check.json and gpu_check.md", Path("build/gpu-check"))
    device: Literal["cuda", "cpu"] = option("cpu: a rehearsal in small sizes", "cuda")
    minutes: float = option("parts that would begin later are left out", 10.0)


def check(node: Node, minutes: float) -> dict[str, Finding]:
    """All parts, each in a process of its own; the options that are fastest are those of the later parts."""
    findings, end = {}, time.perf_counter() + 60 * minutes
    for part in PARTS:
        name = part.__name__
        left = min(PART_SECONDS, end - time.perf_counter())
        if left < 0:
            findings[name] = Finding(state="left out", lines=[f"no time left of {minutes:g} minutes"])
            continue
        sys.stderr.write(f"{name} …\n")
        findings[name] = run_part(part, node, max(30.0, left))
        node = dataclasses.replace(node, options=fastest(findings))
    return findings


def run_part(part: Callable[[Node], Finding], node: Node, seconds: float) -> Finding:
    """What the part found in a process of its own, or how it failed."""
    start, finding = time.perf_counter(), Finding(state="failed")
    with own_process(part.__module__, FIRST_STEP) as process:
        try:
            finding = process.submit(part, node).result(seconds)
        except TimeoutError:
            finding.lines.append(f"no answer for {seconds:.0f} seconds")
        except Exception as error:  # noqa: BLE001  whatever it is, the other parts go on
            finding.lines.append(f"{type(error).__name__}: {error}")
    finding.seconds = time.perf_counter() - start
    return finding


def fastest(findings: dict[str, Finding]) -> dict[str, Any]:
    """Options of train.py: the precision and decoder, compiled or not, that gave most images/s so far."""
    options: dict[str, Any] = {}
    for part in ("stepping", "loading", "together"):
        figures = findings[part].figures.values() if part in findings else ()
        with_options = [figure for figure in figures if figure.get("options")]
        if with_options:
            options |= max(with_options, key=lambda figure: figure["images_per_second"])["options"]
    return options


def page(node: Node, findings: dict[str, Finding], options: dict[str, Any]) -> str:
    """The Markdown page."""
    here = findings["environment"].figures
    what = f"{node.gpus} × {here['gpus'][0]}" if here.get("gpus") else "CPU only (a rehearsal in small sizes)"
    lines = [f"# GPU check: {what}", "", "| part | state | seconds | found |", "|---|---|---|---|"]
    for name, finding in findings.items():
        lines.append(f"| {name} | {finding.state} | {finding.seconds:.0f} | {'<br>'.join(finding.lines)} |")
    flags = [flag(name) if value is True else f"{flag(name)}={value}" for name, value in options.items() if value]
    lines += ["", f"Fastest here: `train.py {' '.join(flags)}`", ""]
    return "\n".join([*lines, "```", str(here.get("driver", "")), "", str(here.get("topology", "")), "```", ""])


def run(config: CheckConfig) -> int:
    """Check, write both files, print the page. Returns the exit status."""
    gpus, small = torch.cuda.device_count(), config.device == "cpu"
    if not small and not gpus:
        raise UserError("torch sees no GPU here; --device cpu rehearses the check without one")
    node = Node(shards=Path(), raw=Path(), **({} if small else {"gpus": gpus, "processes": gpus, **FULL_SIZE}))
    samples = max(LOADED if node.gpus else 0, node.batch * node.processes * (node.steps + SPARE))
    shards, raw = data.shards(samples), data.shards(samples // 4, encoding="raw")
    node = dataclasses.replace(node, shards=shards.path.parent, raw=raw.path.parent)
    findings = check(node, config.minutes)
    options = fastest(findings)
    parts = {name: dataclasses.asdict(finding) for name, finding in findings.items()}
    document = {"device": config.device, "gpus": node.gpus, "fastest": options, "parts": parts}
    write_both(config.out / "gpu_check", document, page(node, findings, options))
    return int(any(finding.state in ("failed", "differs") for finding in findings.values()))


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    config = parse_config(CheckConfig, arguments, "python -m benchmarks.gpu_check", __doc__.splitlines()[0])
    logging.basicConfig(level=logging.WARNING)
    return run_command(lambda: run(config))


if __name__ == "__main__":
    sys.exit(main())
