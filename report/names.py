"""Class names for people, from a checkpoint's class table."""

from collections.abc import Sequence


def short_name(name: str, length: int = 24) -> str:
    """The first of a class's comma-separated names, cut with an ellipsis at `length` letters."""
    first = name.split(",")[0].strip()
    return first if len(first) <= length else first[: length - 1].rstrip() + "…"


def class_names(classes: Sequence[Sequence]) -> list[str]:
    """Names by label from a checkpoint's class table [[label, wnid, name], …]; the wnid or label where unnamed."""
    return [str(name or wnid or label) for label, wnid, name in sorted(classes, key=lambda row: row[0])]
