"""One clip as a film to be looked at: as it comes back from its latents, on the left its source if that is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .at_hand import at_hand
from .clip_table import ClipRow, read_clips
from .config import DataConfig
from .cutting import only
from .ffmpeg_child import MediaError
from .film import open_film
from .manifest import Manifest
from .media_write import write_media
from .pictures import Records, decode_record
from .pretrained_codecs import open_codecs
from .probe import probe
from .scratch import Scratch
from .sources import Source
from .store import Store


def play(store: Store, manifest: Manifest, config: DataConfig, clip: str, sources: Sequence[Source] | None, out: Path) -> str:
    """Write the clip whose id begins so; returns in a few words what is seen. sources: those of the dataset, None: they are not at hand.

    Raises:
        ValueError: no clip, or several, have such an id, or the set has no pictures; `out` has no suffix of a film.
    """
    row = _row(read_clips(store.fetch(manifest.table)), clip)
    record = Records(store, manifest).at(row)
    if record.video is None or record.audio is None:
        raise ValueError(
            f"--clip={clip!r}: clips of this dataset hold {' and '.join(manifest.modalities)} alone; there is no film to write"
        )
    codecs = open_codecs(manifest.video_codec, manifest.audio_codec, config.pretrained)
    shown = decode_record(record, manifest, row.clip_id, codecs)
    source = next((s for s in sources or () if s.name == row.source and not s.refused), None)
    before = None if source is None else _source(source, config, row, len(shown.frames))
    frames = shown.frames if before is None else np.concatenate([before, shown.frames], axis=2)
    write_media(out, frames, shown.fps, shown.audio, shown.sample_rate)
    return f"{row.source} at {row.start_s:.2f} s: " + ("from its latents" if before is None else "its source, and from its latents")


def _row(rows: Sequence[ClipRow], clip: str) -> ClipRow:
    found = [row for row in rows if row.clip_id.startswith(clip)]
    if len(found) == 1 and clip:
        return found[0]
    there = f"{len(found)} clips begin so" if found else "no clip has this id"
    some = ", ".join(row.clip_id for row in (found or rows)[:3])
    raise ValueError(f"--clip={clip!r}: {there}; the table of clips lists them, among others {some}")


def _source(source: Source, config: DataConfig, row: ClipRow, count: int) -> np.ndarray | None:
    """The same pictures as the source has them; None where it cannot be read any more."""
    fps = config.timeline.fps
    try:
        with Scratch() as scratch, at_hand(source, scratch) as path:
            found = only(probe(path), ("video",))
            first = round(row.start_s * fps)
            with open_film(path, found, config.decoding, row.start_s, (first + count) / fps) as film:
                cut = film.read(first, count)
    except (MediaError, OSError):
        return None
    return None if cut is None or cut.frames is None or len(cut.frames) < count else cut.frames
