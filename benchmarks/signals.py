"""How well scenes, faces, lags and copies are found, and what that costs a clip.

    characters; with --media, real clips too -> _signals_media -> one table a signal -> here

    scenes       hard cuts, dissolves, flashes, pans                      found, to the frame; found where there is none
    faces        people, drawn characters, a cartoon of animals           share of pictures with a face
    lag          injected lags of -400 to 400 ms; other people's voices   error, by confidence; what a gate of 80 ms would do
    duplicates   copies encoded in eight ways; other clips                found; found where there is none
    cost         processor time of each, at 64 x 64 and at 704 x 1280     ms a clip of 2.5 s

No setting was chosen on these characters, nor that of the lag on these people. The bounds of scenes, faces and copies were chosen with the
same few real clips in view: on others, expect less.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._signals_media import Material

Table = list[dict[str, Any]]
GATE_MS = 80
OFFSETS_MS = (-400, -200, -100, -50, 0, 50, 100, 200, 400)
RIGHT_MS = 45  # a frame and what rounding adds
LEVELS = (0.0, 0.5, 0.8, 0.95, 1.001)


def scenes(media: Path | None, quick: bool) -> Table:
    """Changes of scene, found to the frame, of films that were put together here."""
    from ..datasets.signals.scenes import SceneConfig, scene_starts
    from ._signals_media import ANIMALS, FPS, TALKING, UNKNOWN, characters, films, real

    pool = characters(6 if quick else 12, 3.0)
    pool += [m for m in real(media, (*TALKING, *UNKNOWN, *ANIMALS)) if len(m.frames) >= 60] if media else []
    rows: dict[str, dict[str, Any]] = {}
    for kind, frames, changes in films([m.frames for m in pool], seed=5):
        found = scene_starts(frames, FPS, SceneConfig())
        right = [any(first <= n <= last for n in found) for first, last in changes]
        row = rows.setdefault(kind, {"kind": kind, "seconds": 0.0, "changes": 0, "found": 0, "false": 0})
        row["seconds"] += len(frames) / FPS
        row["changes"] += len(changes)
        row["found"] += sum(right)
        row["false"] += sum(not any(first <= n <= last for first, last in changes) for n in found)
    return list(rows.values())


def faces(media: Path | None, quick: bool) -> Table:
    """Share of pictures with a face, of one in a quarter of a second."""
    from ..datasets.signals.faces import FaceConfig, face_track
    from ._signals_media import ANIMALS, FPS, TALKING, UNKNOWN, characters, real

    sets = [(m, side) for side in ((64, 192) if not quick else (64,)) for m in _joined(characters(4 if quick else 24, 2.0, side))]
    if media:
        sets += [(m, side) for side in (64, 0) for m in real(media, (*TALKING, *UNKNOWN, *ANIMALS), (side, side) if side else None)]
    rows = []
    for clip, _ in sets:
        began = time.process_time()
        track = face_track(clip.frames, FPS, FaceConfig(every_s=0.25))
        cost = 1000 * (time.process_time() - began) / len(track.at)
        size = f"{clip.frames.shape[2]} x {clip.frames.shape[1]}"
        rows.append({"clip": clip.name, "size": size, "pictures": len(track.at), "with a face": track.share, "ms a picture": cost})
    return rows


def _joined(clips: list[Material]) -> list[Material]:
    import numpy as np

    from ._signals_media import Material

    return [Material(f"{len(clips)} characters", np.concatenate([c.frames for c in clips]), clips[0].audio)]


def lag(media: Path | None, quick: bool) -> Table:
    """Errors of the face's lag by confidence, and what a gate would refuse."""
    from ._signals_media import CLIP, TALKING, characters, real

    drawn = characters(6 if quick else 40, 61 / 24)
    rows = _lag_rows("characters, 2.5 s", drawn)
    rows += _lag_rows("characters, 2.5 s, another's voice", [_with_voice(a, b) for a, b in pairwise(drawn)], False)
    if media:
        people = real(media, TALKING, (360, 288))
        parts = [m.part(first, CLIP) for m in people for first in (0, 5, 11)]
        rows += _lag_rows("people (GRID), 2.5 s", parts)
        rows += _lag_rows("people (GRID), 3 s", people)
        rows += _lag_rows("people (GRID), 64 x 64, 3 s", real(media, TALKING))
        others = [_with_voice(a, b) for a in people for b in people if a is not b]
        rows += _lag_rows("people (GRID), 3 s, another's voice", others, False)
    return rows


def _with_voice(seen: Material, heard: Material) -> Material:
    from dataclasses import replace

    return replace(seen, audio=heard.audio)


def _lag_rows(name: str, clips: list[Material], related: bool = True) -> Table:
    import numpy as np

    from ..datasets.signals.faces import FaceConfig, face_track
    from ..datasets.signals.lag import LagConfig, face_lag, refuse_late
    from ._signals_media import FPS, RATE

    found, wanted, late = [], LagConfig(max_av_lag_ms=GATE_MS), {0: [0, 0], 200: [0, 0]}
    for clip in clips:
        track = face_track(clip.frames, FPS, FaceConfig())
        for offset in OFFSETS_MS:
            shift = round(offset * RATE / 1000)
            audio = np.pad(clip.audio, (max(0, shift), max(0, -shift)))[max(0, -shift) :][: len(clip.audio)]
            estimate = face_lag(clip.frames, audio, FPS, RATE, track)
            if abs(offset) in late:
                late[abs(offset)][0] += 1
                late[abs(offset)][1] += refuse_late(estimate, wanted) is not None
            if estimate is not None:
                found.append((offset, estimate.ms - offset, estimate.confidence))
    offsets, errors, sure = (np.array(x) for x in zip(*found, strict=True)) if found else (np.zeros(0),) * 3
    rows: Table = []
    for low, high in pairwise(LEVELS):
        here = (sure >= low) & (sure < high)
        row: dict[str, Any] = {"clips": name, "confidence": f"{low:g} to {min(high, 1):g}", "share": float(here.mean()) if found else 0.0}
        if here.any() and related:
            row["right"] = float((np.abs(errors[here]) <= RIGHT_MS).mean())
            row["mean confidence"] = float(sure[here].mean())
            row["spread ms"] = float(np.quantile(np.abs(errors[here]), 0.9))
        rows.append(row)
    if related and found and (sure >= wanted.min_confidence).sum() > 2:
        chosen = sure >= wanted.min_confidence
        rows[-1]["slope"] = float(np.polyfit(offsets[chosen], (offsets + errors)[chosen], 1)[0])
    for offset, (count, refused) in late.items():
        rows[-1][f"refused at {offset} ms"] = refused / max(1, count)
    rows[-1]["measured"] = len(found) / max(1, len(clips) * len(OFFSETS_MS))
    return rows


def duplicates(media: Path | None, quick: bool) -> Table:
    """Copies that are found, by how they were made; pairs of other clips that are taken for copies."""
    from itertools import combinations

    from ..datasets.signals.duplicates import fingerprint, first_near, near
    from ._signals_media import ANIMALS, COPIES, RATE, SEED, TALKING, UNKNOWN, characters, copy_of, real

    clips = characters(4 if quick else 12, 2.5, 192)
    clips += [m.part(0, 60) for m in real(media, (*TALKING, *UNKNOWN, *ANIMALS), (360, 288)) if len(m.frames) >= 60] if media else []
    prints = [fingerprint(c.frames, c.audio, RATE) for c in clips]
    rows: Table = []
    with tempfile.TemporaryDirectory() as folder:
        for name, how in COPIES.items():
            copies = [copy_of(c, how, Path(folder)) for c in clips]
            others = [fingerprint(c.frames, c.audio, RATE) for c in copies]
            first = first_near([*prints, *others])[len(prints) :]
            right = sum(int(n == found) for n, found in enumerate(first))
            rows.append({"copies": name, "clips": len(clips), "found": right, "of another": sum(int(f >= 0) for f in first) - right})
    many = [fingerprint(c.frames, c.audio, RATE) for c in characters(12 if quick else 200, 2.5, seed=SEED + 1)]
    wrong = sum(near(a, b) for a, b in combinations([*prints, *many], 2))
    rows.append({"copies": "none: other clips, all pairs", "clips": len(prints) + len(many), "found": 0, "of another": wrong})
    return rows


def cost(media: Path | None, quick: bool) -> Table:
    """Processor time of each signal on one clip of 2.5 s, the least of three tries."""
    from dataclasses import replace

    import numpy as np
    from PIL import Image

    from ..datasets.signals.duplicates import fingerprint
    from ..datasets.signals.faces import FaceConfig, face_track
    from ..datasets.signals.lag import face_lag, onset_lag
    from ..datasets.signals.measures import measure
    from ..datasets.signals.scenes import SceneConfig, scene_starts
    from ._signals_media import FPS, RATE, characters

    small = characters(1, 61 / 24)[0]
    large = replace(small, frames=np.stack([np.asarray(Image.fromarray(f).resize((1280, 704))) for f in small.frames]))
    rows = []
    for clip in (small, large):
        frames, audio = clip.frames, clip.audio
        track = face_track(frames, FPS, FaceConfig())
        jobs: dict[str, Callable[[], object]] = {
            "loudness and motion": lambda f=frames, a=audio: measure(f, a),
            "scenes": lambda f=frames: scene_starts(f, FPS, SceneConfig()),
            "faces": lambda f=frames: face_track(f, FPS, FaceConfig()),
            "lag of a face": lambda f=frames, a=audio, t=track: face_lag(f, a, FPS, RATE, t),
            "lag of onsets": lambda f=frames, a=audio: onset_lag(f, a, FPS, RATE),
            "fingerprint": lambda f=frames, a=audio: fingerprint(f, a, RATE),
        }
        row: dict[str, Any] = {"size": f"{frames.shape[2]} x {frames.shape[1]}"}
        rows.append(row | {name: _milliseconds(job) for name, job in jobs.items()})
    return rows


def _milliseconds(job: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        began = time.process_time()
        job()
        times.append(1000 * (time.process_time() - began))
    return min(times)


PARTS: dict[str, Callable[[Path | None, bool], Table]] = {
    "scenes": scenes,
    "faces": faces,
    "lag": lag,
    "duplicates": duplicates,
    "cost": cost,
}


def main(arguments: list[str]) -> int:
    """See the module docstring; prints one JSON object as the last line with --json."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench signals", description="How well scenes, faces, lags and copies are found.")
    parser.add_argument("--quick", action="store_true", help="fewer clips")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--media", help="folder of real clips; without it, drawn characters alone")
    parser.add_argument("--only", default="", help=f"comma-separated: {', '.join(PARTS)}")
    parser.add_argument("--page", help="write the tables into this Markdown page, between its markers")
    options = parser.parse_args(arguments)
    wanted = [name for name in options.only.split(",") if name] or list(PARTS)
    if unknown := sorted(set(wanted) - set(PARTS)):
        raise ValueError(f"--only={','.join(unknown)!r}: unknown; choose from {', '.join(PARTS)}")
    media = Path(options.media) if options.media else None
    if media and not media.is_dir():
        raise ValueError(f"--media={options.media!r}: not a folder; leave it out for drawn characters alone")
    tables = {name: PARTS[name](media, options.quick) for name in wanted}
    from ._page import put

    for name, rows in tables.items():
        text = _text(rows)
        print(f"{name}\n\n{text}\n")
        if options.page:
            put(Path(options.page), name, text)
    if options.json:
        print(json.dumps(tables))
    return 0


def _text(rows: Table) -> str:
    from ._page import table

    columns = list(dict.fromkeys(column for row in rows for column in row))
    return table(columns, [[_shown(row[c]) if c in row else "" for c in columns] for row in rows])


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) and abs(value) < 10 else f"{value:.0f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
