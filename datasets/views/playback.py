"""One clip as a film to be looked at: as it comes back from its latents, on the left its source if that is at hand. Of sound alone, first
the source is heard, then what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..config import DataConfig
from ..ffmpeg.ffmpeg_child import MediaError
from ..ffmpeg.film import Cut, open_film
from ..ffmpeg.media_write import write_media
from ..ffmpeg.probe import probe
from ..format.clip_table import ClipRow, read_clips
from ..format.manifest import Manifest
from ..intake.at_hand import at_hand
from ..intake.sources import Source
from ..places.scratch import Scratch
from ..places.store import Store
from ..preparing.cutting import only
from .contact_sheet import SheetClip
from .panels import SOUND_FPS, one_after_the_other, side_by_side
from .pictures import Records, codecs_of, decode_record

SOURCE, LATENTS = "source", "from its latents"


def play(store: Store, manifest: Manifest, config: DataConfig, clip: str, sources: Sequence[Source] | None, out: Path) -> str:
    """Write the clip whose id begins so; returns in a few words what is seen. sources: those of the dataset, None: they are not at hand.

    Raises:
        ValueError: no clip, or several, have such an id; `out` has no suffix of a film.
    """
    row = _row(read_clips(store.fetch(manifest.table)), clip)
    record = Records(store, manifest).at(row)
    shown = decode_record(record, manifest, row.clip_id, codecs_of(manifest, config.pretrained))
    source = next((s for s in sources or () if s.name == row.source and not s.refused), None)
    cut = None if source is None else _source(source, config, row.start_s, shown)
    if shown.frames is not None:
        panels = _panels(cut and cut.frames, shown.frames)
        write_media(out, side_by_side(panels), shown.fps, shown.audio, shown.sample_rate)
    else:
        assert shown.audio is not None, "a clip has pictures or sound"
        panels = _panels(cut and cut.audio, shown.audio)
        frames, audio = one_after_the_other(panels, shown.sample_rate)
        write_media(out, frames, SOUND_FPS, audio, shown.sample_rate)
    both = f"its source, {'then' if shown.frames is None else 'and'} {LATENTS}"
    return f"{row.source} at {row.start_s:.2f} s: " + (both if len(panels) > 1 else LATENTS)


def _panels(before: np.ndarray | None, shown: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [*([] if before is None else [(SOURCE, before)]), (LATENTS, shown)]


def _row(rows: Sequence[ClipRow], clip: str) -> ClipRow:
    found = [row for row in rows if row.clip_id.startswith(clip)]
    if len(found) == 1 and clip:
        return found[0]
    there = f"{len(found)} clips begin so" if found else "no clip has this id"
    some = ", ".join(row.clip_id for row in (found or rows)[:3])
    raise ValueError(f"--clip={clip!r}: {there}; the table of clips lists them, among others {some}")


def _source(source: Source, config: DataConfig, start_s: float, shown: SheetClip) -> Cut | None:
    """The same of the source, as far as the clip has it; None where it cannot be read any more, or gives less."""
    fps = config.timeline.fps
    try:
        with Scratch() as scratch, at_hand(source, scratch) as path:
            found = only(probe(path, needs_video=shown.frames is not None), ("audio",) if shown.frames is None else ("video",))
            first, count = round(start_s * fps), round(shown.seconds * fps)
            with open_film(path, found, config.decoding, start_s, (first + count) / fps) as film:
                cut = film.read(first, count)
    except (MediaError, OSError):
        return None
    return None if cut is None or (cut.frames is not None and len(cut.frames) < count) else cut
