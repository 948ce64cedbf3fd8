"""Names and values that every tracking store takes, and settings as a flat list of them."""

from __future__ import annotations

import hashlib
import re
from typing import Any

NAME_LIMIT = 250
SYSTEM = "system/"  # MLflow shows what begins with it in a tab of its own
VALUE_LIMIT = 500


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key` names; lists of named records by their name."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            for item in value:
                flat |= flatten(item, f"{prefix}{key}.{item['name']}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def safe_name(raw: str) -> str:
    """The name of a metric, parameter or tag: `/` becomes `.`, and a hash stands for what else cannot be kept."""
    head = SYSTEM if raw.startswith(SYSTEM) else ""
    wanted = head + raw.removeprefix(head).replace("/", ".")  # stores in files make folders of `/`
    safe = head + (re.sub(r"[^A-Za-z0-9_. -]", "_", wanted.removeprefix(head)).strip(". ") or "_")
    return safe if safe == wanted and len(safe) <= NAME_LIMIT else f"{safe[: NAME_LIMIT - 9]}-{_hash(raw)}"


def safe_value(raw: Any) -> str:
    """The text of a parameter or tag; a hash stands for the end of a long one, so that two of them still differ."""
    text = str(raw)
    return text if len(text) <= VALUE_LIMIT else f"{text[: VALUE_LIMIT - 9]}~{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
