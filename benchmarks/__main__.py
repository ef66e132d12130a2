"""`python -m benchmarks [NAME …] [--quick] [--out DIR]`: measures, prints, writes.

Each benchmark is a module of this package with `run(quick)`; its JSON, table and plot are left in `out`. A full
run into the default folder also renews the tables in `benchmarks/README.md` and the headline figures in `README.md`.
"""

import importlib
import logging
import subprocess
import sys
from pathlib import Path

from benchmarks.results import update
from common.command_line import Parser, path
from common.errors import run_command

NAMES = ("loader", "pack", "step", "tenpatch", "cold")
ALL_NAMES = (*NAMES, "scaling")  # which takes long and tells most where there are several GPUs
RESULTS = Path(__file__).parent / "results"
QUICK_RESULTS = RESULTS.parents[1] / "build" / "quick"  # so that a smoke run replaces nothing that was published


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 done, 1 a benchmark failed (2, a wrong command line, exits)."""
    parser = Parser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    which = f"which: {', '.join(ALL_NAMES)} (default: all but the last)"
    parser.add_argument("names", nargs="*", metavar="NAME", choices=ALL_NAMES, help=which)
    parser.add_argument("--quick", action="store_true", help="a smoke run: all of them in ninety seconds")
    where = "folder for the results (default: benchmarks/results; --quick: build/quick)"
    parser.add_argument("--out", type=path, help=where)
    options = parser.parse_args(arguments)
    names, out = options.names or NAMES, options.out or (QUICK_RESULTS if options.quick else RESULTS)
    if len(names) == 1:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        return run_command(lambda: run(names[0], options.quick, out))
    failed = []
    for name in names:  # each in a process of its own, so that none finds what another left in memory
        sys.stderr.write(f"benchmark {name}\n")
        command = [sys.executable, "-m", "benchmarks", name, *["--quick"] * options.quick]
        command += ["--out", str(options.out)] if options.out else []
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        sys.stderr.write(f"error: failed: {', '.join(failed)}\n")
    return int(bool(failed))


def run(name: str, quick: bool, out: Path) -> int:
    """One benchmark; the tables of a full run into the default folder go to both README files."""
    importlib.import_module(f"benchmarks.{name}").run(quick).publish(name, quick, out)
    if not quick and out.resolve() == RESULTS:
        for readme in (RESULTS.parent / "README.md", RESULTS.parents[1] / "README.md"):
            update(readme, RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
