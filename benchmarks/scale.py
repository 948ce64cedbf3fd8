"""Data at scale: does what the platform itself does stay in proportion, from a thousand entries to a hundred thousand?

    job        `data prepare` on a cluster in this machine, at a tenth of the entries and at all of them     last_over_first, driver_growth
    steps      what a job does besides its media, step by step, at three sizes                               worst_exponent
    listing    a prefix of a server that answers after a while, one page after the other and in ranges       listing_speed_up

Entries are real files: films with contents of their own, damaged files, empty ones (`_scale_corpus.py`). Needs Ray for the row `job` alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from ._scale_corpus import MIX
from ._scale_job import run_job
from ._scale_listing import listing_seconds
from ._scale_steps import run_steps

TARGETS = {
    "last_over_first": ("at least", 0.8),
    "driver_growth": ("at most", 1.25),
    "worst_exponent": ("at most", 1.25),
    "listing_speed_up": ("at least", 3.0),
}
LEAST = 1 / 50  # of the time of all steps at the largest size: of what takes less, caches and the collector of garbage decide how it grows


def main(words: Sequence[str]) -> int:
    """Run the rows that are asked for; exits 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default="job,steps,listing", help="which rows, by commas")
    parser.add_argument("--entries", type=int, default=100_000, help="files of the largest job, at least 1000")
    parser.add_argument("--quick", action="store_true", help="2,000 entries: figures are rougher")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1), help="CPUs of the cluster")
    given = parser.parse_args(words)
    rows = {"job": _job, "steps": _steps, "listing": _listing}
    if unknown := sorted(set(given.rows.split(",")) - rows.keys()):
        raise ValueError(f"--rows: {unknown[0]!r} is unknown; choose from {', '.join(rows)}")
    entries = 2000 if given.quick else given.entries
    if entries < 1000:
        raise ValueError(f"--entries={entries}: fewer than 1000 tell nothing of scale; give 1000 or more")
    found: dict[str, Any] = {"entries": entries, "processes": given.processes, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as scratch:
        for name, row in rows.items():
            if name in given.rows.split(","):
                found |= row(entries, given.processes, Path(scratch) / name)
                print(f"{name}: done", file=sys.stderr)
    found["load"] = os.getloadavg()[0]
    print(json.dumps(found) if given.json else _table(found))
    return 0


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log(seconds) over log(size), by least squares: 1 of what is in proportion, 2 of what goes with the square."""
    return float(np.polyfit([log(size) for size in sizes], [log(max(s, 1e-9)) for s in seconds], 1)[0])


def _job(entries: int, processes: int, scratch: Path) -> dict[str, Any]:
    """Each in a process of its own: what a driver held at most is known of whole processes."""
    tenth, whole = (_alone(run_job, count, processes, scratch / str(count)) for count in (entries // 10, entries))
    return {
        "films_of_100": MIX.films,
        "damaged_of_100": MIX.damaged,
        "clips": whole.clips,
        "job_seconds": whole.seconds,
        "entries_a_second_by_fifth": whole.fifths,
        "last_over_first": whole.fifths[-1] / whole.fifths[0],
        "driver_mb_before": whole.before_mb,
        "driver_peak_mb_of_a_tenth": tenth.peak_mb,
        "driver_peak_mb": whole.peak_mb,
        "driver_growth": whole.peak_mb / tenth.peak_mb,
        "driver_bytes_an_entry": (whole.peak_mb - tenth.peak_mb) * 2**20 / (entries - entries // 10),
        "nothing_to_do_seconds": whole.again_seconds,
        "growth_of_1_percent_seconds": whole.growth_seconds,
    }


def _steps(entries: int, processes: int, scratch: Path) -> dict[str, Any]:
    sizes = [entries // 16, entries // 4, entries]
    figures = [_alone(run_steps, size, scratch / str(size)) for size in sizes]
    last = figures[-1]
    exponents = {name: exponent(sizes, [f[name] for f in figures]) for name in last if last[name] >= LEAST * sum(last.values())}
    worst = max(exponents, key=lambda name: exponents[name], default="")
    return {
        "processor_seconds_of_steps": last,
        "exponents": exponents,
        "worst_exponent": exponents.get(worst, 1.0),
        "worst_step": worst,
    }


def _listing(entries: int, processes: int, scratch: Path) -> dict[str, Any]:
    one_by_one, ranges = listing_seconds(entries)
    return {"listing_seconds_page_by_page": one_by_one, "listing_seconds": ranges, "listing_speed_up": one_by_one / ranges}


def _alone(work: Any, *given: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def _table(found: dict[str, Any]) -> str:
    lines = [f"{'figure':<20} {'':>8}  target"]
    for name, (sense, target) in TARGETS.items():
        if name in found:
            lines.append(f"{name:<20} {found[name]:>8.3g}  {sense} {target:g}")
    return "\n".join(lines)
