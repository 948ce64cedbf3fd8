"""Settings of an objective from the command line, `shortcut.sub_steps=2`, where nothing but PyTorch is there to read them."""

from __future__ import annotations

from ast import literal_eval
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ..model.objective import ObjectiveConfig


def with_settings(objective: ObjectiveConfig, settings: list[str]) -> ObjectiveConfig:
    """The objective with each PATH=VALUE set, one after the other.

    Raises:
        ValueError: a setting that is not PATH=VALUE, no field of that name, or a value that the field refuses.
    """
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: write PATH=VALUE, as in shortcut.sub_steps=2")
        objective = _set(objective, path.split("."), _read(value), setting)
    return objective


def _read(value: str) -> Any:
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError):
        return value  # a word, as `frozen`


def _set(config: Any, path: list[str], value: Any, setting: str) -> Any:
    names = [f.name for f in fields(config)]
    if path[0] not in names:
        raise ValueError(f"--set {setting}: {path[0]!r} is no field; choose from {', '.join(names)}")
    old = getattr(config, path[0])
    if is_dataclass(old) == (len(path) == 1):
        raise ValueError(f"--set {setting}: {path[0]!r} {'has fields of its own' if is_dataclass(old) else 'has no fields'}")
    if is_dataclass(old):
        return replace(config, **{path[0]: _set(old, path[1:], value, setting)})
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(old):
        raise ValueError(f"--set {setting}: needs a value of the kind of {old!r}")
    return replace(config, **{path[0]: value})
