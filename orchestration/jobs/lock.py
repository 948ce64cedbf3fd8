"""The locked versions of what this package needs, held against what a cluster has."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from .wheel import ROOT

LOCK = ROOT / "constraints.txt"
OF_THE_CLUSTER = ("ray",)  # it runs there already: another version is refused, never installed beside it


def locked() -> dict[str, str]:
    """Every pin of the lock, by canonical name.

    Raises:
        ValueError: the lock is not there.
    """
    if not LOCK.is_file():
        raise ValueError(f"lock {str(LOCK)!r}: it is not there; reinstall the package, or submit from a checkout")
    lines = (re.split(r"\s+#|\s*;", line)[0].strip() for line in LOCK.read_text().splitlines())
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in pairs}


def needed() -> dict[str, str]:
    """The pins of all that a run imports: what the package requires, what that requires, and so on, as installed here.

    Raises:
        ValueError: the package is not installed here, so that nobody knows what it requires.
    """
    pins, found = locked(), dict[str, str]()
    try:
        waiting = [Requirement(line) for line in importlib.metadata.requires("mutual-forcing") or []]
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError("package mutual-forcing: it is not installed here; run `make setup`, or pip install it") from error
    seen: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        if name in pins:
            found[name] = pins[name]
        for extra in ("", *one.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [r for r in _required(name) if _wanted(r, extra)]
    return dict(sorted(found.items()))


def _required(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in importlib.metadata.requires(name) or []]
    except (importlib.metadata.PackageNotFoundError, InvalidRequirement):
        return []  # of another platform, or not ours to judge


def _wanted(requirement: Requirement, extra: str) -> bool:
    """Whether it comes with an extra of who requires it; the empty one: without any."""
    mark = requirement.marker
    if mark is None:
        return not extra
    return mark.evaluate({"extra": extra}) and (not extra or not mark.evaluate({"extra": ""}))


def installed(names: Iterable[str]) -> dict[str, str]:
    """Which versions this interpreter finds; nothing of what is not there."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def differing(pins: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    """Packages whose version there is another one, or none, with what is there. Builds of one version (2.13.0+cpu) are one."""
    return {name: there.get(name, "none") for name, version in pins.items() if _public(there.get(name)) != _public(version)}


def _public(version: str | None) -> str | None:
    try:
        return None if version is None else Version(version).public
    except InvalidVersion:
        return version
