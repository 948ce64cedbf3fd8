"""Clips straight from raw media, for training that does not wait for a dataset: a first look, or a corpus whose latents find no room.

    sources -> look -> SourceClips -> rows {clip: an Arrow stream}    on CPUs that training leaves free; Ray Data holds them back
                                  \\-> a line for each source          StreamAccount, on the machine of the command

A few sources are prepared before, as any dataset: their codecs make all latents, and what is held out of them stays held out. In a pass
each clip comes once, in an order that follows from no seed: the position of a stage is the clips that the ledger says it has had.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.data import TaskPoolStrategy

from .account import SourceLine, read_account, records
from .clip_table import read_clips
from .commit import line_of
from .config import DataConfig
from .encoders import ClipEncoder
from .filters import rule_of
from .look import Look
from .making import SourceClips
from .manifest import Manifest
from .packed_clip import pack_clip
from .parts import Item
from .sources import Source, source_from_json, source_to_json

STREAMED = "streamed.jsonl"
MOST_BLOCKS = 4096  # of sources
CLIPS_A_BLOCK = 4  # that go to training together
Tell = Callable[[SourceLine], None]


class StreamSource:
    """Row {source: JSON} -> rows {clip: bytes}, while it is decoded. held_out: hashes of sources that are not trained on; done: a reference
    to the ids of clips that are not wanted; tell: hears what came of the source.
    """

    def __init__(
        self, config: DataConfig, encoder: ClipEncoder, held_out: frozenset[str], tell: Tell, done: ray.ObjectRef | None = None
    ) -> None:
        self._config, self._encoder, self._held_out, self._done, self._tell = config, encoder, held_out, done, tell

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, bytes]]:
        source = source_from_json(row["source"])
        looked = Look(self._config).look(source)
        if looked.reason:
            self._tell(line_of(source, looked, None, 1))
            return
        if looked.content in self._held_out:
            return
        done: frozenset[str] = ray.get(self._done) if self._done is not None else frozenset()
        clips = SourceClips(self._config, self._encoder, Item(source, looked.content, 1, looked.starts), done=done)
        for made in clips:
            yield {"clip": pack_clip(made.record)}
        self._tell(line_of(source, looked, clips.outcome, 1))


def stream(sources: Sequence[Source], config: DataConfig, work: StreamSource, most: int) -> ray.data.Dataset:
    """The clips of these sources, once each time it is gone through, each time in another order; at most so many are decoded at once. Ray
    must be running.
    """
    rows = [{"source": source_to_json(source)} for source in sources]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).randomize_block_order()
    dataset = dataset.flat_map(work, compute=TaskPoolStrategy(size=most), num_cpus=1)
    dataset.context.target_max_block_size = CLIPS_A_BLOCK * config.clip_bytes
    return dataset


def held_out_contents(folder: Path, manifest: Manifest) -> frozenset[str]:
    """Hashes of the sources that a dataset in a folder holds out."""
    apart = set(manifest.held_out)
    names = {clip.source for clip in read_clips(folder / manifest.table) if clip.clip_id in apart}
    return frozenset(line.content for line in read_account(folder / manifest.account) if line.path in names)


@ray.remote(num_cpus=0)
class StreamAccount:
    """Keeps what came of each source that was streamed: a line for each in a file, the last one counts; and how many were refused, why."""

    def __init__(self, path: Path) -> None:
        self._path, self._reasons = path, dict[str, str]()
        if path.is_file() and (text := path.read_bytes()) and not text.endswith(b"\n"):
            path.write_bytes(text + b"\n")  # a killed one was cut off in the middle of a line

    def tell(self, line: SourceLine) -> None:
        if self._reasons.get(line.path) == line.reason:
            return  # as in the pass before, or in another stage
        self._reasons[line.path] = line.reason
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(records([line])[0], ensure_ascii=False) + "\n")

    def told(self) -> tuple[int, dict[str, int]]:
        """How many sources gave clips, and how many did not, by the reason."""
        refused = [rule_of(reason) for reason in self._reasons.values() if reason]
        return len(self._reasons) - len(refused), dict(Counter(refused))
