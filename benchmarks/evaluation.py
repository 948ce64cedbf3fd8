"""What the metrics without weights find where the answer is known.

characters; with --media, people too -> what is put in -> figures -> here

lag     offsets of -400 to 400 ms put into the sound     error of the lag, share beyond a frame
sync    own voices, and those of others                  height and gap
floor   real characters against other real ones          distances at 4 to 32 clips: how far apart sets of one distribution are
seen    clips spoilt in known ways, against the floor    distances, and which figure tells
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..workers.evaluation.clip import EvalClip
    from ..workers.evaluation.gathering import Gathered

OFFSETS_MS = (-400, -200, -100, -40, 0, 40, 100, 200, 400)
LEFT_OUT = ("sync_lag_abs_ms", "sync_correlation")  # others say the same
SECONDS, FPS, RATE, SEED = 5.0, 24, 16000, 77


def characters(count: int, first: int = 0) -> list[EvalClip]:
    """Talking characters in sync, 64 x 64."""
    return [_character(i) for i in range(first, first + count)]


@cache
def _character(number: int) -> EvalClip:
    from ..datasets.drawn.synthetic import SyntheticConfig, make_character_clip
    from ..workers.evaluation.clip import EvalClip

    c = make_character_clip(SyntheticConfig(seconds=SECONDS, fps=FPS, sample_rate=RATE, seed=SEED), number)
    return EvalClip(str(number), c.frames, FPS, c.audio, RATE, c.caption, synthetic=True)


def people(media: Path) -> list[EvalClip]:
    """Clips of people who talk (GRID), whole."""
    from ..workers.evaluation.clip import EvalClip
    from ._signals_media import TALKING, real

    return [EvalClip(m.name, m.frames, FPS, m.audio, RATE) for m in real(media, TALKING, (360, 288))]


def later(samples: np.ndarray, ms: float) -> np.ndarray:
    """Sound that comes so much later."""
    shift = round(ms * RATE / 1000)
    return np.pad(samples, (max(shift, 0), max(-shift, 0)))[max(-shift, 0) :][: len(samples)]


def lag(sets: dict[str, list[EvalClip]]) -> list[dict[str, Any]]:
    """Errors of the lag of clips whose sound was moved."""
    from ..workers.evaluation.av_sync import AVSync
    from ..workers.evaluation.clip import NotApplicable

    rows, sync = [], AVSync()
    for name, clips in sets.items():
        errors, told, tried = list[float](), 0, 0
        for clip in clips:
            for offset in OFFSETS_MS:
                tried += 1
                try:
                    [figures] = sync.of_each([sync.keep(replace(clip, samples=later(clip.samples, offset)))])
                except NotApplicable:
                    continue
                if "sync_lag_ms" in figures:
                    told += 1
                    errors.append(figures["sync_lag_ms"] - offset)
        found = np.abs(errors) if errors else np.full(1, np.nan)
        beyond = float(np.mean(found > 1000 / FPS))
        bias = float(np.median(errors)) if errors else float("nan")
        largest = float(found.max())
        rows.append({"clips": name, "tried": tried, "told": told, "bias_ms": bias, "largest_ms": largest, "beyond_a_frame": beyond})
    return rows


def sync(sets: dict[str, list[EvalClip]]) -> list[dict[str, Any]]:
    """Own voices, and each clip with the voice of the next."""
    from ..workers.evaluation.builtin import chosen

    rows = []
    for name, clips in sets.items():
        swapped = [replace(a, samples=b.samples) for a, b in zip(clips, [*clips[1:], clips[0]], strict=True)]
        for kind, some in (("own", clips), ("another's", swapped)):
            found = _figures(chosen(["sync"]), some)
            rows.append({"clips": name, "voice": kind} | {k: found[k] for k in ("sync_correlation", "sync_gap")})
    return rows


def floor(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Distances of real clips to as many others."""
    return [{"clips": count} | _distances(characters(count, 1000), characters(count, 2000)) for count in counts]


def seen(count: int) -> list[dict[str, Any]]:
    """Distances and figures of clips that were spoilt, to real ones."""
    reference, clips = characters(count, 1000), characters(count, 2000)
    spoilt: dict[str, Callable[[EvalClip], EvalClip]] = {
        "as they are": lambda c: c,
        "blurred": lambda c: replace(c, frames=c.frames[:, ::4, ::4].repeat(4, 1).repeat(4, 2)),
        "half as bright": lambda c: replace(c, frames=c.frames // 2),
        "noise of 10 %": lambda c: replace(c, frames=_noisy(c.frames)),
        "frozen": lambda c: replace(c, frames=np.repeat(c.frames[:1], len(c.frames), axis=0)),
        "20 dB quieter": lambda c: replace(c, samples=c.samples / 10),
        "sound backwards": lambda c: replace(c, samples=c.samples[::-1].copy()),
        "sound 200 ms late": lambda c: replace(c, samples=later(c.samples, 200)),
    }
    metrics, rows = _shown_metrics(), []
    others = _gathered(metrics, reference)
    for name, spoil in spoilt.items():
        found = _figures(metrics, [spoil(c) for c in clips], others)
        rows.append({"clips": name} | {k: v for k, v in found.items() if k not in LEFT_OUT})
    return rows


def _noisy(frames: np.ndarray) -> np.ndarray:
    return np.clip(frames + np.random.default_rng(0).normal(0, 25.5, frames.shape), 0, 255).astype(np.uint8)


def _shown_metrics() -> list[Any]:
    from ..workers.evaluation.builtin import chosen

    return chosen(["random", "sync", "motion"])


def _distances(reference: list[EvalClip], clips: list[EvalClip]) -> dict[str, float]:
    from ..workers.evaluation.builtin import chosen

    metrics = chosen(["random"])
    return _figures(metrics, clips, _gathered(metrics, reference))


def _gathered(metrics: list[Any], clips: list[EvalClip]) -> Gathered:
    from ..workers.evaluation.gathering import WHOLE, Gathered

    found = Gathered(metrics, [WHOLE])
    for clip in clips:
        found.add(clip)
    return found


def _figures(metrics: list[Any], clips: list[EvalClip], reference: Gathered | None = None) -> dict[str, float]:
    from ..workers.evaluation.figures import figures
    from ..workers.evaluation.gathering import WHOLE

    found = figures(_gathered(metrics, clips), WHOLE, reference)
    return {name: figure.estimate.value for name, figure in found.items() if figure.estimate is not None}


def _shown(rows: list[dict[str, Any]], title: str) -> None:
    print(title, file=sys.stderr)
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *[[_cell(row.get(name, "-")) for name in names] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), file=sys.stderr)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(arguments: list[str]) -> int:
    """See the module docstring; prints one JSON object as the last line with --json."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench evaluation", description="Metrics where the answer is known.")
    parser.add_argument("--quick", action="store_true", help="fewer clips")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--media", help="a folder with the clips of people that `bench signals` takes")
    options = parser.parse_args(arguments)
    sets = {"characters": characters(6 if options.quick else 24)}
    if options.media:
        sets["people"] = people(Path(options.media))
    rows: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "lag": lambda: lag(sets),
        "sync": lambda: sync(sets),
        "floor": lambda: floor((4, 8) if options.quick else (4, 8, 16, 32)),
        "seen": lambda: seen(6 if options.quick else 24),
    }
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, found in rows.items():
        tables[name] = found()
        _shown(tables[name], name)
    if options.json:
        print(json.dumps(tables))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
