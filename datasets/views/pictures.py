"""A dataset to be looked at: its clips as they come back from their latents."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from math import ceil
from pathlib import Path

from ...model.types import MODALITIES
from ..encoding.pretrained_codecs import CodecPair, PretrainedConfig, open_codecs
from ..format.clip_table import ClipRow
from ..format.manifest import SHEET, Manifest
from ..format.shards import REMEDY, ClipRecord, Shard
from ..format.sixteen_bits import read
from ..places.store import Store, is_remote
from ..progress import Progress, silent
from .contact_sheet import SheetClip, contact_sheet

SHEET_CLIPS = 8
FAR_SHARDS = 2  # that are fetched for it where they lie in S3


class Records:
    """Clips of a dataset by their rows in its table, which may be a stranger's. A shard is fetched with the first row of it."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store, self._open = store, dict[str, Shard]()
        self._named = {entry.file for entry in manifest.shards}

    def at(self, row: ClipRow) -> ClipRecord:
        """The record of a clip.

        Raises:
            ValueError: the table does not tell where it is, or its shard is damaged.
        """
        if row.shard not in self._named:
            raise ValueError(f"clip {row.clip_id}: its shard {row.shard[:80]!r} is none of the manifest; {REMEDY}")
        if row.shard not in self._open:
            self._open[row.shard] = Shard(self._store.fetch(row.shard))
        record = self._open[row.shard].row(row.row)
        if record.clip_id != row.clip_id:
            raise ValueError(f"clip {row.clip_id}: {record.clip_id} stands in its place, row {row.row} of {row.shard}; {REMEDY}")
        return record


def codecs_of(manifest: Manifest, pretrained: PretrainedConfig | None = None) -> CodecPair:
    """The codecs of what the dataset's clips hold; see `open_codecs`."""
    video, audio = (
        codec if modality in manifest.modalities and codec else None
        for modality, codec in zip(MODALITIES, (manifest.video_codec, manifest.audio_codec), strict=True)
    )
    return open_codecs(video, audio, pretrained)


def decode_record(record: ClipRecord, manifest: Manifest, title: str, codecs: CodecPair | None = None) -> SheetClip:
    """A clip of the dataset as pictures and sound, or the one of them that it has, decoded from its latents. codecs: those of the manifest,
    where they are open already.
    """
    t, codecs = manifest.timeline, codecs or codecs_of(manifest)
    frames, audio = (
        None if x is None or codec is None else codec.decode(read(x).float()[None])[0].numpy()
        for x, codec in ((record.video, codecs.video), (record.audio, codecs.audio))
    )
    return SheetClip(title, frames, audio, t.fps, t.sample_rate, list(record.words))


def draw_contact_sheet(
    store: Store, manifest: Manifest, rows: Iterable[ClipRow], progress: Progress = silent, pretrained: PretrainedConfig | None = None
) -> None:
    """A PNG of a few clips spread over the dataset, whose table is `rows`. pretrained: other copies of its codecs, see `open_codecs`."""
    near = manifest.shards[:FAR_SHARDS] if is_remote(store.uri) else manifest.shards  # whole shards are fetched for it
    names, count = {entry.file for entry in near}, sum(entry.rows for entry in near)
    picked = list(islice((row for row in rows if row.shard in names), 0, None, max(1, ceil(count / SHEET_CLIPS))))[:SHEET_CLIPS]
    records, clips, codecs = Records(store, manifest), [], codecs_of(manifest, pretrained)
    for done, row in enumerate(picked):
        progress("draw contact sheet", done, len(picked))
        record = records.at(row)
        clips.append(decode_record(record, manifest, f"{Path(record.source).name} at {record.start_s:.2f} s", codecs))
    with store.writing(SHEET) as path:
        contact_sheet(clips, path)
    progress("draw contact sheet", len(picked), len(picked))
