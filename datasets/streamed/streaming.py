"""Clips straight from raw media, for training that does not wait for a dataset: a first look, or a corpus whose latents find no room.

    sources -> look -> SourceClips -> rows {clip: an Arrow stream}    on CPUs that training leaves free; Ray Data holds them back
                   ^              \\-> a line for each source          StreamAccount, on the machine of the command
                   +-- which clips a resumed stage has had <----------+

A few sources are prepared before, as any dataset: their codecs make all latents, and what is held out of them stays held out. In a pass
each clip comes once, in an order that follows from no seed: the position of a stage is the clips that the ledger says it has had.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.data import TaskPoolStrategy

from ...model.noise import position_seed
from ..config import DataConfig, PoolConfig
from ..encoding.encoders import ClipEncoder
from ..ffmpeg.ffmpeg_program import MediaError
from ..format.account import UNREAD, read_account
from ..format.clip_table import read_clips
from ..format.manifest import Manifest
from ..format.parts import Item
from ..intake.sources import Source, source_from_json, source_to_json
from ..preparing.commit import is_held_out, line_of
from ..preparing.look import Look, refusal
from ..preparing.making import SourceClips
from ..preparing.trials import UNWATCHED, Trials
from .packed_clip import pack_clip

MOST_BLOCKS = 4096  # of sources
CLIPS_A_BLOCK = 4  # that go to training together
HELD_BYTES = 64 << 20  # of a source's clips that wait for its end: most sources are refused before training has seen any of them
PAUSES = (2.0, 10.0, 30.0)  # seconds before a source that could not be read is tried again
HELD_OUT = "held out"


@dataclass(frozen=True)
class HeldOut:
    """What is kept from training: sources by the hashes of their bytes, and such whose first clip hashes below a bound; see `commit`."""

    contents: frozenset[str]
    below: int

    @staticmethod
    def of(folder: Path, manifest: Manifest) -> HeldOut:
        """What a dataset in a folder holds out."""
        apart = set(manifest.held_out)
        names = {clip.source for clip in read_clips(folder / manifest.table) if clip.clip_id in apart}
        contents = frozenset(line.content for line in read_account(folder / manifest.account) if line.path in names)
        return HeldOut(contents, manifest.held_out_below)


class StreamSource:
    """Row {source: JSON} -> rows {clip: bytes}, while it is decoded. account: a `StreamAccount`, which hears what came of the source, and
    tells where `resumed` which clips the stage has had. trials: see `trials.py`.
    """

    def __init__(
        self,
        config: DataConfig,
        encoder: ClipEncoder,
        held_out: HeldOut,
        account: Any,
        stage: str,
        resumed: bool = False,
        trials: Trials = UNWATCHED,
    ) -> None:
        self._config, self._encoder, self._held_out = config, encoder, held_out
        self._account, self._stage, self._resumed, self._trials = account, stage, resumed, trials

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, bytes]]:
        source = source_from_json(row["source"])
        for pause in (*PAUSES, 0.0):
            try:
                with self._trials.of(source.name):
                    line, given = yield from self._clips(source)
            except MediaError as error:  # it has ended its workers
                line, given = line_of(source, refusal(error), None, 1), 0
            if line.stage != UNREAD or given or not pause:
                break
            time.sleep(pause)
        ray.get(self._account.tell.remote(line))

    def _clips(self, source: Source) -> Iterator[Any]:
        """Gives clips; returns what came of the source, and how many clips were given."""
        looked = Look(self._config).look(source)
        if looked.reason or looked.content in self._held_out.contents:
            if not looked.reason:
                looked = replace(looked, stage="filter", reason=HELD_OUT)
            return line_of(source, looked, None, 1), 0
        done = _done(self._account, self._stage) if self._resumed else frozenset()
        clips = SourceClips(self._config, self._encoder, Item(source, looked.content, 1, looked.starts), done=done)
        waiting, size, given = list[bytes](), 0, 0
        for made in clips:
            if not (waiting or given or clips.passed_over) and is_held_out(self._config, made.record.clip_id, self._held_out.below):
                return line_of(source, replace(looked, stage="filter", reason=HELD_OUT), None, 1), 0
            waiting.append(pack_clip(made.record))
            size += len(waiting[-1])
            if size > HELD_BYTES:
                given += len(waiting)
                yield from ({"clip": clip} for clip in waiting)
                waiting = []
        line = line_of(source, looked, clips.outcome, 1)
        if line.used:
            given += len(waiting)
            yield from ({"clip": clip} for clip in waiting)
        elif given:  # a long one, which turned out to be damaged later
            line = replace(line, clips=given, note=f"{given} of its clips had gone to training")
        return line, given


@lru_cache(maxsize=4)
def _done(account: Any, stage: str) -> frozenset[str]:
    """The clips that a stage has had, once a process."""
    return ray.get(account.had.remote(stage))


def blocks(sources: Sequence[Source], seed: int) -> ray.data.Dataset:
    """Sources as rows, in an order of their own: neighbours in a folder are alike. Ray must be running."""
    mixed = sorted(sources, key=lambda s: position_seed(seed, "streamed", s.name))
    return ray.data.from_items([{"source": source_to_json(s)} for s in mixed], override_num_blocks=min(len(mixed), MOST_BLOCKS))


def stream(rows: ray.data.Dataset, work: StreamSource, clip_bytes: int, most: int, pool: PoolConfig) -> ray.data.Dataset:
    """The clips of these sources, once each time it is gone through, each time in another order; at most so many are decoded at once, on
    the nodes that `pool` names.
    """
    decoding = TaskPoolStrategy(size=most)
    dataset = rows.randomize_block_order().flat_map(work, compute=decoding, **pool.options)
    dataset.context.target_max_block_size = CLIPS_A_BLOCK * clip_bytes
    return dataset
