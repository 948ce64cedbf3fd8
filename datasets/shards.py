"""Latent shards: Arrow IPC files with one record a clip, readable with pyarrow alone, memory-mapped, written atomically."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from .storage import atomic_path

WORD = pa.struct([("word", pa.string()), ("start", pa.float64()), ("end", pa.float64())])


@dataclass(frozen=True)
class ClipRecord:
    """One clip: video latents fp16 [F, C, H, W], audio latents fp16 [T, C], its text on its own clock, and where it came from."""

    clip_id: str
    source: str
    start_s: float
    video: np.ndarray
    audio: np.ndarray
    caption: str
    words: tuple[tuple[str, float, float], ...]


def write_shard(path: Path, records: Sequence[ClipRecord]) -> None:
    """Write clips of equal shape to an Arrow IPC file; a killed writer leaves no file under `path`."""
    video = pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack([r.video for r in records]))
    audio = pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack([r.audio for r in records]))
    words = [[{"word": w, "start": s, "end": e} for w, s, e in r.words] for r in records]
    table = pa.table(
        {
            "clip_id": pa.array([r.clip_id for r in records], pa.string()),
            "source": pa.array([r.source for r in records], pa.string()),
            "start_s": pa.array([r.start_s for r in records], pa.float64()),
            "video": video,
            "audio": audio,
            "caption": pa.array([r.caption for r in records], pa.string()),
            "words": pa.array(words, pa.list_(WORD)),
        }
    )
    with atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


class Shard:
    """A memory-mapped shard; reading a row copies only that row."""

    def __init__(self, path: Path) -> None:
        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"shard {path}: not a readable Arrow IPC file ({error}); prepare the data again") from error
        if not {"clip_id", "source", "start_s", "video", "audio", "caption", "words"} <= set(self._table.column_names):
            raise ValueError(f"shard {path}: is an Arrow file, but not of clips; prepare the data again")
        self._video = self._tensor("video")
        self._audio = self._tensor("audio")

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def clip_ids(self) -> list[str]:
        return self._table["clip_id"].to_pylist()

    def row(self, index: int) -> ClipRecord:
        values = {name: self._table[name][index].as_py() for name in ("clip_id", "source", "start_s", "caption", "words")}
        words = tuple((w["word"], w["start"], w["end"]) for w in values.pop("words"))
        return ClipRecord(**values, words=words, video=self._video[index], audio=self._audio[index])

    def _tensor(self, name: str) -> np.ndarray:
        column = self._table[name].chunk(0)
        assert isinstance(column, pa.FixedShapeTensorArray)
        return column.to_numpy_ndarray()
