"""`python -m sharding pack SRC OUT`, `verify DIR`, `show DIR`. Exit status: 0 done, 1 failed, 2 wrong command line."""

import argparse
import errno
import logging
import sys
import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from sharding.errors import ShardError
from sharding.options import CORES, MAX_WORKERS, PackOptions
from sharding.pack import pack
from sharding.show import show

_CARRY_ON = "; finished shards are kept: mend that, and run the same command again"
_HINTS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO), _CARRY_ON)


_METAVARS: dict[type, str] = {int: "N", str: "ADDRESS", Path: "PATH"}
_PACKING = """Pack class folders, a flat folder of <wnid>_<id>.JPEG, the official archives, Kaggle's tree or Hugging
Face's parquet files, all read in place, into OUT/<split>/: shorter side to 256, central 256×256, JPEG. A job that was
stopped or killed carries on when the same command is given again."""
_EPILOG = """EXIF orientation and color profiles are ignored, as in every ImageNet baseline. Transparent pictures are
laid on white. What cannot be decoded is listed under "rejects" in manifest.json."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    command = given.pop("command")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if command == "pack":
            return _pack(parser, given)
        return _check(parser, given) if command == "verify" else _show(parser, given)
    except ShardError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(
            f"error: {error.filename or command}: {error.strerror or error}{_HINTS.get(error.errno or 0, '')}\n"
        )
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; finished shards are kept: run the same command again to carry on\n")
        return 130


def _pack(parser: argparse.ArgumentParser, given: dict[str, Any]) -> int:
    try:
        options = PackOptions(**given)
    except ValueError as error:
        parser.error(str(error))
    for folder in pack(options):
        sys.stdout.write(f"packed {folder}\n")
    return 0


def _check(parser: argparse.ArgumentParser, given: dict[str, Any]) -> int:
    if not 1 <= given["workers"] <= MAX_WORKERS:
        parser.error(f"--workers {given['workers']}: must be from 1 to {MAX_WORKERS}")
    from sharding.verify import verify  # here, since webdataset imports torch, which packing has no need of

    return verify(**given)


def _show(parser: argparse.ArgumentParser, given: dict[str, Any]) -> int:
    if given["png"] is not None and given["png"].suffix.lower() != ".png":
        parser.error(f"--png {given['png']}: the contact sheet is a PNG; give a name that ends in .png")
    return show(**given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sharding", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser(
        "pack", help="source pictures → shards", allow_abbrev=False, description=_PACKING, epilog=_EPILOG
    )
    packing.add_argument("source", metavar="SRC", type=Path)
    packing.add_argument("out", metavar="OUT", type=Path)
    _add_fields(packing)
    verifying = commands.add_parser("verify", help="read everything again and name each fault")
    verifying.add_argument("folder", metavar="DIR", type=Path)
    verifying.add_argument("--workers", type=int, default=CORES, help="worker processes")
    showing = commands.add_parser("show", help="a summary and a contact sheet")
    showing.add_argument("folder", metavar="DIR", type=Path)
    showing.add_argument(
        "--png", metavar="FILE", type=Path, help="where the contact sheet goes (default DIR's name.png)"
    )
    showing.add_argument("--samples", type=int, default=40, help="pictures on the sheet")
    return parser


def _add_fields(parser: argparse.ArgumentParser) -> None:
    """One option for each field of PackOptions that has a default: its name, type, default and help."""
    kinds = typing.get_type_hints(PackOptions)
    for entry in fields(PackOptions):
        if entry.default is MISSING:
            continue
        name, kind, text = "--" + entry.name.replace("_", "-"), kinds[entry.name], entry.metadata["help"]
        if typing.get_origin(kind) in (types.UnionType, typing.Union):
            kind = next(part for part in typing.get_args(kind) if part is not type(None))
        elif entry.default is not False:
            text += f" (default {entry.default})"
        if kind is bool:
            parser.add_argument(name, action="store_true", help=text)
        elif typing.get_origin(kind) is typing.Literal:
            parser.add_argument(name, choices=typing.get_args(kind), default=entry.default, help=text)
        else:
            parser.add_argument(name, type=kind, default=entry.default, help=text, metavar=_METAVARS[kind])


if __name__ == "__main__":
    sys.exit(main())
