"""The central dial: what `history.strength` and `history.real_share` gain in drift and lose in continuity, on the toy.

A grid of settings of the recipe `mutual-no-dmd` from one joint start, with all controls and without text (then only the first frame is
left to say what comes next). DMD is left out because it takes most of a step's time. Figures: excess distance in the first and the last
window (their difference is drift), seams and history use. Book-keeping and worlds are those of `ablation`. Needs PyTorch alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..model.objective import HistoryConfig, ObjectiveConfig, variants
from ._page import put, shown, table
from ._records import Records, interval, keep, kept, read_records
from ._runs import Arm, Place, run_all
from ._toy_training import QUICK, TOY
from ._training import START, Scale

STRENGTHS = (1.0, 0.5, 0.25)
REAL_SHARES = (0.0, 0.5)


def arms(scale: Scale) -> tuple[Arm, list[Arm]]:
    """The joint start, and a setting of the dial an arm: with text, then without."""
    base, found = variants(scale.objective)["mutual-no-dmd"], []
    for text in (True, False):
        for strength in STRENGTHS:
            for share in REAL_SHARES if text else REAL_SHARES[:1]:
                history = replace(base.history, strength_low=strength, strength_high=strength, real_share=share)
                found.append(_arm(base, history, text))
        found.append(_arm(base, replace(base.history, source="real"), text))
    return Arm(START, scale.objective, few=(4,), multi=False), found


def _arm(base: ObjectiveConfig, history: HistoryConfig, text: bool) -> Arm:
    past = "true" if history.source == "real" else f"strength-{history.strength_low:g}-real-{history.real_share:g}"
    name = f"{past}-{'text' if text else 'no-text'}"
    return Arm(name, replace(base, history=history), few=(4,), multi=False, text=text)


def summarise(records: Records) -> dict[str, Any]:
    """Arm -> figure -> interval over seeds; `..._minus_true` is paired by seed with the true past under the same controls."""
    settings = {}
    for name, seeds in records.items():
        windows = [list(r["few4"]["windows"].values()) for r in seeds.values()]
        settings[name] = {
            "excess_early": interval([w[0]["frechet_joint"] for w in windows]),
            "excess_late": interval([w[-1]["frechet_joint"] for w in windows]),
            "drift": interval([_drift(r) for r in seeds.values()]),
            **{
                f"{k}_{m}": interval([w[-1][f"{k}_{m}"] for w in windows])
                for k in ("seam_jump", "seam_correlation")
                for m in ("video", "audio")
            },
            **{f"history_use_{m}": interval([r["history_use"][m] for r in seeds.values()]) for m in ("video", "audio")},
            "sync_minus_real": interval([w[-1]["sync_minus_real"] for w in windows]),
        }
        true = records.get("true-no-text" if name.endswith("-no-text") else "true-text", {})
        for figure, of in (("late", _late), ("drift", _drift)):
            pairs = [of(r) - of(true[s]) for s, r in seeds.items() if s in true]
            settings[name][f"{figure}_minus_true"] = interval(pairs) if pairs else None
    return settings


def _late(record: dict[str, Any]) -> float:
    """Excess distance in the last window."""
    return list(record["few4"]["windows"].values())[-1]["frechet_joint"]


def _drift(record: dict[str, Any]) -> float:
    """By how much that is more than in the first window."""
    return _late(record) - next(iter(record["few4"]["windows"].values()))["frechet_joint"]


def print_table(settings: dict[str, Any]) -> None:
    """One line an arm."""
    columns = ("excess_early", "excess_late", "seam_jump_video", "seam_correlation_video", "history_use_video", "sync_minus_real")
    print(f"{'':<32}" + "".join(f"{c:>26}" for c in columns), file=sys.stderr)
    for name, figures in settings.items():
        print(f"{name:<32}" + "".join(f"{shown(figures[c]):>26}" for c in columns), file=sys.stderr)


SHOWN = {
    "excess_early": "excess, first window",
    "excess_late": "last",
    "drift": "drift",
    "late_minus_true": "last, minus true past's",
    "drift_minus_true": "drift, minus true past's",
    "seam_jump_video": "seam jump, video",
    "seam_jump_audio": "audio",
    "seam_correlation_video": "seam correlation, video",
    "seam_correlation_audio": "audio",
    "history_use_video": "history use, video",
    "history_use_audio": "audio",
}


def write_page(settings: dict[str, Any], page: Path) -> None:
    """The table of a page of the documentation."""
    rows = [[name, *(shown(x[c]) if x[c] else "" for c in SHOWN), str(x["drift"]["seeds"])] for name, x in settings.items()]
    put(page, "sweep", table(["setting", *SHOWN.values(), "seeds"], rows))


def main(arguments: list[str]) -> int:
    """See the module docstring; prints one JSON object as the last line with --json."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench history", description="What the history dial gains and loses, on a toy.")
    parser.add_argument("--quick", action="store_true", help="a walk through all parts with too few steps to learn anything")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, one thread each")
    parser.add_argument("--only", default="", help="comma-separated names of settings, as the table prints them")
    parser.add_argument("--starts", default="runs/starts", help="folder of the joint starts, which comparisons share")
    parser.add_argument("--out", default="runs/history")
    parser.add_argument("--records", help="keep what was measured in this file, and make the page of it")
    parser.add_argument("--page", help="write the table into this Markdown page, between its markers")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.jobs < 1:
        raise ValueError(f"--seeds={options.seeds}, --jobs={options.jobs}: must be at least 1")
    scale = replace(QUICK, joint_steps=20, steps=1) if options.quick else TOY
    start, settings = arms(scale)
    every = [start, *settings]
    if options.quick:
        settings = [settings[0], settings[-1]]  # the two ends of the grid: every kind of arm is walked through
    wanted = [name for name in options.only.split(",") if name]
    unknown = sorted(set(wanted) - {arm.name for arm in settings})
    if unknown:
        raise ValueError(f"--only: {', '.join(unknown)} unknown; choose from {', '.join(arm.name for arm in settings)}")
    out = Path(options.out) / ("quick" if options.quick else "toy")
    place, chosen = Place(out, Path(options.starts), options.device), [a for a in settings if not wanted or a.name in wanted]
    run_all(scale, start, chosen, list(range(options.seeds)), place, options.jobs)
    records = read_records(out, scale, every)
    if options.records:
        keep(records, Path(options.records))
        records = kept(Path(options.records))
    figures = summarise(records)
    print_table(figures)
    if options.page:
        write_page(figures, Path(options.page))
    if options.json:
        print(json.dumps({"settings": figures, "runs": options.seeds, "out": str(out)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
