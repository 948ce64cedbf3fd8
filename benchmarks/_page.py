"""Figures of a comparison as Markdown tables, put into a page of the documentation between two markers, so that nobody copies a number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Figure = dict[str, Any]
"""mean, half width of the 95 % interval over seeds (None for one seed), number of seeds."""

MODES = {"few4": "FEW, 4", "few8": "FEW, 8", "multi": "MULTI, 50"}
LATE = {
    "seam_jump_video": "seam jump, video",
    "seam_jump_audio": "audio",
    "seam_correlation_video": "seam correlation, video",
    "seam_correlation_audio": "audio",
    "sync_minus_real": "sync - real",
    "sync_lag_s": "lag, s",
    "identity_drift": "identity drift",
    "motion": "motion",
    "loudness": "loudness",
}


def shown(figure: Figure) -> str:
    """A mean with its interval, to three digits after the point."""
    return f"{figure['mean']:.3f}" + ("" if figure["half"] is None else f" ± {figure['half']:.3f}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def windows_table(recipes: dict[str, Any], view: str = "joint") -> str:
    """Excess distance by recipe, way of sampling and window; last what was subtracted, the distance between real clips."""
    some = next(iter(recipes.values()))["few4"]
    names = list(some)
    rows = [
        [recipe, _sampling(words, mode, modes), *(shown(modes[mode][window][f"frechet_{view}"]) for window in names), _seeds(modes[mode])]
        for recipe, modes in recipes.items()
        for mode, words in MODES.items()
        if mode in modes
    ]
    rows.append(["real clips", "subtracted above", *(f"{some[window][f'floor_{view}']['mean']:.3f}" for window in names), ""])
    return table(["recipe", "sampling", *(f"{window} s" for window in names), "seeds"], rows)


def _sampling(words: str, mode: str, modes: dict[str, Any]) -> str:
    """A guided step is two evaluations, so the guidance that was chosen belongs to the name."""
    return f"{words}, guidance {', '.join(f'{g:g}' for g in modes['guidance'])}" if mode == "multi" else words


def _seeds(windows: dict[str, Any]) -> str:
    """How many seeds a way of sampling was measured on."""
    return str(next(iter(next(iter(windows.values())).values()))["seeds"])


def guidance_table(recipes: dict[str, Any]) -> str:
    """Excess joint distance of MULTI by guidance scale, on the clips that the scale is chosen on, for recipes whose MULTI is sampled."""
    sampled = {recipe: modes["guidances"] for recipe, modes in recipes.items() if modes["guidances"]}
    scales = list(next(iter(sampled.values()), {}))
    rows = [[recipe, *(shown(found[g]) for g in scales), str(found[scales[0]]["seeds"])] for recipe, found in sampled.items()]
    return table(["recipe", *(f"guidance {float(g):g}" for g in scales), "seeds"], rows)


def late_table(recipes: dict[str, Any], mode: str = "few4") -> str:
    """The other figures of the last window for one way of sampling."""
    rows = []
    for recipe, modes in recipes.items():
        if mode in modes:
            last = list(modes[mode].values())[-1]
            use = [shown(modes["history_use"][m]) for m in ("video", "audio")]
            rows.append([recipe, *(shown(last[name]) for name in LATE), *use])
    return table(["recipe", *LATE.values(), "history use, video", "audio"], rows)


def targets_table(targets: dict[str, Any]) -> str:
    """Each target with what was found and the verdict."""
    return table(["target", "wanted", "found", ""], [[x["what"], x["wanted"], shown(x["found"]), x["verdict"]] for x in targets.values()])


def paired_table(pairs: dict[str, dict[str, Figure]]) -> str:
    """Differences seed by seed: what is compared -> window -> interval."""
    names = list(next(iter(pairs.values())))
    rows = [[what, *(shown(x[window]) for window in names), str(x[names[0]]["seeds"])] for what, x in pairs.items()]
    return table(["difference", *(name if name == "drift" else f"{name} s" for name in names), "seeds"], rows)


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` of a page.

    Raises:
        ValueError: the page does not hold the two markers once each, in this order.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before = page.read_text(encoding="utf-8")
    if before.count(begin) != 1 or before.count(end) != 1 or before.index(begin) > before.index(end):
        raise ValueError(f"{page}: needs {begin.strip()!r} and {end!r} once each, in this order")
    head, rest = before.split(begin)
    page.write_text(head + begin + text + "\n" + end + rest.split(end)[1], encoding="utf-8")
