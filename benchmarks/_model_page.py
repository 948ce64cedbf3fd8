"""What a person sees of `bench model`: a line a row and way, and the roofline. Not part of what the figures depend on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ._speed import NOT, Figures


def print_table(figures: dict[str, Figures]) -> None:
    """A line a row and way."""
    c = figures["ceilings"]
    print(f"ceilings: {c['flops'] / 1e9:.0f} GFLOP/s, {c['bandwidth'] / 1e9:.1f} GB/s", file=sys.stderr)
    for name, row in figures.items():
        for line in _lines(row):
            print(f"{name:<28} {line}", file=sys.stderr)


def _lines(row: Figures) -> Iterator[str]:
    if NOT in row:
        yield f"{NOT}: {row[NOT]}"
    for way, x in row.items():
        if isinstance(x, dict) and "fps" in x:
            near = f"   {x['of_roofline']:.0%} of the roofline" if "of_roofline" in x else ""
            spread = f"chunk {x['chunk_ms']:.1f} ms ({x['spread_ms'][0]:.1f} to {x['spread_ms'][1]:.1f})"
            tail = f"   p50 {x['p50_ms']:.1f}, p99 {x['p99_ms']:.1f} of {x['chunks']}"
            yield f"{way:<13} {x['fps']:8.2f} frames/s   {spread}{tail}{near}"
    if "memory_gb" in row and "first_chunk_ms" in row:
        yield f"the process holds {row['memory_gb']:.2f} GB"
    if "first_chunk_ms" in row:
        yield "first chunk   " + ", ".join(f"{way} {ms:.1f} ms" for way, ms in row["first_chunk_ms"].items())
    if "latency_growth" in row:
        yield f"a chunk costs {row['latency_growth']:.3f} times as much around chunk 600 as around chunk 60"
        yield f"memory grew by {row['rss_growth_mb']:.1f} MB until the end"
    if "mfu" in row:
        yield f"{row['tokens_per_s']:.0f} tokens/s, {row['mfu']:.0%} of {row['mfu_of']}"


def plot(figures: dict[str, Figures], path: Path) -> None:
    """The roofline, and where each way of streaming stands below it; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    c = figures["ceilings"]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    corner = c["flops"] / c["bandwidth"]
    reached = [corner]
    streams = {name: {way: x for way, x in row.items() if isinstance(x, dict) and "macs" in x} for name, row in figures.items()}
    streams = {name: ways for name, ways in streams.items() if ways}
    for colour, (name, ways) in enumerate(streams.items()):
        for (way, x), marker in zip(ways.items(), "osD", strict=False):
            per_byte, rate = 2 * x["macs"] / x["bytes"], 2 * x["macs"] / (x["chunk_ms"] / 1e3) / 1e9
            label = f"{name.removeprefix('stream-')}, {way}: {x['of_roofline']:.0%}"
            axes.plot(per_byte, rate, marker, color=f"C{colour}", label=label)
            reached.append(per_byte)
    low, high = min(reached) / 3, max(reached) * 3
    axes.plot([low, corner, high], [low * c["bandwidth"] / 1e9, c["flops"] / 1e9, c["flops"] / 1e9], color="black", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="FLOP for each byte that must be read", ylabel="GFLOP/s")
    axes.set_title("Streaming under the roofline of this machine", loc="left")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:g}" if f"{y:e}"[0] in "25" else ""))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(title="share of the roofline", fontsize="small", title_fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)
