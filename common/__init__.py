"""The ground that every room stands on: errors, files, command lines, and arithmetic that Python lacks."""

__version__ = "0.2.0"


def ceil_div(dividend: int, divisor: int) -> int:
    """dividend ÷ divisor, rounded up; exact for integers of any size."""
    return -(-dividend // divisor)
