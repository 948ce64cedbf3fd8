"""What a person sees of `bench rollouts`: lines of figures, and the plot of the pools that were simulated with the measured ones in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Figures = dict[str, Any]


def lines(figures: Figures) -> list[str]:
    """The figures in words."""
    made = [f"machine load (1, 5, 15 min) {figures['load_before']} before, {figures['load_after']} after"]
    for name, x in figures["real"].items():
        made.append(
            f"{name:<14} train {x['train_s']:.3f} s, rollout {x['rollout_s']:.3f} s: inline {x['inline_step_s']:.3f} s a step, pooled "
            f"{x['pooled_step_s']:.3f} s: {x['ratio']:.2f} times the throughput, ideal {x['ideal']:.2f}, {x['of_ideal']:.0%} of it "
            f"({' '.join(f'{r:.2f}' for r in x['of_ideal_rounds'])}); age {x['mean_age']:.2f}; {_foreseen(x, x['other_rounds_step_s'])}"
        )
    for name, x in figures["orchestration"].items():
        made.append(
            f"{name:<14} {x['step_s']:.3f} s a step, ideal {x['ideal_s']:.3f}: efficiency {x['efficiency']:.3f}; "
            f"take p50 {x['take_p50_ms']:.1f}, p99 {x['take_p99_ms']:.1f} ms of {x['takes']} of {x['take_mb']:.1f} MB; "
            f"coordinator {x['coordinator_core']:.1%} of a core at {x['clips_per_s']:.0f} clips/s; age {x['mean_age']:.2f}; "
            f"{_foreseen(x, x['step_s'])}"
        )
    x = figures["broadcast"]
    made.append(
        f"broadcast      {x['megabytes']} MB to {x['actors']} actors: {x['seconds']:.2f} s = {x['over_memcpys']:.1f} x four copies "
        f"({x['memcpys_s']:.2f} s): pack {x['pack_s']:.2f}, put {x['put_s']:.2f}, load {x['load_s']:.2f} s; {x['mb_s']:.0f} MB/s in all"
    )
    for x in figures["scale"]:
        made.append(
            f"{x['weather']:<40} {x['trainers']:>5} trainers: efficiency {x['efficiency']:.3f} ({x['efficiency_range'][0]:.3f} to "
            f"{x['efficiency_range'][1]:.3f}), mean age {x['mean_age']:.2f}, lost work "
            f"{x['lost_share']:.1%}, late {x['late']}, made again {x['remade']}"
        )
    return made


def plot(figures: Figures, path: Path) -> None:
    """Efficiency and age against trainers, simulated lines and measured points; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = figures["scale"]
    sizes = sorted({x["trainers"] for x in rows})
    weathers = list(dict.fromkeys(x["weather"] for x in rows))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for colour, weather in enumerate(weathers):
        of = [x for x in rows if x["weather"] == weather]
        style = {"color": f"C{colour}", "marker": "o", "markersize": 4, "linewidth": 1.5}
        left.plot([x["trainers"] for x in of], [x["efficiency"] for x in of], label=weather, **style)
        right.plot([x["trainers"] for x in of], [x["mean_age"] for x in of], **style)
    seen = [(1, x["of_ideal"], x["mean_age"]) for x in figures["real"].values()]
    asleep = [(x["trainers"], x["efficiency"], x["mean_age"]) for x in figures["orchestration"].values()]
    for points, marker, label in ((seen, "D", "measured: real work, 1 trainer, 1 actor"), (asleep, "s", "measured: work that is a sleep")):
        left.plot([p[0] for p in points], [p[1] for p in points], marker, color="black", fillstyle="none", label=label)
        right.plot([p[0] for p in points], [p[2] for p in points], marker, color="black", fillstyle="none")
    most = figures["max_age"]
    right.axhline(most, color="grey", linestyle="--", linewidth=1)
    right.text(1, most + 0.04, f"rollouts.max_age = {most}", color="grey", fontsize="small")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="trainers (two actors each)")
        axes.set_xticks([1, 4, *sizes], [str(n) for n in (1, 4, *sizes)])
        axes.minorticks_off()
        axes.grid(alpha=0.3, linewidth=0.5)
    left.set(ylim=(0, 1.05), ylabel="share of the ideal throughput")
    left.set_title("Efficiency", loc="left")
    right.set(ylim=(0, most + 0.3), ylabel="optimizer steps, mean over rollouts")
    right.set_title("Age of a rollout when it is used", loc="left")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _foreseen(row: Figures, measured: float) -> str:
    """What the simulator said of a row, if it was asked."""
    if "predicted_step_s" not in row:
        return "the simulator learned from it"
    return f"simulator {row['predicted_step_s']:.3f} s for {measured:.3f} s, age {row['predicted_mean_age']:.2f}"
