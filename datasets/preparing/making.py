"""From a part's sources to its shards: decode, cut, judge, encode, write. One process, one film at a time, one clip in memory at a time.

SourceClips:  film.read -> Clip -> judge -> encoder.encode -> ClipRecord -> MakePart:   PartWriter -> shard, and a receipt at the end
                                    \\-> LeftOut, with the reason          \\-> streaming.py: straight to the trainers
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from ..config import DataConfig
from ..encoding.encoders import Answer, ClipEncoder, Latents, UnfitLatents
from ..ffmpeg.ffmpeg_child import MediaError
from ..ffmpeg.probe import probe
from ..format.account import UNREAD, LeftOut
from ..format.clip_table import Found
from ..format.part_writer import PartWriter
from ..format.parts import Item, Outcome, Part, Receipt, write_receipt
from ..format.shards import ClipRecord
from ..format.statistics import Statistics, merged, statistics_of
from ..intake.at_hand import at_hand
from ..intake.sidecars import Sidecar
from ..intake.source_text import text_of
from ..intake.sources import Span, source_from_json, source_to_json
from ..places.scratch import Scratch
from ..places.store import store_of
from ..signals.filters import rule_of
from .cutting import Clip, Reel
from .judging import Judgement, judge
from .look import Refused, require, too_short
from .scribing import text_of_clip
from .trials import UNWATCHED, Trials

Row = dict[str, Any]
Good = tuple[Clip, Judgement]
UNDER_WAY = 1  # clips that an encoder has while the next is decoded


@dataclass
class Tally:
    """What clips add up to besides themselves."""

    statistics: Statistics
    quality: list[tuple[float, float]]


@dataclass(frozen=True)
class Made:
    """A clip that was made: its record, its length in chunks, its fingerprint (empty: not asked for)."""

    record: ClipRecord
    chunks: int
    fingerprint: str


class MakePart:
    """Row {part: JSON} -> row {part: its name, receipt: JSON}: makes a part's clips, writes its shards and its receipt."""

    def __init__(self, config: DataConfig, encoder: ClipEncoder, uri: str, trials: Trials = UNWATCHED) -> None:
        self._config, self._encoder, self._uri, self._trials = config, encoder, uri, trials

    def __call__(self, row: Row) -> Row:
        part = part_of(row["part"])
        return {"part": part.name, "receipt": self.make(part).to_json()}

    def make(self, part: Part) -> Receipt:
        tally = Tally({}, [])
        with store_of(self._uri) as store:
            writer = PartWriter(store, part)
            outcomes = tuple(self._outcome(item, writer, tally) for item in part.items)
            with self._trials.of(part.receipt):  # no source is to blame: the job ends
                writer.close()
                receipt = Receipt(
                    outcomes, tuple(writer.rows), tuple(writer.shards), tuple(tally.quality), tally.statistics, writer.columns
                )
                write_receipt(store, part, receipt)
        return receipt

    def _outcome(self, item: Item, writer: PartWriter, tally: Tally) -> Outcome:
        try:
            with self._trials.of(item.source.name):
                return self._made(item, writer, tally)
        except MediaError as error:
            return Outcome(item.source.name, error.stage, error.reason)

    def _made(self, item: Item, writer: PartWriter, tally: Tally) -> Outcome:
        own = Tally({}, list(tally.quality))
        clips = SourceClips(self._config, self._encoder, item, own)
        for made in clips:
            writer.add(made.record, made.chunks, made.fingerprint)
        outcome = clips.outcome
        if outcome.reason:
            writer.reject()
        else:
            writer.accept(outcome.timing)
            tally.statistics, tally.quality = merged(tally.statistics, own.statistics), own.quality
        return outcome


class SourceClips:
    """The clips of a source, one at a time, as they are decoded; after the last, `outcome` says what came of it. A refusal may come after
    clips have been given: whoever wants all or none must wait for the end.

    tally: is added to; the first clip of a tally is decoded again, to see what the codecs lose. done: ids of clips that are not wanted;
    they are counted as `passed_over`, and a source of which no other is wanted is not decoded.
    """

    def __init__(
        self, config: DataConfig, encoder: ClipEncoder, item: Item, tally: Tally | None = None, done: Collection[str] = ()
    ) -> None:
        self._config, self._encoder, self._item, self._tally, self._done = config, encoder, item, tally, done
        self.passed_over = 0
        self.outcome = Outcome(item.source.name)

    def __iter__(self) -> Iterator[Made]:
        source = self._item.source
        try:
            with ExitStack() as stack:
                try:
                    path = stack.enter_context(at_hand(source, stack.enter_context(Scratch())))
                    text = text_of(source)
                except OSError as error:  # of the source alone: a full disk below this must end the job
                    self.outcome = Outcome(source.name, UNREAD, f"cannot be read ({error.strerror or error})")
                    return
                except ValueError as error:
                    raise Refused("text", str(error)) from error
                yield from self._made(path, text)
        except MediaError as error:
            self.outcome = Outcome(source.name, error.stage, error.reason, error.said)
        except Refused as error:
            self.outcome = Outcome(source.name, error.stage, str(error))

    def _made(self, path: Path, text: Sidecar) -> Iterator[Made]:
        config, source, tally = self._config, self._item.source, self._tally
        found = probe(path, needs_video="video" in config.modalities)
        require(found, config)
        try:
            text = text.over(found.duration_s or inf)
        except ValueError as error:
            raise Refused("text", str(error)) from error
        made, left_out = 0, list[LeftOut]()
        reel = Reel(path, found, config, source.spans, self._item.starts, self._is_done)
        for (clip, judged), latents in self._encoded(self._good(reel, left_out), left_out):
            record = self._record(clip, text_at(text, clip.span), latents, judged.found)
            if tally is not None:
                if not tally.quality:
                    tally.quality += self._encoder.judge(_batch(clip.frames), _batch(clip.audio), latents)
                tally.statistics = merged(tally.statistics, statistics_of(record.video, record.audio))
            self.passed_over = reel.passed_over
            yield Made(record, clip.chunks, judged.fingerprint)
            made += 1
        seen, made = reel.seen, made + reel.passed_over
        if not made and not left_out:
            raise Refused("filter", too_short(seen.frames, config))
        if not made:
            raise Refused("filter", left_out[0].reason)
        rules = Counter(rule_of(clip.reason) for clip in left_out)
        note = "; ".join([*seen.notes, *(f"{count} of its clips left out: {rule}" for rule, count in rules.items())])
        self.outcome = Outcome(
            source.name,
            note=note,
            clips=made,
            left_out=tuple(left_out),
            seconds=seen.frames / config.timeline.fps,
            frames=seen.frames,
            samples=seen.samples,
            av_offset_ms=seen.av_offset_ms,
            timing=seen.timing,
        )

    def _is_done(self, start_s: float, chunks: int) -> bool:
        return bool(self._done) and clip_id(self._item.content, start_s, chunks) in self._done

    def _good(self, reel: Reel, left_out: list[LeftOut]) -> Iterator[Good]:
        """The clips that no rule refuses; the others are left out with the reason."""
        for clip in reel:
            judged = judge(clip, self._config)
            if judged.reason:
                left_out.append(LeftOut(clip.start_s, judged.reason))
            else:
                yield clip, judged

    def _encoded(self, clips: Iterator[Good], left_out: list[LeftOut]) -> Iterator[tuple[Good, Latents]]:
        """Clips with their latents, in their order: the next are decoded while an encoder elsewhere has some. Those whose latents 16 bits
        cannot hold are left out."""
        waiting: deque[tuple[Good, Answer]] = deque()

        def first() -> Iterator[tuple[Good, Latents]]:
            good, answer = waiting.popleft()
            try:
                yield good, answer.result()
            except UnfitLatents as error:
                left_out.append(LeftOut(good[0].start_s, str(error)))

        for good in clips:
            clip = good[0]
            try:
                waiting.append((good, self._encoder.submit(_batch(clip.frames), _batch(clip.audio))))
            except UnfitLatents as error:
                left_out.append(LeftOut(clip.start_s, str(error)))
            if len(waiting) > UNDER_WAY:
                yield from first()
        while waiting:
            yield from first()

    def _record(self, clip: Clip, text: Sidecar, latents: Latents, found: Found) -> ClipRecord:
        item = self._item
        video, audio = (None if x is None else x[0] for x in latents)
        caption, words = text_of_clip(text, clip, self._config)
        return ClipRecord(
            clip_id=clip_id(item.content, clip.start_s, clip.chunks),
            source=item.source.name,
            start_s=clip.start_s,
            video=video,
            audio=audio,
            caption=caption,
            words=words,
            content=item.content,
            tags=text.tags,
            found=found,
            end_s=clip.start_s + float(self._config.timeline.seconds(clip.chunks)),
        )


def text_at(text: Sidecar, span: Span | None) -> Sidecar:
    """What a list says of a piece of a source stands before what is said of all of it."""
    if span is None:
        return text
    tags = tuple((dict(text.tags) | dict(span.tags)).items())
    return Sidecar(span.caption or text.caption, span.words or text.words, tags=tags)


def clip_id(content: str, start_s: float, chunks: int) -> str:
    """Stable wherever the source lies and whatever it is called: a hash of its bytes and of the span."""
    return hashlib.sha256(f"{content}:{start_s:.6f}:{chunks}".encode()).hexdigest()[:16]


def part_of(text: str) -> Part:
    """What `part_row` wrote."""
    name, items = json.loads(text)
    return Part(name, tuple(Item(source_from_json(source), content, clips, tuple(starts)) for source, content, clips, starts in items))


def part_row(part: Part) -> Row:
    """A part as a row of a table."""
    return {"part": json.dumps([part.name, [[source_to_json(i.source), i.content, i.clips, i.starts] for i in part.items]])}


def _batch(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array[None]
