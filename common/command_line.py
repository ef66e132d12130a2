"""Command lines made from dataclasses: a frozen config class in, its options on a parser, a checked config out.

Each field made by `option` is an option: its name, type, default and help. A field without a default is required;
one whose type is `tuple[T, ...]` takes one value or more.
"""

import argparse
import operator
import os
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from common import __version__

Config = TypeVar("Config")
_METAVARS: dict[type, str] = {Path: "PATH", int: "N", float: "X", str: "TEXT"}
_BOUNDS = {"least": ("at least", operator.ge), "above": ("above", operator.gt), "most": ("at most", operator.le)}


def option(help_text: str, default: Any = MISSING, **metadata: Any) -> Any:
    """A dataclass field that is an option; `metavar` in `metadata` names its value, `positional` makes it one.

    `least`, `above` and `most` in `metadata` bound a number, as `check_options` holds.
    """
    return field(default=default, metadata={"help": help_text, **metadata})


def flag(name: str) -> str:
    """`--batch-size` of `batch_size`."""
    return "--" + name.replace("_", "-")


def check_options(config: Any, named: Callable[[str], str] = flag) -> None:
    """Raise ValueError, naming option (as `named` does) and value, for a field outside its Literal or its bounds."""
    hints = get_type_hints(type(config))
    for item in fields(config):
        hint, value, bounds = _without_none(hints[item.name]), getattr(config, item.name), item.metadata
        if value is None and hint is not hints[item.name]:
            continue
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{named(item.name)} is one of {', '.join(map(str, get_args(hint)))}, got {value!r}")
        for name, (words, holds) in _BOUNDS.items():
            if name in bounds and not holds(value, bounds[name]):
                raise ValueError(f"{named(item.name)} is {words} {bounds[name]}, got {value!r}")


def _without_none(hint: Any) -> Any:
    """`T` of `T | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def as_typed(options: str) -> str:
    """Options for an error's advice, in the form in which they are typed: `--workers 2`; under make `ARGS='…'`."""
    return f"ARGS='{options}'" if "MAKELEVEL" in os.environ else options


class Parser(argparse.ArgumentParser):
    """A parser that knows --version, and ends a wrong command line with one line and exit status 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--version", action="version", version=f"alexnet-2012 {__version__}")

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: {message} ({self.prog} --help lists the options)\n")
        sys.exit(2)


def add_options(parser: argparse.ArgumentParser, config: type) -> None:
    """Add one argument to `parser` for each field of the dataclass `config`."""
    hints = get_type_hints(config)
    for item in fields(config):
        hint, name, default = _without_none(hints[item.name]), flag(item.name), item.default
        remark = "" if default in (None, False, ()) else f" (default: {default})"
        arguments: dict[str, Any] = {"default": default}
        if item.metadata.get("positional"):
            name, remark, arguments = item.name, "", {}
        elif default is MISSING:
            remark, arguments = " (required)", {"required": True}
        arguments["help"] = item.metadata["help"].replace("%", "%%") + remark
        if get_origin(hint) is tuple:
            hint, arguments["nargs"] = get_args(hint)[0], "+"
        if hint is bool:
            arguments["action"] = "store_true"
        elif get_origin(hint) is Literal:
            arguments["choices"] = get_args(hint)
        else:
            metavar = item.metadata.get("metavar", _METAVARS[hint])
            arguments |= {"type": path if hint is Path else hint, "metavar": metavar}
        parser.add_argument(name, **arguments)


def path(text: str) -> Path:
    """A path of the command line. ValueError for an empty one (a shell's unset variable), which would mean `.`."""
    if not text:
        raise ValueError("a path without a name")
    return Path(text)


def parse_config(config: type[Config], arguments: Sequence[str] | None, prog: str, description: str) -> Config:
    """The checked `config` of a command line (None: this process's). Exits with 2 and one line if it is wrong."""
    parser = Parser(prog=prog, description=description)
    add_options(parser, config)
    values = vars(parser.parse_args(arguments))
    try:
        return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except ValueError as error:
        parser.error(str(error))
