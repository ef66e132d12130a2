"""`python -m benchmarks loader pack step tenpatch cold [--quick] [--out DIR]`: measures, prints, writes.

Each benchmark is a module of this package with `run(quick, out)`; it leaves JSON, a table and a plot in `out`. A full
run into the default folder also puts the tables into the README.
"""

import argparse
import importlib
import logging
import sys
from pathlib import Path

from benchmarks.readme import update

NAMES = ("loader", "pack", "step", "tenpatch", "cold")
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: all five in ninety seconds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in options.names or NAMES:
        logging.info("benchmark %s", name)
        importlib.import_module(f"benchmarks.{name}").run(quick=options.quick, out=options.out)
    if not options.quick and options.out == RESULTS:
        update(RESULTS.parents[1] / "README.md", RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
