"""What works on this node's GPUs, and how fast: `python -m benchmarks.gpu_check [--out DIR] [--device cuda|cpu]`.

Enters: the node, and photographs (`data.py`). Leaves: `gpu_check.json` and `gpu_check.md`, one page that fits an issue,
within `--minutes`: environment, correctness beside the CPU, throughput, the fastest options, and the hours that
ImageNet takes with them. A part that fails is reported and the others go on. With `--device cpu` the same program
runs over gloo, in small sizes: a rehearsal. Exit status: 0 all is well, 1 a part failed or differs.
"""

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import data
from benchmarks.gpu_parts import PARTS, Finding, Node, prepared
from benchmarks.processes import Worker, WorkerError
from benchmarks.results import write
from benchmarks.timed_training import command_line
from common.command_line import Parser, add_options, option, parse_config
from common.errors import UserError, run_command

PART_SECONDS = 240.0  # the most for one part
STEPS = 16  # in an epoch of all GPUs together


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
        node = dataclasses.replace(node, options=fastest(findings, node))
    return findings


def run_part(part: Callable[[Node], Finding], node: Node, seconds: float) -> Finding:
    """What the part found, or how it failed."""
    start, finding = time.perf_counter(), Finding(state="failed")
    with Worker(part.__name__, prepared, part, node, seconds=seconds) as worker:
        try:
            worker.await_ready()
            finding = worker.call("__call__")
        except WorkerError:
            finding.lines.append(worker.missing)
    finding.seconds = time.perf_counter() - start
    return finding


def fastest(findings: dict[str, Finding], node: Node) -> dict[str, Any]:
    """Options of train.py: the precision and decoder, compiled or not, that gave most images/s so far."""
    options: dict[str, Any] = {}
    for part in ("stepping", "together"):
        figures = findings[part].figures if part in findings else {}
        if figures:
            options |= max(figures.values(), key=lambda figure: figure["images_per_second"])["options"]
    rates = findings["loading"].figures if "loading" in findings else {}
    decoders = {name: decode for name, (decode, _) in node.decoders().items() if name in rates}
    if node.gpus and decoders:
        options["decode"] = decoders[max(decoders, key=lambda name: rates[name]["images_per_second"])]
    return options


def page(node: Node, findings: dict[str, Finding], options: dict[str, Any]) -> str:
    """The Markdown page."""
    here = findings["environment"].figures
    what = f"{node.gpus} × {here['gpus'][0]}" if here.get("gpus") else "CPU only (a rehearsal in small sizes)"
    lines = [f"# GPU check: {what}", "", "| part | state | seconds | found |", "|---|---|---|---|"]
    for name, finding in findings.items():
        lines.append(f"| {name} | {finding.state} | {finding.seconds:.0f} | {'<br>'.join(finding.lines)} |")
    lines += [
        "",
        f"Fastest here: `train.py {' '.join(command_line(options))}`",
        "",
        "```",
        str(here.get("driver", "")),
        "",
    ]
    return "\n".join([*lines, str(here.get("topology", "")), "```", ""])


def run(config: CheckConfig) -> int:
    """Check, write both files, print the page. Returns the exit status."""
    gpus, small = torch.cuda.device_count(), config.device == "cpu"
    if not small and not gpus:
        raise UserError("torch sees no GPU here; --device cpu rehearses the check without one")
    samples = 32 if small else max(4096, 128 * gpus * STEPS)
    shards, raw = data.shards(samples), data.shards(samples // 4, encoding="raw")
    folders = shards.path.parent, raw.path.parent
    node = Node(shards=folders[0], raw=folders[1]) if small else Node.of_gpus(gpus, *folders)
    findings = check(node, config.minutes)
    options = fastest(findings, node)
    parts = {name: dataclasses.asdict(finding) for name, finding in findings.items()}
    document = {"device": config.device, "gpus": node.gpus, "fastest": options, "parts": parts}
    write(config.out / "gpu_check.json", json.dumps(document, indent=1, default=str) + "\n")
    text = page(node, findings, options)
    write(config.out / "gpu_check.md", text)
    sys.stdout.write(text)
    return int(any(finding.state in ("failed", "differs") for finding in findings.values()))


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = Parser(prog="python -m benchmarks.gpu_check", description=__doc__.splitlines()[0])
    add_options(parser, CheckConfig)
    config = parse_config(parser, CheckConfig, arguments)
    logging.basicConfig(level=logging.WARNING)
    return run_command(lambda: run(config))


if __name__ == "__main__":
    sys.exit(main())
