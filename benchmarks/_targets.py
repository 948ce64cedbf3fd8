"""The questions that the ablation was made to answer, each answered seed by seed and then averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._page import Figure
from ._records import Records, interval
from ._training import START

BASELINES = ("sc-tf", "dmd-tf", "dmd-sf")


def targets(records: Records) -> dict[str, Any]:
    """Name -> what, wanted, found (an interval over seeds), and the verdict: `met` where the whole interval keeps what is wanted, `missed`
    where all of it lies on the other side, else `undecided`; one seed decides nothing.
    """
    mutual, joint = records.get("mutual", {}), records.get(START, {})
    if not mutual:
        return {}
    windows = list(next(iter(mutual.values()))["few4"]["windows"])
    early, late = windows[0], windows[-1]
    made: dict[str, Any] = {}

    def add(name: str, what: str, wanted: str, keeps: Callable[[float], bool], values: list[float]) -> None:
        if values:
            found: Figure = interval(values)
            made[name] = {"what": what, "wanted": wanted, "found": found, "verdict": _verdict(found, keeps)}

    def at_most(limit: float) -> Callable[[float], bool]:
        return lambda x: x <= limit

    def at_least(limit: float) -> Callable[[float], bool]:
        return lambda x: x >= limit

    def excess(record: dict[str, Any], mode: str, window: str) -> float:
        return figure(record, mode, window, "frechet_joint")

    both = [s for s in mutual if s in joint and "multi" in joint[s]]
    add(
        "early",
        f"excess of FEW 4 in {early} s over 1.25 x that of the joint start's MULTI",
        "at most 0",
        at_most(0.0),
        [excess(mutual[s], "few4", early) - 1.25 * excess(joint[s], "multi", early) for s in both],
    )
    for baseline in BASELINES:
        pairs = [s for s in mutual if s in records.get(baseline, {})]
        add(
            f"late-{baseline}",
            f"excess of FEW 4 in {late} s, minus that of `{baseline}`",
            "below 0",
            lambda x: x < 0,
            [excess(mutual[s], "few4", late) - excess(records[baseline][s], "few4", late) for s in pairs],
        )
    for mode, words in (("few4", "FEW 4"), ("multi", "MULTI")):
        sampled = [r for r in mutual.values() if mode in r]
        for m in ("video", "audio"):
            of = f"{words}, {m}, worst window"
            jumps = [max(figure(r, mode, w, f"seam_jump_{m}") for w in windows) for r in sampled]
            add(f"jump-{mode}-{m}", f"seam jump over real's, {of}", "at most 1.10", at_most(1.10), jumps)
            kept = [min(figure(r, mode, w, f"seam_correlation_{m}") for w in windows) for r in sampled]
            add(f"correlation-{mode}-{m}", f"seam correlation over real's, {of}", "at least 0.9", at_least(0.9), kept)
    for window in windows:
        sync = [figure(r, "few4", window, "sync_minus_real") for r in mutual.values()]
        add(f"sync-{window}", f"sync of FEW 4 minus real's, {window} s", "at least -0.03", at_least(-0.03), sync)
    return made


def _verdict(found: Figure, keeps: Callable[[float], bool]) -> str:
    if found["half"] is None:
        return "one seed"
    ends = [keeps(found["mean"] + sign * found["half"]) for sign in (-1, 1)]
    return "met" if all(ends) else "undecided" if any(ends) else "missed"


def figure(record: dict[str, Any], mode: str, window: str, name: str) -> float:
    """One figure of a record."""
    return record[mode]["windows"][window][name]
