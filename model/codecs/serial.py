"""Codecs as JSON: a content hash, and a reader that refuses what no codec wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

REMEDY = "use the unchanged file that the codec wrote, or prepare the data again"


def identity_of(data: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON: sorted keys, no spaces, shortest exact decimals."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def require_keys(data: Mapping[str, Any], names: Sequence[str]) -> None:
    """ValueError unless `data` has exactly these keys."""
    wrong = set(data) ^ set(names)
    if wrong:
        raise ValueError(f"codec: missing or unknown field {', '.join(sorted(str(name)[:80] for name in wrong))}; {REMEDY}")


def read_integer(data: Mapping[str, Any], name: str) -> int:
    value = data[name]
    if type(value) is not int:
        raise ValueError(f"codec.{name}: {str(value)[:80]!r} is not an integer; {REMEDY}")
    return value


def read_numbers(data: Mapping[str, Any], name: str, length: int) -> list[float]:
    """A list of `length` finite numbers."""
    values = data[name]
    if not isinstance(values, list) or len(values) != length:
        raise ValueError(f"codec.{name}: not a list of {length} numbers; {REMEDY}")
    return [_number(value, name) for value in values]


def read_number(data: Mapping[str, Any], name: str) -> float:
    return _number(data[name], name)


def _number(value: Any, name: str) -> float:
    # Compared as it is: an integer of 400 digits is valid JSON and would overflow in float().
    if type(value) not in (int, float) or not -1e12 <= value <= 1e12:
        raise ValueError(f"codec.{name}: {str(value)[:80]!r} is not a finite number of ordinary size; {REMEDY}")
    return float(value)
