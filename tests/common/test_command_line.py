"""Command lines from dataclasses: what is typed, what it becomes, and what is said of a wrong one."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from common import __version__
from common.command_line import option, parse_config

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Options:
    source: Path = option("where from", metavar="SRC", positional=True)
    shards: Path = option("where the shards are")
    batch_size: int = option("images a step", 128)
    rate: float | None = option("at most 100% of it", None)
    device: Literal["cpu", "cuda"] = option("where", "cpu")
    names: tuple[str, ...] = option("parts", ())
    dry_run: bool = option("only say", False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is at least 1, got {self.batch_size}")


def parse(*arguments: str) -> Options:
    return parse_config(Options, arguments, "prog", "What it does.")


@pytest.mark.parametrize(("typed", "changes"), [
    ("", {}),
    ("--batch-size 7", {"batch_size": 7}),
    ("--rate 1e-3", {"rate": 0.001}),
    ("--device cuda", {"device": "cuda"}),
    ("--names a b", {"names": ("a", "b")}),
    ("--dry-run", {"dry_run": True}),
])  # fmt: skip
def test_what_is_typed_becomes_the_config(typed: str, changes: dict[str, object]) -> None:
    expected = Options(source=Path("src"), shards=Path("s"), **changes)  # type: ignore[arg-type]
    assert parse("src", "--shards", "s", *typed.split()) == expected


@pytest.mark.parametrize(("typed", "message"), [
    ("src", "the following arguments are required: --shards"),
    ("--shards s", "the following arguments are required: SRC"),
    ("src --shards s --batch-size x", "argument --batch-size: invalid int value: 'x'"),
    ("src --shards s --batch-size 0", "--batch-size is at least 1, got 0"),
    ("src --shards s --device tpu", "argument --device: invalid choice: 'tpu'"),
    ("src --shards s --names", "argument --names: expected at least one argument"),
    ("src --shards s --color", "unrecognized arguments: --color"),
])  # fmt: skip
def test_a_wrong_command_line_is_one_line_and_status_2(
    typed: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*typed.split())
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.startswith(f"error: {message}") and printed.endswith(" (prog --help lists the options)\n")
    assert printed.count("\n") == 1


def test_help_tells_defaults_and_what_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for line in (
        "SRC where from",
        "--shards PATH where the shards are (required)",
        "--batch-size N images a step (default: 128)",
        "--rate X at most 100% of it",
        "--names TEXT [TEXT ...] parts",
        "--device {cpu,cuda} where (default: cpu)",
        "--dry-run only say",
        "--version show program's version number and exit",
    ):
        assert line in text
    assert "None" not in text and "()" not in text


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--version")
    assert ended.value.code == 0 and capsys.readouterr().out == f"alexnet-2012 {__version__}\n"
    dynamic = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]
    assert dynamic["version"] == {"attr": "common.__version__"} and __version__.count(".") == 2
