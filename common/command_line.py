"""Command lines made from dataclasses: a frozen config class in, its options on a parser, a checked config out.

Each field made by `option` is an option: its name, type, default and help. A field without a default is required;
one whose type is `tuple[T, ...]` takes one value or more.
"""

import argparse
import os
import sys
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from common import __version__

Config = TypeVar("Config")
_METAVARS: dict[type, str] = {Path: "PATH", int: "N", float: "X", str: "TEXT"}


def option(help_text: str, default: Any = MISSING, **metadata: Any) -> Any:
    """A dataclass field that is an option; `metavar` in `metadata` names its value, `positional` makes it one.

    `least`, `above` and `most` in `metadata` bound a number, as `check_options` holds.
    """
    return field(default=default, metadata={"help": help_text, **metadata})


def flag(name: str) -> str:
    """`--batch-size` of `batch_size`."""
    return "--" + name.replace("_", "-")


def check_options(config: Any) -> None:
    """Raise ValueError, naming option and value, for a field that is none of its Literal's or out of its bounds."""
    hints = get_type_hints(type(config))
    for item in fields(config):
        hint, value, bounds = _without_none(hints[item.name]), getattr(config, item.name), item.metadata
        if value is None and hint is not hints[item.name]:
            continue
        rules = {
            f"is one of {', '.join(map(str, get_args(hint)))}": get_origin(hint) is not Literal
            or value in get_args(hint),
            f"is at least {bounds.get('least')}": "least" not in bounds or value >= bounds["least"],
            f"is above {bounds.get('above')}": "above" not in bounds or value > bounds["above"],
            f"is at most {bounds.get('most')}": "most" not in bounds or value <= bounds["most"],
        }
        for rule, holds in rules.items():
            if not holds:
                raise ValueError(f"{flag(item.name)} {rule}, got {value!r}")


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
        _add_option(parser, item, hints[item.name])


def path(text: str) -> Path:
    """A path of the command line. ValueError for an empty one (a shell's unset variable), which would mean `.`."""
    if not text:
        raise ValueError("a path without a name")
    return Path(text)


def _add_option(parser: argparse.ArgumentParser, item: "Field[Any]", hint: Any) -> None:
    required = item.default is MISSING
    hint = _without_none(hint)
    arguments: dict[str, Any] = {"help": _help(item)}
    if get_origin(hint) is tuple:
        hint = get_args(hint)[0]
        arguments["nargs"] = "+"
    if hint is bool:
        arguments["action"] = "store_true"
    elif get_origin(hint) is Literal:
        arguments["choices"] = get_args(hint)
    else:
        arguments |= {"type": path if hint is Path else hint, "metavar": item.metadata.get("metavar", _METAVARS[hint])}
    if item.metadata.get("positional"):
        parser.add_argument(item.name, **arguments)
        return
    parser.add_argument(flag(item.name), **arguments, **({"required": True} if required else {"default": item.default}))


def _help(item: "Field[Any]") -> str:
    text: str = item.metadata["help"].replace("%", "%%")
    if item.metadata.get("positional"):
        return text
    if item.default is MISSING:
        return f"{text} (required)"
    return text if item.default in (None, False, ()) else f"{text} (default: {item.default})"


def parse_config(parser: argparse.ArgumentParser, config: type[Config], arguments: Sequence[str] | None) -> Config:
    """The checked `config` of a command line (None: this process's). Exits with 2 and one line if it is wrong."""
    values = vars(parser.parse_args(arguments))
    try:
        return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except ValueError as error:
        parser.error(str(error))
