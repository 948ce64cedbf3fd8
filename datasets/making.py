"""From a part's sources to its shards: decode, cut, judge, encode, write. One process, one film at a time, one clip in memory at a time.

film.read -> Clip -> judge -> encoder.encode -> ClipRecord -> PartWriter -> shard
                      \\-> LeftOut, with the reason                            \\-> receipt, at the end
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from .account import UNREAD, LeftOut
from .at_hand import at_hand
from .clip_table import Found
from .config import DataConfig
from .cutting import Clip, Reel
from .encoders import Answer, ClipEncoder, Latents, UnfitLatents
from .ffmpeg_child import MediaError
from .filters import rule_of
from .judging import Judgement, judge
from .look import Refused, require, too_short
from .part_writer import PartWriter
from .parts import Item, Outcome, Part, Receipt, write_receipt
from .probe import probe
from .scratch import Scratch
from .scribing import text_of_clip
from .shards import ClipRecord
from .sidecars import Sidecar
from .source_text import text_of
from .sources import Span, source_from_json, source_to_json
from .statistics import Statistics, merged, statistics_of
from .store import store_of

Row = dict[str, Any]
Good = tuple[Clip, Judgement]
UNDER_WAY = 1  # clips that an encoder has while the next is decoded


@dataclass
class _Tally:
    """What a part adds up to besides its clips."""

    statistics: Statistics
    quality: list[tuple[float, float]]


class MakePart:
    """Row {part: JSON} -> row {part: its name, receipt: JSON}: makes a part's clips, writes its shards and its receipt."""

    def __init__(self, config: DataConfig, encoder: ClipEncoder, uri: str) -> None:
        self._config, self._encoder, self._uri = config, encoder, uri

    def __call__(self, row: Row) -> Row:
        part = part_of(row["part"])
        return {"part": part.name, "receipt": self.make(part).to_json()}

    def make(self, part: Part) -> Receipt:
        tally = _Tally({}, [])
        with store_of(self._uri) as store:
            writer = PartWriter(store, part)
            outcomes = tuple(self._outcome(item, writer, tally) for item in part.items)
            writer.close()
            receipt = Receipt(outcomes, tuple(writer.rows), tuple(writer.shards), tuple(tally.quality), tally.statistics, writer.columns)
            write_receipt(store, part, receipt)
        return receipt

    def _outcome(self, item: Item, writer: PartWriter, tally: _Tally) -> Outcome:
        source = item.source
        try:
            with ExitStack() as stack:
                try:
                    path = stack.enter_context(at_hand(source, stack.enter_context(Scratch())))
                    text = text_of(source)
                except OSError as error:  # of the source alone: a full disk below this must end the job
                    return Outcome(source.name, UNREAD, f"cannot be read ({error.strerror or error})")
                except ValueError as error:
                    raise Refused("text", str(error)) from error
                own = _Tally({}, list(tally.quality))
                outcome = self._made(item, path, text, writer, own)
                writer.accept(outcome.timing)
                tally.statistics, tally.quality = merged(tally.statistics, own.statistics), own.quality
                return outcome
        except MediaError as error:
            writer.reject()
            return Outcome(source.name, error.stage, error.reason, error.said)
        except Refused as error:
            writer.reject()
            return Outcome(source.name, error.stage, str(error))

    def _made(self, item: Item, path: Path, text: Sidecar, writer: PartWriter, tally: _Tally) -> Outcome:
        config, source = self._config, item.source
        found = probe(path, needs_video="video" in config.modalities)
        require(found, config)
        try:
            text = text.over(found.duration_s or inf)
        except ValueError as error:
            raise Refused("text", str(error)) from error
        made, left_out = 0, list[LeftOut]()
        reel = Reel(path, found, config, source.spans, item.starts)
        for (clip, judged), latents in self._encoded(self._good(reel, left_out), left_out):
            if not tally.quality:
                tally.quality += self._encoder.judge(_batch(clip.frames), _batch(clip.audio), latents)
            record = self._record(item, clip, text_at(text, clip.span), latents, judged.found)
            tally.statistics = merged(tally.statistics, statistics_of(record.video, record.audio))
            writer.add(record, clip.chunks, judged.fingerprint)
            made += 1
        seen = reel.seen
        if not made and not left_out:
            raise Refused("filter", too_short(seen.frames, config))
        if not made:
            raise Refused("filter", left_out[0].reason)
        rules = Counter(rule_of(clip.reason) for clip in left_out)
        note = "; ".join([*seen.notes, *(f"{count} of its clips left out: {rule}" for rule, count in rules.items())])
        return Outcome(
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

    def _record(self, item: Item, clip: Clip, text: Sidecar, latents: Latents, found: Found) -> ClipRecord:
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
