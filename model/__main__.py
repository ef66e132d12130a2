"""`python -m model export RUN FILE.safetensors [--checkpoint last|best]`: the weights for use elsewhere.

Exit status: 0 done, 1 failed, 2 wrong command line.
"""

import sys
from pathlib import Path

from common.command_line import Parser
from common.errors import run_command
from model.export import export


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = Parser(prog="python -m model")
    exporting = parser.add_subparsers(required=True).add_parser("export", help="checkpoint → one safetensors file")
    exporting.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    exporting.add_argument("file", type=Path, metavar="FILE.safetensors", help="what to write; replaced if it is there")
    exporting.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which (default: last)")
    options = parser.parse_args(arguments)
    if options.file.suffix != ".safetensors":
        parser.error(f"FILE is {options.file}, expected a name that ends in .safetensors")

    def work() -> int:
        target = export(options.run, options.file, options.checkpoint)
        sys.stdout.write(f"exported {target} ({target.stat().st_size:,} bytes)\n")
        return 0

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
