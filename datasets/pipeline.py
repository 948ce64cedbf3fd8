"""THE ordered list of stages, from media files to a finished dataset.

    list -> survey (probe, decode, judge; measure the codecs on a sample)      one small row a source
         -> fit the embedded codecs on the merged moments                      in the driver
         -> parts (decode, align, cut, encode, write a shard, its receipt)     one row a part (parts.py)
         -> contact sheet, sources.jsonl, manifest.json                        the manifest last: it is the commit

Ray Data runs the stages; the rules live in `stages.py` and `filters.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
import torch

from ..model.codecs.dct import DctVideoCodec
from ..model.codecs.mdct import MdctAudioCodec
from ..model.codecs.registry import audio_codec_from_json, video_codec_from_json
from ..model.noise import position_seed
from .adopt import adopt, taken_over
from .contact_sheet import SheetClip, contact_sheet
from .lock import locked
from .manifest import MANIFEST, REMEDY, SOURCES, Manifest, ShardEntry, read_manifest
from .parts import SurveyNotes, clear, finished, parts_of
from .progress import Progress, silent
from .shards import ClipRecord, Shard
from .share import leave_to_others
from .sidecars import is_text, sidecars_of
from .sources import list_sources, unfollowed
from .stages import DataConfig, Encode, MakePart, Row, Survey, refused, settings_of, shaped_by, unpack_moments
from .storage import atomic_path, local_path, make_folder, sha256_file
from .synthetic import SyntheticConfig, write_corpus

SHEET_CLIPS = 8


def prepare(config: DataConfig, out: Path, progress: Progress) -> Manifest:
    """Make (or reuse, or take over) the dataset of `config` in the folder `out`; Ray must be running.

    progress(stage, done, total) is called as work advances. Rerunning with the same settings and sources returns at once.

    Raises:
        ValueError: no source could be used, the folder is missing or empty, or `out` lies within it, holds another dataset, or is being
            written by another process.
    """
    if config.prepared:
        return adopt(config, out, progress)
    media = _media(config, out)
    if out.resolve().is_relative_to(media.resolve()):
        raise ValueError(
            f"data.out={str(out)!r}: lies in data.media={str(media)!r}, and would become its own source; choose another folder"
        )
    if config.media != "synthetic":
        list_sources(media)  # a mistyped folder must not make `out`
    make_folder("data.out", out)
    with locked("dataset folder", out):  # what another process has begun there looks like what a killed one has left
        return _prepare(config, out, progress)


def _prepare(config: DataConfig, out: Path, progress: Progress) -> Manifest:
    media = source_folder(config, out, progress)
    sources = list_sources(media)
    settings = settings_of(config, sources)
    if (out / MANIFEST).exists():
        manifest = read_manifest(out)
        if manifest.settings != settings:
            raise ValueError(f"data.out={str(out)!r}: holds a dataset of other settings or sources; choose another folder or remove it")
        clear(out)  # the job that wrote it may have been killed before it did
        return manifest
    survey = _survey(config, media, sources, out, progress)
    used = [row for row in survey if row["status"] == "used"]
    video_codec, audio_codec = _fit_codecs(config, _measured(config, used, media, progress))
    clips = _encode(config, used, video_codec, audio_codec, out, progress)
    manifest = _account(config, settings, survey, clips, video_codec, audio_codec, media, out)
    draw_contact_sheet(out, manifest, progress)
    manifest.write(out)
    clear(out)
    return manifest


def require_unchanged(config: DataConfig, out: Path) -> None:
    """Refuse sources that have changed since the dataset in `out` was made of them; characters follow from the settings alone.

    Raises:
        ValueError: they have, or they are gone.
    """
    if not (out / MANIFEST).is_file():
        return
    if config.prepared:
        taken_over(config, out, verify=False)
    elif config.media != "synthetic":
        sources = list_sources(local_path("data.media", config.media))
        if read_manifest(out, verify=False).settings != settings_of(config, sources):
            raise ValueError(
                f"data.media={config.media!r}: its files have changed since this run was begun with them; "
                "start another run with --out, or put the files back as they were"
            )


def source_folder(config: DataConfig, out: Path, progress: Progress) -> Path:
    """The folder of the user's media; for `synthetic`, the corpus beside `out`, drawn if it is not there yet."""
    folder = _media(config, out)
    if config.media != "synthetic":
        return folder
    t = config.timeline
    corpus = SyntheticConfig(
        config.synthetic_count, config.synthetic_seconds, config.width, config.height, t.fps, t.sample_rate, config.seed
    )
    write_corpus(corpus, make_folder("data.out", folder), progress=progress)
    return folder


def _media(config: DataConfig, out: Path) -> Path:
    return out.parent / "media" if config.media == "synthetic" else local_path("data.media", config.media)


def _survey(config: DataConfig, media: Path, sources: list[Path], out: Path, progress: Progress) -> list[Row]:
    guess = set(_sample(config, [str(p) for p in sources], media))
    rows, items = list[Row](), list[Row]()
    with closing(SurveyNotes(out, shaped_by(config))) as notes:
        for path in sources:
            if not is_text(str(path)):
                rows.append(refused(str(path).encode(errors="backslashreplace").decode(), "list", "its name is not UTF-8: rename it"))
            elif reason := unfollowed(path, media):
                rows.append(refused(str(path), "list", reason))
            elif known := notes.known(item := {"source": str(path), "measure": str(path) in guess}):
                rows.append(known)
            else:
                items.append(item)
        if items:
            asked = {item["source"]: item for item in items}
            dataset = _spread(items, progress).map(Survey(config))
            rows += _collect(dataset, "look into sources", len(items), progress, lambda row: notes.add(asked[row["source"]], row))
    rows = _without_twins(rows, media)
    if not any(row["status"] == "used" for row in rows):
        _write_sources(out, media, rows, {})
        reasons = "; ".join(sorted({row["reason"] for row in rows})[:3])
        raise ValueError(f"data.media={str(media)!r}: none of its {len(rows)} files can be used ({reasons}); all reasons: {out / SOURCES}")
    return rows


def _sample(config: DataConfig, sources: list[str], media: Path) -> list[str]:
    """The sources that the codecs are measured on: the same of the same folder, in any order of listing."""
    return sorted(sources, key=lambda s: position_seed(config.seed, "fit", _name(Path(s), media)))[: config.codec_fit_sources]


def _measured(config: DataConfig, used: list[Row], media: Path, progress: Progress) -> list[Row]:
    """The rows of the sample with their moments. The survey measured a sample of all sources; where some of those were refused, usable
    ones take their place here."""
    sample = set(_sample(config, [row["source"] for row in used], media))
    rows = [row for row in used if row["source"] in sample and row["moments"]]
    items = [{"source": source, "measure": True} for source in sorted(sample - {row["source"] for row in rows})]
    if items:
        dataset = _spread(items, progress).map(Survey(config))
        rows += _collect(dataset, "measure codecs", len(items), progress)
    return sorted(rows, key=lambda row: row["source"])


def _without_twins(rows: list[Row], media: Path) -> list[Row]:
    """The rows by source; of usable ones with the same content the first is kept, with a sidecar if any has one; others are refused."""
    first: dict[str, str] = {}
    kept = []
    for row in sorted(rows, key=lambda r: (not sidecars_of(Path(r["source"])), r["source"])):
        if row["status"] == "used" and (twin := first.setdefault(row["content"], row["source"])) != row["source"]:
            row = refused(row["source"], "filter", f"same content as {_name(Path(twin), media)}", seconds=row["seconds"])
        kept.append(row)
    return sorted(kept, key=lambda r: r["source"])


def _fit_codecs(config: DataConfig, rows: list[Row]) -> tuple[DctVideoCodec, MdctAudioCodec]:
    measured = [unpack_moments(row["moments"]) for row in rows if row["moments"]]
    if not measured:
        raise ValueError("data.media: the sources that the codecs are measured on changed meanwhile; give the command again")
    video, audio = measured[0]
    for other_video, other_audio in measured[1:]:
        video, audio = video.merge(other_video), audio.merge(other_audio)
    return DctVideoCodec.fit(config.video_codec, video), MdctAudioCodec.fit(config.audio_codec, audio)


def _encode(config: DataConfig, used: list[Row], video: DctVideoCodec, audio: MdctAudioCodec, out: Path, progress: Progress) -> list[Row]:
    codecs = video.to_json(), audio.to_json()
    items = [{"source": row["source"], "content": row["content"]} for row in used]
    clips = [config.clips_in(row["frames"]) for row in used]
    parts = parts_of(items, clips, config.clip_bytes, json.dumps([shaped_by(config), *codecs], sort_keys=True))
    clear(out, parts)
    rows, left = list[Row](), list[Row]()
    for part in parts:
        if (there := finished(out, part)) is None:
            left.append({"part": part.name, "items": json.dumps(part.items)})
        else:
            rows += there
    if left:
        dataset = _spread(left, progress).map(MakePart(Encode(config, *codecs), str(out)))
        rows += [row for part in _collect(dataset, "encode clips", len(left), progress) for row in json.loads(part["rows"])]
    return rows


def _account(
    config: DataConfig,
    settings: str,
    survey: list[Row],
    clips: list[Row],
    video: DctVideoCodec,
    audio: MdctAudioCodec,
    media: Path,
    out: Path,
) -> Manifest:
    """Write what became of every source, and describe the shards; the dataset is not there before the manifest is written."""
    made = [row for row in clips if row["clip_id"]]
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in clips:
        by_source[row["source"]].append(row)
    _write_sources(out, media, survey, by_source)
    used = sum(any(r["clip_id"] for r in rows) for rows in by_source.values())
    shards = tuple(_entry(out / name) for name in sorted({row["shard"] for row in made}))
    return Manifest(
        settings=settings,
        timeline=config.timeline,
        clip_chunks=config.clip_chunks,
        width=config.width,
        height=config.height,
        video_codec=video.to_json(),
        audio_codec=audio.to_json(),
        shards=shards,
        held_out=tuple(_held_out(config, made)),
        clips=len(made),
        hours=len(made) * config.timeline.seconds(config.clip_chunks) / 3600,
        sources_used=used,
        sources_refused=len(survey) - used,
        codec_quality={"video_psnr_db": _mean(made, "psnr_db"), "audio_snr_db": _mean(made, "snr_db")},
        synthetic=config.media == "synthetic",
    )


def decode_record(record: ClipRecord, manifest: Manifest, title: str) -> SheetClip:
    """A clip of the dataset as pictures and sound, decoded from its latents."""
    video = video_codec_from_json(manifest.video_codec).decode(torch.from_numpy(record.get("video").astype(np.float32))[None])
    audio = audio_codec_from_json(manifest.audio_codec).decode(torch.from_numpy(record.get("audio").astype(np.float32))[None])
    t = manifest.timeline
    return SheetClip(title, video[0].numpy(), audio[0].numpy(), t.fps, t.sample_rate, list(record.words))


def draw_contact_sheet(out: Path, manifest: Manifest, progress: Progress = silent) -> Path:
    """A PNG of a few clips spread over the dataset, as they come back from their latents."""
    shards = [Shard(out / s.file) for s in manifest.shards]
    rows = [(shard, i) for shard in shards for i in range(len(shard))]
    picked = rows[:: max(1, ceil(len(rows) / SHEET_CLIPS))][:SHEET_CLIPS]
    clips = []
    for done, (shard, i) in enumerate(picked):
        progress("draw contact sheet", done, len(picked))
        record = shard.row(i)
        clips.append(decode_record(record, manifest, f"{Path(record.source).name} at {record.start_s:.2f} s"))
    contact_sheet(clips, out / "contact.png")
    progress("draw contact sheet", len(picked), len(picked))
    return out / "contact.png"


def _held_out(config: DataConfig, made: list[Row]) -> list[str]:
    """Clips of the held-out sources: whole sources, those whose first clips hash lowest, whatever their files are called.

    Their number is a share, so a dataset that grows may hold out more sources, or an added one in the place of another.
    """
    first: dict[str, str] = {}
    for row in sorted(made, key=lambda r: r["start_s"]):
        first.setdefault(row["source"], row["clip_id"])
    if len(first) < 2:
        raise ValueError(f"data.media: only {len(first)} source can be used, one to train on and one to hold out are needed; add clips")
    count = min(max(1, round(config.held_out_share * len(first))), len(first) - 1)
    chosen = set(sorted(first, key=lambda source: position_seed(config.seed, "held-out", first[source]))[:count])
    return sorted(row["clip_id"] for row in made if row["source"] in chosen)


def _write_sources(out: Path, media: Path, survey: list[Row], by_source: dict[str, list[Row]]) -> None:
    lines = []
    for row in survey:
        clips = by_source.get(row["source"], [])
        made = sum(bool(c["clip_id"]) for c in clips)
        late = "; ".join(c["reason"] for c in clips if c["reason"])
        no_use = row["status"] == "refused" or (bool(by_source) and made == 0)
        stage = row["stage"] or ("encode" if no_use else "")
        line = {"path": _name(Path(row["source"]), media), "status": "refused" if no_use else "used", "stage": stage}
        line |= {"reason": row["reason"] or (late if no_use else ""), "said": row["said"]}
        note = "; ".join(x for x in (row["note"], "" if no_use else late) if x)
        line |= {"note": note, "clips": made, "seconds": round(row["seconds"], 3), "frames": row["frames"], "samples": row["samples"]}
        lines.append({**line, "av_offset_ms": round(row["av_offset_ms"], 3) if isfinite(row["av_offset_ms"]) else None})
    with atomic_path(out / SOURCES) as temporary:
        temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read_sources(out: Path) -> list[dict[str, Any]]:
    """The account of every source: its path in the folder, status (used or refused), stage and reason of a refusal with what ffmpeg
    said, note, clips, and as it was decoded its seconds, frames, samples, and av_offset_ms (see `surveyed`; None where it is not known).

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = out / SOURCES
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not JSON lines"
        raise ValueError(f"account of sources: {path} cannot be read ({why}); {REMEDY}") from error


def _collect(
    dataset: ray.data.Dataset, stage: str, total: int, progress: Progress, keep: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """All rows, each of which is kept as soon as it is there."""
    rows: list[Row] = []
    progress(stage, 0, total)
    for row in dataset.iter_rows():
        rows.append(dict(row))
        keep(rows[-1])
        progress(stage, len(rows), total)
    return rows


def _spread(items: list[Row], progress: Progress) -> ray.data.Dataset:
    """Over enough blocks to keep all cores busy, few enough that each is worth a task; of what others leave."""
    leave_to_others(progress)
    blocks = max(1, min(len(items), 4 * int(ray.cluster_resources().get("CPU", 1))))
    return ray.data.from_items(items, override_num_blocks=blocks)


def _entry(path: Path) -> ShardEntry:
    return ShardEntry(path.name, len(Shard(path)), path.stat().st_size, sha256_file(path))


def _name(path: Path, media: Path) -> str:
    return str(path.relative_to(media))


def _mean(rows: list[Row], name: str) -> float:
    finite = [row[name] for row in rows if np.isfinite(row[name])]
    return round(float(np.mean(finite)), 3) if finite else 0.0
