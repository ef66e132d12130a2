"""How a command line ends: what is printed, and the exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError, run_command

ROOT = Path(__file__).resolve().parents[2]


class DamagedError(UserError):
    pass


@pytest.mark.parametrize(("raised", "printed"), [
    (UserError("a.tar: cut short"), "error: a.tar: cut short\n"),
    (DamagedError("b.tar: cut short"), "error: b.tar: cut short\n"),  # any kind of it
    (FileNotFoundError(2, "No such file or directory", "c.tar"), "error: c.tar: No such file or directory\n"),
    (OSError(28, "No space left on device"), "error: No space left on device\n"),
    (OSError("no errno"), "error: no errno\n"),
    (MemoryError(), "error: out of memory\n"),
    (MemoryError("9 GB asked for"), "error: 9 GB asked for\n"),
    (BrokenPipeError(32, "Broken pipe"), "error: Broken pipe\n"),  # a worker's pipe: our output is still read
])  # fmt: skip
def test_what_a_user_can_mend_is_one_line_and_status_1(
    raised: BaseException, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise raised

    assert run_command(fail) == 1
    assert capsys.readouterr().err == printed
    assert run_command(fail, who=" on process 3") == 1
    assert capsys.readouterr().err == printed.replace("error:", "error on process 3:", 1)


def test_the_status_of_the_work_and_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    assert [run_command(lambda status=status: status) for status in (0, 1, 75)] == [0, 1, 75]
    assert run_command(interrupt, "stopped; the same command goes on") == 130
    assert capsys.readouterr().err == "stopped; the same command goes on\n"


def test_our_own_faults_keep_their_traceback() -> None:
    def fail() -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_command(fail)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_gone_ends_the_program_without_a_word(stream: str) -> None:
    """As `… | head -1` and `… 2>&1 | head -1` do: far more output than a pipe holds, and nobody reads it."""
    script = (
        "import sys; from common.errors import run_command\n"
        f"sys.exit(run_command(lambda: sys.{stream}.write('line\\n' * 100_000) and 0))"
    )
    read, write = os.pipe()
    os.close(read)
    other = "stderr" if stream == "stdout" else "stdout"
    streams = {stream: write, other: subprocess.PIPE}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, text=True, **streams)  # type: ignore[call-overload]
    os.close(write)
    assert done.returncode == 141
    assert getattr(done, other) == ""
