"""What a finished job says of itself: a line for every source, and the manifest. Pure but for what is measured of the shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import merge
from math import isfinite
from types import MappingProxyType
from typing import Any

from ...model.noise import position_seed
from ..config import DataConfig
from ..format.account import SOURCES, SourceLine
from ..format.clip_table import CLIPS, ClipRow, place_of
from ..format.manifest import Manifest
from ..format.part_writer import joined
from ..format.parts import Outcome, Receipt
from ..format.statistics import LatentStatistics, merged
from ..intake.sources import Source
from ..signals.duplicates import Fingerprint, first_near
from .look import Looked


def lines_of(
    sources: Iterable[Source], looked: Mapping[str, Looked], receipts: Iterable[Receipt], account: Mapping[str, SourceLine]
) -> Iterator[SourceLine]:
    """The account, by path: of the sources that were dealt with now, and of the others in the account as it was. The outcomes in receipts
    come in the order of the sources' names; so no more than a receipt is held.
    """
    outcomes = (outcome for receipt in receipts for outcome in receipt.outcomes)
    following = next(outcomes, None)

    def of_now() -> Iterator[SourceLine]:
        nonlocal following
        for source in sorted(sources, key=lambda source: source.name):
            outcome = following if following is not None and following.name == source.name else None
            if outcome is not None:
                following = next(outcomes, None)
            tries = account[source.name].attempts + 1 if source.name in account else 1
            yield line_of(source, looked[source.name], outcome, tries)

    others = (account[name] for name in sorted(account) if name not in looked)
    yield from merge(of_now(), others, key=lambda line: line.path)
    assert following is None, f"{following.name}: what came of it is out of order"


def rows_of(receipts: Iterable[Receipt], table: Iterable[ClipRow]) -> Iterator[ClipRow]:
    """The clips of a dataset, sorted as its table is: those that it had, and those of the parts that were made now."""
    made = (row for receipt in receipts for row in sorted(receipt.clips, key=place_of))
    return merge(table, made, key=place_of)


def line_of(source: Source, looked: Looked, outcome: Outcome | None, attempts: int) -> SourceLine:
    """What became of a source; outcome: None where the first look refused it."""
    line = SourceLine(
        source.name, "refused", looked.stage, looked.reason, looked.said, attempts=attempts, content=looked.content, stamp=source.stamp
    )
    line = replace(line, tags=looked.tags or source.tags, where=source.path)
    if outcome is None:
        return line
    return replace(
        line,
        status="refused" if outcome.reason else "used",
        stage=outcome.stage,
        reason=outcome.reason,
        said=outcome.said,
        note=outcome.note,
        clips=outcome.clips,
        left_out=outcome.left_out,
        seconds=round(outcome.seconds, 3),
        frames=outcome.frames,
        samples=outcome.samples,
        av_offset_ms=None if outcome.av_offset_ms is None or not isfinite(outcome.av_offset_ms) else round(outcome.av_offset_ms, 3),
        timing=outcome.timing,
    )


def described(
    config: DataConfig,
    codecs: tuple[dict[str, Any], dict[str, Any]],
    lines: Iterable[SourceLine],
    receipts: Iterable[Receipt],
    before: Manifest | None,
    table: Iterable[ClipRow] = (),
    scribes: Mapping[str, str] = MappingProxyType({}),
    inputs: Sequence[str] = (),
) -> Manifest:
    """The manifest of a dataset whose sources are `lines`, with the parts that were made now. before: what it was; table: its clips then;
    scribes, inputs: see `Manifest` (no inputs: those of the settings). Receipts are gone through several times, each with whole sources.

    Raises:
        ValueError: only one source can be used.
    """
    t = config.timeline
    statistics = {name: LatentStatistics.from_json(x) for name, x in before.statistics.items()} if before else {}
    schema, shards, quality = before.schema if before else {}, list(before.shards if before else ()), list[tuple[float, float]]()
    fresh = list[ClipRow]()
    for receipt in receipts:
        statistics, schema = merged(statistics, receipt.statistics), joined(schema, receipt.columns)
        shards += receipt.shards
        quality += receipt.quality
        fresh += [clip for clip in receipt.clips if clip.fingerprint]
    dropped = (before.dropped if before else {}) | copies(fresh, table)
    below = (
        before.held_out_below
        if before
        else _threshold(config.held_out_share, (_rank(config, clip) for receipt in receipts for clip in _firsts(receipt, dropped).values()))
    )
    held_out, clips, seconds = list(before.held_out if before else ()), before.clips if before else 0, 0.0
    for receipt in receipts:
        apart = {name for name, clip in _firsts(receipt, dropped).items() if _rank(config, clip) < below}
        held_out += [clip.clip_id for clip in receipt.clips if clip.source in apart]
        for clip in receipt.clips:
            if clip.clip_id not in dropped:
                clips, seconds = clips + 1, seconds + t.seconds(clip.chunks)  # one by one: the same however parts were cut
    total = used = 0
    for line in lines:
        total, used = total + 1, used + line.used
    return Manifest(
        settings=config.shaping(),
        inputs=tuple(inputs or config.inputs),
        timeline=t,
        modalities=config.modalities,
        clip_chunks=config.clip_chunks,
        width=config.width,
        height=config.height,
        video_codec=codecs[0],
        audio_codec=codecs[1],
        shards=tuple(shards),
        held_out=tuple(sorted(held_out)),
        clips=clips,
        hours=(before.hours if before else 0.0) + seconds / 3600,
        dropped=dropped,
        sources_used=used,
        sources_refused=total - used,
        codec_quality=before.codec_quality if before else _quality(quality),
        synthetic=config.is_synthetic,
        version=before.version + 1 if before else 1,
        account=f"sources-{before.version + 1}.jsonl" if before else SOURCES,
        table=f"clips-{before.version + 1}.parquet" if before else CLIPS,
        held_out_below=below,
        scribes=dict(scribes),
        schema=schema,
        statistics={name: x.to_json() for name, x in statistics.items()},
    )


def counted_anew(before: Manifest, lines: Iterable[SourceLine], inputs: Sequence[str]) -> Manifest:
    """The manifest of a dataset whose sources are `lines`, and to which no clip was added: the same version."""
    counts = Counter(line.used for line in lines)
    assert counts[True] == before.sources_used, "a source is used where it has clips"
    return replace(before, inputs=tuple(inputs), sources_refused=counts[False])


def lost_clips(manifest: Manifest, lines: Iterable[SourceLine]) -> list[str]:
    """Why clips of used sources do not count: a rule has left them out, or they are copies of others."""
    return [*(clip.reason for line in lines for clip in line.left_out), *manifest.dropped.values()]


def copies(made: Iterable[ClipRow], table: Iterable[ClipRow] = ()) -> dict[str, str]:
    """Clips made now that are copies of another one, with what they are copies of; of those with fingerprints. table: clips that were there
    before, of which none is dropped for a new one; of new ones the first by source and time stays, whoever finished first.
    """
    fresh = sorted((clip for clip in made if clip.fingerprint), key=place_of)
    if not fresh:
        return {}
    kept = [clip for clip in table if clip.fingerprint]
    clips = [*kept, *fresh]
    first = first_near([Fingerprint.unpack(clip.fingerprint) for clip in clips])
    return {
        clip.clip_id: f"copy: of {clips[first[i]].clip_id}, {clips[first[i]].source} at {clips[first[i]].start_s:.2f} s"
        for i, clip in enumerate(clips)
        if i >= len(kept) and first[i] >= 0
    }


def _firsts(receipt: Receipt, dropped: Mapping[str, str]) -> dict[str, str]:
    """The first clip that counts of each source of a part."""
    firsts: dict[str, str] = {}
    for clip in sorted(receipt.clips, key=lambda clip: clip.start_s):
        if clip.clip_id not in dropped:
            firsts.setdefault(clip.source, clip.clip_id)
    return firsts


def _threshold(share: float, ranks: Iterable[int]) -> int:
    """Whole sources are held out, those whose first clips hash lowest, whatever their files are called: the bound between them and the
    others, which decides for sources that are added later too. share: of sources; ranks: hashes of all their first clips."""
    ranks = sorted(ranks)
    if len(ranks) < 2:
        raise ValueError(f"data.media: only {len(ranks)} source can be used, one to train on and one to hold out are needed; add clips")
    count = min(max(1, round(share * len(ranks))), len(ranks) - 1)
    return (ranks[count - 1] + ranks[count]) // 2 + 1


def is_held_out(config: DataConfig, first_clip: str, below: int) -> bool:
    """Whether a source whose first clip this is lies below the bound of a dataset of these settings."""
    return _rank(config, first_clip) < below


def _rank(config: DataConfig, clip: str) -> int:
    return position_seed(config.seed, "held-out", clip)


def _quality(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Mean PSNR of the pictures and SNR of the sound; of what no clip has, nothing."""
    found = {"video_psnr_db": [p for p, _ in pairs if isfinite(p)], "audio_snr_db": [s for _, s in pairs if isfinite(s)]}
    return {name: round(sum(values) / len(values), 3) for name, values in found.items() if values}
