"""`python -m model export RUN FILE.safetensors [--checkpoint last|best]`: the weights for use elsewhere.

Exit status: 0 done, 1 failed, 2 wrong command line.
"""

import argparse
import sys
from pathlib import Path

from model.checkpoint import CheckpointError
from model.export import export


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m model", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export", help="checkpoint → one safetensors file", allow_abbrev=False)
    exporting.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    exporting.add_argument("file", type=Path, metavar="FILE.safetensors", help="what to write; replaced if it is there")
    exporting.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which (default: last)")
    given = parser.parse_args(arguments)
    if given.file.suffix != ".safetensors":
        parser.error(f"FILE is {given.file}, expected a name that ends in .safetensors")
    try:
        target = export(given.run, given.file, given.checkpoint)
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"exported {target} ({target.stat().st_size:,} bytes)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
