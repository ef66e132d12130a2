"""The section on what the run is: options, data, versions and checksums, a row each."""

from collections.abc import Mapping
from typing import Any

from evaluation.trained_run import TrainedRun
from model.checkpoint import versions
from report.page import Section, Table


def configuration_section(run: TrainedRun, evaluation: Mapping[str, Any] | None) -> Section:
    """Config, versions and checksums."""
    state, data = run.state, run.state["dataset"]
    rows = [
        *option_rows(run),
        ("training data", f"{data['shards']} ({data['samples']} images, {len(data['classes'])} classes)"),
        ("training data, checksum", data["fingerprint"]),
        ("checkpoint", str(run.checkpoint)),
        ("checkpoint, SHA-256", run.checksum()),
    ]
    if evaluation is not None:
        held_out = evaluation["dataset"]
        rows += [
            ("evaluated data", f"{held_out['shards']} ({held_out['samples']} images)"),
            ("evaluated data, checksum", held_out["fingerprint"]),
            ("evaluated checkpoint, SHA-256", evaluation["checkpoint"]["sha256"]),
        ]
    for when, packages in (("trained with", state["versions"]), ("this page made with", versions())):
        rows.append((when, ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))))
    return Section(
        name="configuration",
        title="Configuration, versions, checksums",
        blocks=[Table(header=("what", "value"), rows=rows)],
    )


def option_rows(run: TrainedRun) -> list[tuple[str, str]]:
    """(option, value) of training and network, in order."""
    return [
        (f"{room}: {name}", str(value))
        for room, key in (("train", "train_config"), ("model", "model_config"))
        for name, value in sorted(run.state[key].items())
    ]
