"""What a finished job says of itself: a line for every source, and the manifest. Pure but for what is measured of the shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from types import MappingProxyType
from typing import Any

from ..model.noise import position_seed
from .account import SOURCES, SourceLine
from .clip_table import CLIPS, ClipRow
from .config import DataConfig
from .duplicates import Fingerprint, first_near
from .look import Looked
from .manifest import Manifest
from .part_writer import joined
from .parts import Outcome, Receipt
from .sources import Source
from .statistics import LatentStatistics, merged


def line_of(source: Source, looked: Looked, outcome: Outcome | None, attempts: int) -> SourceLine:
    """What became of a source; outcome: None where the first look refused it."""
    line = SourceLine(
        source.name, "refused", looked.stage, looked.reason, looked.said, attempts=attempts, content=looked.content, stamp=source.stamp
    )
    line = replace(line, tags=source.tags, where=source.path)
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
    lines: Sequence[SourceLine],
    receipts: Iterable[Receipt],
    before: Manifest | None,
    table: Sequence[ClipRow] = (),
    scribes: Mapping[str, str] = MappingProxyType({}),
    inputs: Sequence[str] = (),
) -> Manifest:
    """The manifest of a dataset whose sources are `lines`, with the parts that were made now. before: what it was; table: its clips then;
    scribes, inputs: see `Manifest` (no inputs: those of the settings).

    Raises:
        ValueError: only one source can be used.
    """
    receipts, t = list(receipts), config.timeline
    made = [clip for receipt in receipts for clip in receipt.clips]
    statistics = {name: LatentStatistics.from_json(x) for name, x in before.statistics.items()} if before else {}
    schema = before.schema if before else {}
    for receipt in receipts:
        statistics = merged(statistics, receipt.statistics)
        schema = joined(schema, receipt.columns)
    dropped = (before.dropped if before else {}) | copies(made, table)
    firsts: dict[str, str] = {}
    for clip in sorted(made, key=lambda clip: clip.start_s):
        if clip.clip_id not in dropped:
            firsts.setdefault(clip.source, clip.clip_id)
    below = before.held_out_below if before else _threshold(config, firsts)
    apart = {name for name, clip in firsts.items() if _rank(config, clip) < below}
    live = [clip for clip in (*table, *made) if clip.clip_id not in dropped]
    quality = [pair for receipt in receipts for pair in receipt.quality]
    used = sum(line.used for line in lines)
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
        shards=(*(before.shards if before else ()), *(shard for receipt in receipts for shard in receipt.shards)),
        held_out=tuple(sorted([*(before.held_out if before else ()), *(clip.clip_id for clip in made if clip.source in apart)])),
        clips=len(live),
        hours=sum(t.seconds(clip.chunks) for clip in live) / 3600,
        dropped=dropped,
        sources_used=used,
        sources_refused=len(lines) - used,
        codec_quality=before.codec_quality if before else {"video_psnr_db": _mean(quality, 0), "audio_snr_db": _mean(quality, 1)},
        synthetic=config.is_synthetic,
        version=before.version + 1 if before else 1,
        account=f"sources-{before.version + 1}.jsonl" if before else SOURCES,
        table=f"clips-{before.version + 1}.parquet" if before else CLIPS,
        held_out_below=below,
        scribes=dict(scribes),
        schema=schema,
        statistics={name: x.to_json() for name, x in statistics.items()},
    )


def counted_anew(before: Manifest, lines: Sequence[SourceLine], inputs: Sequence[str]) -> Manifest:
    """The manifest of a dataset whose sources are `lines`, and to which no clip was added: the same version."""
    used = sum(line.used for line in lines)
    assert used == before.sources_used, "a source is used where it has clips"
    return replace(before, inputs=tuple(inputs), sources_refused=len(lines) - used)


def lost_clips(manifest: Manifest, lines: Iterable[SourceLine]) -> list[str]:
    """Why clips of used sources do not count: a rule has left them out, or they are copies of others."""
    return [*(clip.reason for line in lines for clip in line.left_out), *manifest.dropped.values()]


def copies(made: Iterable[ClipRow], table: Iterable[ClipRow] = ()) -> dict[str, str]:
    """Clips made now that are copies of another one, with what they are copies of; of those with fingerprints. table: clips that were there
    before, of which none is dropped for a new one; of new ones the first by source and time stays, whoever finished first.
    """
    kept = [clip for clip in table if clip.fingerprint]
    fresh = sorted((clip for clip in made if clip.fingerprint), key=lambda clip: (clip.source, clip.start_s, clip.clip_id))
    if not fresh:
        return {}
    clips = [*kept, *fresh]
    first = first_near([Fingerprint.unpack(clip.fingerprint) for clip in clips])
    return {
        clip.clip_id: f"copy: of {clips[first[i]].clip_id}, {clips[first[i]].source} at {clips[first[i]].start_s:.2f} s"
        for i, clip in enumerate(clips)
        if i >= len(kept) and first[i] >= 0
    }


def _threshold(config: DataConfig, firsts: Mapping[str, str]) -> int:
    """Whole sources are held out, those whose first clips hash lowest, whatever their files are called: the bound between them and the
    others, which decides for sources that are added later too."""
    if len(firsts) < 2:
        raise ValueError(f"data.media: only {len(firsts)} source can be used, one to train on and one to hold out are needed; add clips")
    ranks = sorted(_rank(config, clip) for clip in firsts.values())
    count = min(max(1, round(config.held_out_share * len(ranks))), len(ranks) - 1)
    return (ranks[count - 1] + ranks[count]) // 2 + 1


def is_held_out(config: DataConfig, first_clip: str, below: int) -> bool:
    """Whether a source whose first clip this is lies below the bound of a dataset of these settings."""
    return _rank(config, first_clip) < below


def _rank(config: DataConfig, clip: str) -> int:
    return position_seed(config.seed, "held-out", clip)


def _mean(pairs: Sequence[tuple[float, float]], which: int) -> float:
    finite = [pair[which] for pair in pairs if isfinite(pair[which])]
    return round(sum(finite) / len(finite), 3) if finite else 0.0
