"""The paper's ablation, on a toy or small characters: do the two modes lift each other, and do later windows of a long clip degrade?

For every seed one `joint` start is trained on true history; from it each recipe trains with the same clips, noise and number of steps.
Each is then asked for 25 s clips under held-out controls, with 4 and 8 evaluations a chunk and, where it has a MULTI mode, with 50 steps at
its best guidance (100 evaluations, or 50 without), and is judged in windows against real clips.

    _world (clips) -> _training (joint start -> recipe) -> _judge (figures by window) -> _runs (OUT/seed-S/RECIPE.json)
                 -> here: intervals over seeds, the targets, table, plot, one JSON object

Scales: `toy`, latent sequences and 0.9 M parameters (_toy, _toy_world, _toy_training); `small`, pixel-level talking characters in the
embedded codecs and 29 M parameters, for one GPU (_small, ...). Needs PyTorch and numpy alone; the plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..model.objective import ObjectiveConfig, variants
from ._page import guidance_table, late_table, paired_table, put, shown, targets_table, windows_table
from ._records import Records, interval, keep, kept, read_records
from ._runs import Arm, Place, run_all
from ._settings import with_settings
from ._small_training import quick_small, small
from ._targets import BASELINES, figure, targets
from ._toy_training import QUICK, TOY
from ._training import START, Scale

RECIPES = tuple(variants(ObjectiveConfig()))
WITH_MULTI = ("mutual",)  # 50 steps a chunk take most of the time: the others are sampled on request


def arms(scale: Scale, recipes: list[str], with_multi: list[str]) -> tuple[Arm, list[Arm]]:
    """The joint start and the recipes as arms. Only ShortCut trains the times of eight moves, and DMD alone lets go of the MULTI mode:
    what is not trained is not sampled.
    """
    objectives = variants(scale.objective)

    def arm(recipe: str) -> Arm:
        o = objectives[recipe]
        return Arm(recipe, o, few=(4, 8) if o.w_shortcut > 0 else (4,), multi=recipe in with_multi and o.w_fm > 0)

    return Arm(START, scale.objective), [arm(recipe) for recipe in recipes]


def summarise(records: Records) -> dict[str, Any]:
    """Intervals of every figure, and the paired comparisons that the targets name."""
    table: dict[str, Any] = {}
    for recipe, seeds in records.items():
        table[recipe] = {}
        for mode in ("few4", "few8", "multi"):
            with_mode = [r for r in seeds.values() if mode in r]
            if with_mode:
                table[recipe][mode] = {
                    window: {name: interval([r[mode]["windows"][window][name] for r in with_mode]) for name in figures}
                    for window, figures in with_mode[0][mode]["windows"].items()
                }
        picked = [r["guidances"] for r in seeds.values() if "guidances" in r]
        table[recipe]["guidances"] = {g: interval([found[g] for found in picked]) for g in (picked[0] if picked else ())}
        table[recipe]["guidance"] = sorted({r["guidance"] for r in seeds.values() if "guidance" in r})
        table[recipe]["history_use"] = {m: interval([r["history_use"][m] for r in seeds.values()]) for m in ("video", "audio")}
    return {"recipes": table, "paired": paired(records), "targets": targets(records)}


def paired(records: Records) -> dict[str, dict[str, Any]]:
    """What is compared -> window -> excess of the one minus that of the other, seed by seed; `drift`: that of the last minus the first."""
    found: dict[str, dict[str, Any]] = {}

    def add(mode: str, recipe: str, other_mode: str, other: str, view: str = "joint") -> None:
        seeds, others = records.get(recipe, {}), records.get(other, {})
        both = [s for s, r in seeds.items() if mode in r and other_mode in others.get(s, {})]
        if not both:
            return
        windows = list(seeds[both[0]][mode]["windows"])
        gaps = [
            [figure(seeds[s], mode, w, f"frechet_{view}") - figure(others[s], other_mode, w, f"frechet_{view}") for w in windows]
            for s in both
        ]
        words = {"few4": "FEW 4", "multi": "MULTI"}
        left = "" if other_mode == mode else f"{words[other_mode]} of "
        name = f"{words[mode]} of `{recipe}` - {left}`{other}`" + ("" if view == "joint" else f", {view}")
        found[name] = {w: interval([gap[i] for gap in gaps]) for i, w in enumerate(windows)}
        found[name]["drift"] = interval([gap[-1] - gap[0] for gap in gaps])

    for recipe in records:
        if recipe != "sc-tf":
            add("few4", recipe, "few4", "sc-tf")
    for view in ("video", "audio"):
        add("few4", "mutual", "few4", "sc-tf", view)
    add("few4", "mutual", "few4", "mutual-no-dmd")
    for recipe in ("mutual", "sc-tf"):
        add("few4", recipe, "multi", START)
    for view in ("joint", "video", "audio"):
        add("multi", "mutual", "multi", START, view)
    return found


def print_table(summary: dict[str, Any]) -> None:
    """Excess joint distance by window, for every recipe and way of sampling."""
    for recipe, modes in summary["recipes"].items():
        for mode in ("few4", "few8", "multi"):
            if mode in modes:
                cells = [f"{w} {shown(x['frechet_joint'])}" for w, x in modes[mode].items()]
                print(f"{recipe:<20} {mode:<6} {'   '.join(cells)}", file=sys.stderr)
    for x in summary["targets"].values():
        print(f"{x['what']}: {shown(x['found'])}, wanted {x['wanted']}: {x['verdict']}", file=sys.stderr)


def write_page(summary: dict[str, Any], page: Path) -> None:
    """The tables of a page of the documentation."""
    put(page, "windows", windows_table(summary["recipes"]))
    for view in ("video", "audio"):
        put(page, f"windows-{view}", windows_table(summary["recipes"], view))
    put(page, "guidance", guidance_table(summary["recipes"]))
    put(page, "paired", paired_table(summary["paired"]))
    put(page, "late", late_table(summary["recipes"]))
    put(page, "targets", targets_table(summary["targets"]))


def plot(records: Records, path: Path) -> None:
    """Excess distance by window for four evaluations a chunk: a dot a seed, a line through the means of a recipe; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(figsize=(8.5, 4.5), layout="constrained")
    windows = list(next(iter(next(iter(records.values())).values()))["few4"]["windows"])
    for k, (recipe, seeds) in enumerate(records.items()):
        at = [w + 0.08 * (k - (len(records) - 1) / 2) for w in range(len(windows))]  # beside each other, or they hide one another
        excess = [[figure(r, "few4", window, "frechet_joint") for r in seeds.values()] for window in windows]
        line = "-" if recipe == "mutual" else "--" if recipe in BASELINES else ":"
        (mean,) = axes.plot(
            at, [sum(x) / len(x) for x in excess], linestyle=line, linewidth=2.5 if recipe == "mutual" else 1.2, label=recipe
        )
        for x, values in zip(at, excess, strict=True):
            axes.plot([x] * len(values), values, "o", color=mean.get_color(), markersize=4, alpha=0.6)
    axes.set(xlabel="window (s)", ylabel="excess Fréchet distance of chunks", title="Four evaluations a chunk, a dot a seed")
    axes.set_xticks(range(len(windows)), windows)
    axes.set_yscale("symlog", linthresh=0.02)  # recipes differ by two orders of magnitude, and an excess may be below 0
    every = [figure(r, "few4", window, "frechet_joint") for seeds in records.values() for r in seeds.values() for window in windows]
    axes.set_ylim(min(0.0, 1.3 * min(every)), 1.5 * max(every))
    drawn.legend(frameon=False, fontsize="small", loc="outside right center")
    drawn.savefig(path, dpi=130)
    plt.close(drawn)


def scale_of(name: str, quick: bool, device: str, folder: str) -> Scale:
    """The scale of that name; `folder` keeps drawn clips.

    Raises:
        ValueError: the device is not there, or cannot carry it.
    """
    cuda = torch.device(device).type == "cuda"
    if cuda and not torch.cuda.is_available():
        raise ValueError(f"--device={device!r}: PyTorch sees no GPU here; install a build for CUDA, or choose --device cpu")
    if name == "toy":
        return QUICK if quick else TOY
    if not quick and not cuda:
        raise ValueError(
            f"--scale=small, --device={device!r}: its 29 M parameters need a GPU; add --device cuda, or --quick to try all parts"
        )
    return quick_small(folder) if quick else small(folder)


def main(arguments: list[str]) -> int:
    """See the module docstring; prints one JSON object as the last line with --json."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench ablation", description="The paper's ablation, small.")
    parser.add_argument(
        "--scale", choices=["toy", "small"], default="toy", help="toy: latent sequences; small: talking characters, for a GPU"
    )
    parser.add_argument("--quick", action="store_true", help="a walk through all parts with too few steps to learn anything")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated")
    parser.add_argument("--multi", default=",".join(WITH_MULTI), help="recipes whose MULTI mode is sampled too")
    parser.add_argument("--jobs", type=int, help="processes at a time (default: 2 of one thread each on a CPU, 1 on a GPU)")
    parser.add_argument("--starts", default="runs/starts", help="folder of the joint starts, which comparisons share")
    parser.add_argument("--clips", default="runs/clips", help="small: folder of drawn clips, which comparisons share")
    parser.add_argument("--out", default="runs/ablation")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="a setting of every recipe's objective")
    parser.add_argument("--steps", type=int, help="training steps of every recipe (default: the scale's)")
    parser.add_argument("--lr", type=float, help="learning rate of every recipe (default: the scale's)")
    parser.add_argument("--plot", help="write the plot of the windows to this file")
    parser.add_argument("--records", help="keep what was measured in this file, and make page and plot of it")
    parser.add_argument("--page", help="write the tables into this Markdown page, between its markers")
    options = parser.parse_args(arguments)
    recipes = [r for r in options.recipes.split(",") if r]
    with_multi = [r for r in options.multi.split(",") if r]
    for option, names in (("--recipes", recipes), ("--multi", with_multi)):
        if unknown := sorted(set(names) - set(RECIPES)):
            raise ValueError(f"{option}: {', '.join(unknown)} unknown; choose from {', '.join(RECIPES)}")
    jobs = options.jobs if options.jobs is not None else 2 if options.device == "cpu" else 1
    for option, count in (("--seeds", options.seeds), ("--jobs", jobs), ("--steps", options.steps)):
        if count is not None and count < 1:
            raise ValueError(f"{option}={count}: must be at least 1")
    scale = scale_of(options.scale, options.quick, options.device, options.clips)
    scale = replace(
        scale,
        objective=with_settings(scale.objective, options.set),
        steps=scale.steps if options.steps is None else options.steps,
        optimizer=scale.optimizer if options.lr is None else replace(scale.optimizer, lr=options.lr),
    )
    if scale.objective.fake.kind != "full":
        raise ValueError(f"--set fake.kind={scale.objective.fake.kind}: comparisons train a whole fake-score model; leave it 'full'")
    out = Path(options.out) / (f"{options.scale}-quick" if options.quick else options.scale)
    seeds = list(range(1 if options.quick else options.seeds))
    began = time.monotonic()
    start, others = arms(scale, recipes, with_multi)
    run_all(scale, start, others, seeds, Place(out, Path(options.starts), options.device), jobs)
    start, every = arms(scale, list(RECIPES), [])
    records = read_records(out, scale, [start, *every])
    if options.records:
        keep(records, Path(options.records))
        records = kept(Path(options.records))
    summary = summarise(records)
    print_table(summary)
    if options.plot:
        plot(records, Path(options.plot))
    if options.page:
        write_page(summary, Path(options.page))
    if options.json:
        summary |= {"seconds": round(time.monotonic() - began, 1), "runs": len(seeds), "out": str(out)}
        print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
