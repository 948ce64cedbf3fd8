"""How figures are written in reports: real minus signs, a dash for what is no number, times in words."""

import math

from .plots import Interval


def duration(seconds: float) -> str:
    """Seconds in words: `42 s`, `9 min 42 s`, `3 h 05 min`."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float | None, digits: int = 2) -> str:
    """A figure with `digits` decimals and a real minus sign; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """A figure with `digits` significant digits."""
    return "–" if not math.isfinite(value) else f"{value:#.{digits}g}".rstrip(".").replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """A difference: `+0.20`, `−0.02`."""
    return f"+{number(value, digits)}".replace("+−", "−").replace("+–", "–")


def percent(value: float | None) -> str:
    """A share in percent: 0.123 becomes `12 %`."""
    return "–" if value is None or not math.isfinite(value) else f"{value * 100:.0f} %".replace("-", "−")


def between(interval: Interval, digits: int = 2) -> str:
    """The ends of an interval: `[−0.01, 0.25]`; in words where so few clips leave none."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return "(too few clips for an interval)"
    return f"[{number(interval.low, digits)}, {number(interval.high, digits)}]"
