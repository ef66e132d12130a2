"""`python -m report --run-dir DIR`: writes DIR/report.html, which opens from disk, and its charts DIR/report/*.svg

python -m report --run-dir DIR --baseline DIR         with the difference to another run
python -m report --compare DIR DIR… [--out FILE]      several runs side by side, in the first one's compare.html
"""

import sys
from collections.abc import Sequence

from common.command_line import parse_config
from common.errors import run_command
from report import ReportOptions


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
