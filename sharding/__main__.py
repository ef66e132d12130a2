"""`python -m sharding pack SRC OUT`, `verify DIR`, `show DIR`, `copy SRC DST`. Exit: 0 done, 1 failed, 2 wrong line."""

import errno
import importlib
import io
import logging
import sys
from pathlib import Path
from typing import Any

from common.command_line import Parser, add_options
from common.errors import run_command
from sharding.options import CopyOptions, PackOptions, ShowOptions, VerifyOptions
from sharding.record import ShardError

_COMMANDS: dict[str, tuple[type, str, str]] = {
    "pack": (PackOptions, "packing", "source pictures → shards"),
    "verify": (VerifyOptions, "verify", "read everything again and name each fault"),
    "show": (ShowOptions, "show", "a summary and a contact sheet"),
    "copy": (CopyOptions, "copying", "packed splits → another folder or object store, each file checked on its way"),
}
"""Of each command: its options, the module with the function of its name, and what it does."""

_ABOUT_PACKING = """Pack class folders, a flat folder of <wnid>_<id>.JPEG, the official archives, Kaggle's tree or the
parquet files of Hugging Face, all read in place, into OUT/<split>/: shorter side to 256, central 256×256, JPEG. A job
that was stopped or killed carries on when the same command is given again. EXIF orientation and color profiles are
ignored, as in every ImageNet baseline; transparent pictures are laid on white. What cannot be decoded is listed under
"rejects" in manifest.json."""
_GO_ON = "finished shards are kept"
_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. What a command needs is imported once its line is known to be right."""
    parser = Parser(prog="python -m sharding", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (config, _, summary) in _COMMANDS.items():
        about = _ABOUT_PACKING if name == "pack" else summary
        add_options(commands.add_parser(name, help=summary, allow_abbrev=False, description=about), config)
    given = vars(parser.parse_args(arguments))
    command = given.pop("command")
    try:
        options = _COMMANDS[command][0](**given)
    except ValueError as error:
        parser.error(str(error))
    level = logging.WARNING if getattr(options, "quiet", False) else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    interrupted = f"\ninterrupted; {_GO_ON}: run the same command again to carry on" if command == "pack" else ""
    return run_command(lambda: _run(command, options), interrupted or "\ninterrupted")


def _run(command: str, options: Any) -> int:
    function = getattr(importlib.import_module(f"sharding.{_COMMANDS[command][1]}"), command)
    if command != "pack":
        status: int = function(**vars(options))
        return status
    try:
        folders = function(options)
    except OSError as error:
        if error.errno not in _OUT_OF_ROOM:
            raise
        what = f"{error.filename or options.out}: {error.strerror}; {_GO_ON}"
        raise ShardError(f"{what}: mend that, and run the same command again") from None
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path that this locale cannot write must not be the last error
        sys.stdout.reconfigure(errors="backslashreplace")
    for folder in folders:
        sys.stdout.write(f"packed {folder}: {_outcome(folder)}\n")
    return 0


def _outcome(folder: Path) -> str:
    """What became of every entry of the source, in words."""
    from sharding.manifest import Manifest

    manifest = Manifest.load(folder / "manifest.json")
    skipped = "".join(f"; {row['entries']} × {row['reason']} ({row['first']})" for row in manifest.skipped)
    count = sum(row["entries"] for row in manifest.skipped)
    return f"{manifest.samples} samples, {len(manifest.rejects)} rejects, {count} skipped{skipped}"


if __name__ == "__main__":
    sys.exit(main())
