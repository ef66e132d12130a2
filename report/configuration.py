"""The sections on what a run is (options, data, versions, checksums), and on what several runs differ in."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.trained_run import TrainedRun
from model.checkpoint import versions
from report.page import Section, Table


def configuration_section(run: TrainedRun, evaluation: Mapping[str, Any] | None) -> Section:
    """Config, versions and checksums, a row each."""
    data = run.state["dataset"]
    rows = [
        *_option_rows(run),
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
    for when, packages in (("trained with", run.state["versions"]), ("this page made with", versions())):
        rows.append((when, ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))))
    table = Table(header=("what", "value"), rows=rows)
    return Section("configuration", "Configuration, versions, checksums", blocks=[table])


def differences_section(runs: Sequence[TrainedRun]) -> Section:
    """The options in which the runs differ; `run_dir` is left out, since it always does."""
    tables = [
        dict(_option_rows(run)) | {"training data, checksum": run.state["dataset"]["fingerprint"]} for run in runs
    ]
    names = [name for name in dict.fromkeys(name for table in tables for name in table) if name != "train: run_dir"]
    rows = [(name, *(table.get(name, "–") for table in tables)) for name in names]
    different = [row for row in rows if len(set(row[1:])) > 1]
    if not different:
        return Section("options", "Options", ["All options are the same."])
    table = Table(header=("option", *(str(run.path) for run in runs)), rows=different)
    sentence = f"The other {len(rows) - len(different)} options are the same."
    return Section("options", "Options that differ", [sentence], [table])


def _option_rows(run: TrainedRun) -> list[tuple[str, str]]:
    """(option, value) of training and network, in order."""
    return [
        (f"{room}: {name}", str(value))
        for room in ("train", "model")
        for name, value in sorted(run.state[f"{room}_config"].items())
    ]
