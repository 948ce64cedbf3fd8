"""What a job does besides its media, in processor seconds: from the list of sources to a dataset that is opened, at one number of sources.

    folder of n empty files -> listed -> looked into (told, not done) -> notes -> parts -> shards of tiny clips, receipts -> the commit
        -> audited -> grown by 1 % -> opened for training -> a ledger of n updates

Every step is the pipeline's own code on real files; alone what media would tell, lengths and latents, is made up.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ..datasets.config import DataConfig
from ..datasets.format.account import read_account, write_account
from ..datasets.format.clip_table import read_clips, write_clips
from ..datasets.format.manifest import MANIFEST, open_manifest
from ..datasets.format.part_writer import PartWriter
from ..datasets.format.parts import Item, Outcome, Part, Receipt, parts_of, receipt_of, write_receipt
from ..datasets.format.records import ClipRecord
from ..datasets.format.statistics import merged, statistics_of
from ..datasets.intake.sources import source_to_json
from ..datasets.ledger import Update, faults, read_chain, write_segment
from ..datasets.places.store import LocalStore, write_bytes
from ..datasets.preparing.audit import audit
from ..datasets.preparing.commit import described, line_of
from ..datasets.preparing.growth import growth, listed
from ..datasets.preparing.look import Looked, looked_of
from ..datasets.preparing.making import Tally, clip_id, part_row
from ..datasets.preparing.measuring import Codecs
from ..datasets.preparing.notes import SurveyNotes
from ..datasets.reading.loader import LatentDataset
from ..model.codecs.dct import DctVideoCodec, VideoMoments
from ..model.codecs.mdct import AudioMoments, MdctAudioCodec
from ..model.text import TextConfig
from ._scale_corpus import Mix, config_of, write_files

T = TypeVar("T")
EMPTY = Mix(0, 0)
BATCH = 8  # clips of an update of the ledger
SEGMENT = 100  # updates between two checkpoints


@dataclass
class Steps:
    """What the clock says that a step took, by its name."""

    clock: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, name: str, do: Callable[[], T]) -> T:
        began = self.clock()
        done = do()
        self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - began
        return done


def run_steps(count: int, root: Path, clock: Callable[[], float] = time.process_time) -> dict[str, float]:
    """What each step takes for `count` sources of one clip each. clock: processor seconds of this process, which what else runs on the
    machine is not among; or a count of something else.
    """
    steps, out, config = Steps(clock), root / "out", config_of(root / "media")
    out.mkdir(parents=True)
    write_files(root / "media", 0, count, EMPTY)
    store = LocalStore(out)
    sources = steps.timed("list sources", lambda: listed(config.inputs, ()))
    looked = {s.name: Looked(content=hashlib.sha256(s.name.encode()).hexdigest(), seconds=0.6) for s in sources}
    steps.timed("rows of a stage", lambda: [{"source": source_to_json(s)} for s in sources])

    def noted() -> None:
        notes = SurveyNotes(store, "settings")
        for source in sources:
            notes.add(source, looked_of(looked[source.name].to_json()))
        notes.flush()

    steps.timed("write notes", noted)
    notes = steps.timed("read notes", lambda: SurveyNotes(store, "settings"))
    assert all(notes.known(s) == looked[s.name] for s in sources[:: max(1, count // 10)])
    items = [Item(s, looked[s.name].content, 1) for s in sources]
    parts = steps.timed("cut parts", lambda: parts_of(items, config.clip_bytes, "settings"))
    steps.timed("rows of parts", lambda: list(map(part_row, parts)))
    texts = [_made(store, part, config) for part in parts]
    receipts = steps.timed("read receipts", lambda: list(map(receipt_of, texts)))
    outcomes = {outcome.name: outcome for receipt in receipts for outcome in receipt.outcomes}
    lines = steps.timed("lines of the account", lambda: [line_of(s, looked[s.name], outcomes[s.name], 1) for s in sources])
    codecs = _codecs(config)
    manifest = steps.timed("describe", lambda: described(config, codecs, lines, receipts, None))
    steps.timed("write account", lambda: write_account(store, manifest.account, lines))
    rows = [row for receipt in receipts for row in receipt.clips]
    steps.timed("write clip table", lambda: write_clips(store, manifest.table, rows))
    steps.timed("write manifest", lambda: write_bytes(store, MANIFEST, manifest.to_json()))
    steps.timed("open manifest", lambda: open_manifest(out / MANIFEST))
    lines = steps.timed("read account", lambda: read_account(out / manifest.account))
    steps.timed("read clip table", lambda: read_clips(out / manifest.table))
    found = steps.timed("audit", lambda: audit(store, sources))
    assert not found.faults, found.faults[0]
    account = {line.path: line for line in lines}
    write_files(root / "media", count, max(1, count // 100), EMPTY)
    now = steps.timed("list again", lambda: listed(config.inputs, lines))
    grown = steps.timed("find growth of 1 %", lambda: growth(now, account, None))
    assert (len(grown.fresh), grown.gone) == (max(1, count // 100), ())
    dataset = steps.timed("open for training", lambda: LatentDataset(out, TextConfig()))
    stage = steps.timed("order of a stage", lambda: dataset.stage(0, "mixed", BATCH))
    steps.timed("first batch", lambda: stage.batch(range(BATCH)))
    _ledger(store, steps, [stage.at(p)[0] for p in range(len(stage) // BATCH * BATCH)], dataset.train_ids)
    return steps.seconds


def _made(store: LocalStore, part: Part, config: DataConfig) -> str:
    """A part as `MakePart` leaves it; its receipt."""
    t, side, tally = config.timeline, config.video_codec.spatial, Tally({}, [(30.0, 20.0)])
    rng = np.random.default_rng(int(part.name, 16))
    video = (t.video_latents(1), config.video_codec.channels, config.height // side, config.width // side)
    audio = (t.audio_latents(1), config.audio_codec.channels)
    writer, outcomes = PartWriter(store, part), list[Outcome]()
    for number, item in enumerate(part.items):
        latents = (rng.normal(size=video).astype(np.float16), rng.normal(size=audio).astype(np.float16))
        if not number:
            tally.statistics = merged(tally.statistics, statistics_of(*latents))
        writer.add(ClipRecord(clip_id(item.content, 0.0, 1), item.source.name, 0.0, *latents, "", (), item.content), 1)
        writer.accept((("source_fps", 24.0), ("drift_ms", 0.0)))
        outcomes.append(Outcome(item.source.name, clips=1, seconds=0.6, frames=14, samples=9600, av_offset_ms=0.0))
    writer.close()
    receipt = Receipt(tuple(outcomes), tuple(writer.rows), tuple(writer.shards), tuple(tally.quality), tally.statistics, writer.columns)
    write_receipt(store, part, receipt)
    return receipt.to_json()


def _codecs(config: DataConfig) -> Codecs:
    video, audio = VideoMoments(config.video_codec.spatial, config.video_codec.temporal), AudioMoments(config.audio_codec.hop)
    rng, t = np.random.default_rng(0), config.timeline
    frames = rng.integers(0, 256, (1, t.frames(1), config.height, config.width, 3), np.uint8)
    video.update(torch.from_numpy(frames))
    audio.update(torch.from_numpy(rng.uniform(-0.5, 0.5, (1, t.audio_latents(1) * config.audio_codec.hop)).astype(np.float32)))
    return DctVideoCodec.fit(config.video_codec, video).to_json(), MdctAudioCodec.fit(config.audio_codec, audio).to_json()


def _ledger(store: LocalStore, steps: Steps, order: list[str], train: list[str]) -> None:
    updates = [Update(n, tuple(order[BATCH * n : BATCH * (n + 1)]), True) for n in range(len(order) // BATCH)]

    def written() -> None:
        nonlocal head
        for first in range(0, len(updates), SEGMENT):
            head = write_segment(store, f"run/ledger/{first}.jsonl", head, updates[first : first + SEGMENT])

    head = None
    steps.timed("write ledger", written)
    read = steps.timed("read ledger", lambda: read_chain(store, head))
    wrong = steps.timed("audit ledger", lambda: list(faults(read, len(updates), BATCH, train, iter(order))))
    assert not wrong, wrong[0]
