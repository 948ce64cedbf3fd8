"""Counts, times, sizes and sums of money as a person reads them."""

from __future__ import annotations

SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def counted(number: int, one: str, many: str = "") -> str:
    """`1 trainer`, `2 trainers`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """In milliseconds, seconds, minutes or hours."""
    if seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 600:
        return f"{seconds:.3g} s"
    if seconds < 2 * 3600:
        return counted(round(seconds / 60), "minute")
    hours = seconds / 3600
    return f"{hours:,.1f} hours" if hours < 100 else f"{hours:,.0f} hours"


def money(dollars: float) -> str:
    """In cents or US dollars."""
    if 0 < dollars < 0.005:
        return "less than a cent"
    if 0 < dollars < 1:
        return counted(round(100 * dollars), "cent")
    return f"{dollars:,.2f} USD" if 0 < dollars < 100 else f"{dollars:,.0f} USD"


def size(count: float) -> str:
    """In bytes of a unit that leaves a figure before the point."""
    for unit, name in SIZES:
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return counted(round(count), "byte")


def between(low: str, high: str) -> str:
    """`2 to 5 hours`: the unit once where it is the same."""
    if low == high:
        return low
    number, _, unit = low.partition(" ")
    return f"{number} to {high}" if unit == high.partition(" ")[2] else f"{low} to {high}"
