"""`python -m report --run-dir DIR`: writes DIR/report.html, which opens from disk, and its charts DIR/report/*.svg

python -m report --run-dir DIR --baseline DIR         with the difference to another run
python -m report --compare DIR DIR… [--out FILE]      several runs side by side, in the first one's compare.html
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.command_line import check_options, option, parse_config
from common.errors import run_command
from evaluation import CheckpointOptions

MOST_COMPARED = 6  # colors that can be told apart


@dataclass(frozen=True, kw_only=True)
class ReportOptions(CheckpointOptions):
    """The command line. Raises ValueError, naming the option, for a value that cannot work."""

    run_dir: Path | None = option("the run's folder (or give --compare)", None, metavar="DIR")
    baseline: Path | None = option("a run to tell the difference to", None, metavar="DIR")
    compare: tuple[Path, ...] = option("runs to put side by side, the first as baseline", (), metavar="DIR")
    out: Path | None = option("the page; none: report.html or compare.html in the (first) run's folder", None)
    neighbors_among: int = option("training images to search for neighbors, from the first", 5000, least=1)
    quiet: bool = option("nothing on the screen but errors", False)

    def __post_init__(self) -> None:
        check_options(self)
        if self.out is not None and self.out.suffix != ".html":
            raise ValueError(f"--out is a page whose name ends in .html, got {self.out}")
        if (self.run_dir is None) == (not self.compare):
            raise ValueError("give either --run-dir DIR or --compare DIR DIR…")
        if self.compare and not 2 <= len(self.compare) <= MOST_COMPARED:
            raise ValueError(f"--compare takes 2 to {MOST_COMPARED} runs, got {len(self.compare)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 done, 1 the work failed (2, a wrong command line, exits)."""
    about = "A page on a trained run, or on several side by side."
    options = parse_config(ReportOptions, arguments, "python -m report", about)

    def work() -> int:
        from report.build import make_page  # torch and matplotlib take seconds: --help and a wrong option do not wait

        return make_page(options)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
