"""The Ray Data callables: rows in, rows out, no policy of their own. `pipeline.py` puts them in order.

Rows between stages are small: paths and JSON before the encoder, latents as bytes after it. A refused source stays a row with its
reason, so every file is accounted for at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..model.codecs.base import AudioCodec, VideoCodec
from ..model.codecs.dct import DctVideoConfig, VideoMoments
from ..model.codecs.mdct import AudioMoments, MdctAudioConfig
from ..model.codecs.quality import psnr, snr
from ..model.codecs.registry import audio_codec_from_json, video_codec_from_json
from ..model.timeline import Timeline
from .filters import FilterConfig, refuse_reason, refuse_source
from .media import DecodeConfig, Decoded, MediaError, decode, probe
from .parts import Part, Row, give_receipt
from .shards import ClipRecord, write_shard
from .sidecars import cut_words, read_sidecar, sidecars_of
from .sources import NOT_MEDIA
from .storage import sha256_file
from .synthetic import LIMITS


@dataclass(frozen=True)
class DataConfig:
    """Everything that shapes a dataset. media: a folder of video files, or "synthetic" for generated talking characters. prepared:
    a folder (local, or s3://) that `data prepare` made, to be used instead of media; it must have the same sizes, rates and codecs.

    width, height in pixels; clip_chunks: chunks a clip; held_out_share: share of sources kept from training (at least one);
    codec_fit_sources: how many sources the embedded codecs are measured on.
    """

    media: str = "synthetic"
    prepared: str = ""
    synthetic_count: int = 64
    synthetic_seconds: float = 5.2
    width: int = 64
    height: int = 64
    clip_chunks: int = 5
    held_out_share: float = 0.1
    codec_fit_sources: int = 48
    seed: int = 0
    timeline: Timeline = field(default_factory=Timeline)
    video_codec: DctVideoConfig = field(default_factory=DctVideoConfig)
    audio_codec: MdctAudioConfig = field(default_factory=MdctAudioConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)

    def __post_init__(self) -> None:
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"data.held_out_share={self.held_out_share}: a share between 0 and 1")
        for name in ("clip_chunks", "codec_fit_sources", "synthetic_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"data.seed={self.seed}: choose one from 0 to {2**63 - 1}")
        if min(self.width, self.height) < 1 or self.width % self.video_codec.spatial or self.height % self.video_codec.spatial:
            side = self.video_codec.spatial
            raise ValueError(
                f"data.width={self.width}, data.height={self.height}: must be positive multiples of data.video_codec.spatial={side}"
            )
        if self.timeline.audio_hop != self.audio_codec.hop:
            raise ValueError(f"data.timeline.audio_hop={self.timeline.audio_hop}: must equal data.audio_codec.hop={self.audio_codec.hop}")
        if self.timeline.video_stride != self.video_codec.temporal:
            raise ValueError(
                f"data.timeline.video_stride={self.timeline.video_stride}: must equal data.video_codec.temporal={self.video_codec.temporal}"
            )
        if self.prepared:
            return  # what follows is about making a dataset
        self._check_clip(self.decoding.max_seconds, "of a source are read")
        if self.media == "synthetic":
            self._check_synthetic()

    def _check_clip(self, seconds: float, what: str) -> None:
        if self.timeline.frames(self.clip_chunks) > round(seconds * self.timeline.fps):
            needed = self.timeline.frames(self.clip_chunks) / self.timeline.fps
            raise ValueError(f"data.clip_chunks={self.clip_chunks}: a clip takes {needed:.2f} s, but only {seconds:g} s {what}; lower it")

    def _check_synthetic(self) -> None:
        """What cannot be drawn is refused here, before a run folder is made for it."""
        t = self.timeline
        drawn = {
            "count": ("data.synthetic_count", self.synthetic_count),
            "seconds": ("data.synthetic_seconds", self.synthetic_seconds),
            "width": ("data.width", self.width),
            "height": ("data.height", self.height),
            "fps": ("data.timeline.fps", t.fps),
            "sample_rate": ("data.timeline.sample_rate", t.sample_rate),
        }
        for name, (field_name, value) in drawn.items():
            low, high = LIMITS[name] if name != "count" else (2, LIMITS[name][1])  # one to train on, one to hold out
            if not low <= value <= high:
                raise ValueError(f"{field_name}={value}: talking characters are drawn from {low:g} to {high:g}; choose such a value")
        self._check_clip(self.synthetic_seconds, "are drawn (data.synthetic_seconds)")

    def clips_in(self, frames: int) -> int:
        """Clips that so many frames are cut into."""
        t = self.timeline
        return max(0, (frames - t.frames(self.clip_chunks)) // (self.clip_chunks * t.chunk_frames) + 1)

    @property
    def clip_bytes(self) -> int:
        """Of a clip's latents in fp16."""
        t, side = self.timeline, self.video_codec.spatial
        video = t.video_latents(self.clip_chunks) * self.video_codec.channels * (self.height // side) * (self.width // side)
        return 2 * (video + t.audio_latents(self.clip_chunks) * self.audio_codec.channels)

    @property
    def decoding(self) -> DecodeConfig:
        t = self.timeline
        return DecodeConfig(fps=t.fps, width=self.width, height=self.height, sample_rate=t.sample_rate)


@dataclass(frozen=True)
class Cut:
    """A clip's pixels and samples: frames uint8 [N, H, W, 3], audio float32 [S], and where it starts in its source."""

    start_s: float
    frames: np.ndarray
    audio: np.ndarray


def cut_clips(decoded: Decoded, config: DataConfig) -> list[Cut]:
    """Consecutive clips of `clip_chunks` chunks; each shares its first frame with the end of the one before."""
    t, chunks = config.timeline, config.clip_chunks
    if decoded.audio is None:
        return []
    cuts = []
    step = chunks * t.chunk_frames
    for first in range(0, len(decoded.frames) - t.frames(chunks) + 1, step):
        sample = round(first * t.sample_rate / t.fps)
        audio = decoded.audio[sample : sample + t.samples(chunks)]
        if len(audio) == t.samples(chunks):
            cuts.append(Cut(first / t.fps, decoded.frames[first : first + t.frames(chunks)], audio))
    return cuts


class Refused(ValueError):
    """A source that is of no use, and the stage that found it: `list`, `text` or `filter`; of files that do not decode see `MediaError`."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage


class Survey:
    """Row {source, measure} -> a row of `surveyed` or `refused`: can it be used, what is its hash, and the codec moments of a sample."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def __call__(self, row: Row) -> Row:
        path = Path(row["source"])
        try:
            cuts, decoded = self._look(path)
            content = sha256_file(path)
        except MediaError as error:
            return refused(row["source"], error.stage, error.reason, error.said)
        except Refused as error:
            return refused(row["source"], error.stage, str(error))
        except OSError as error:
            return refused(row["source"], "read", f"cannot be read ({error.strerror})")
        return surveyed(row["source"], decoded, self._config, content, self._moments(cuts) if row["measure"] else b"")

    def _look(self, path: Path) -> tuple[list[Cut], Decoded]:
        if path.suffix.lower() in NOT_MEDIA:
            raise Refused("list", f"not a media file ({path.suffix})")
        try:
            read_sidecar(path)
        except ValueError as error:
            raise Refused("text", str(error)) from error
        found = probe(path)
        if reason := refuse_source(found.width, found.height, self._config.filters):
            raise Refused("filter", reason)
        decoded = decode(path, found, self._config.decoding)
        cuts = cut_clips(decoded, self._config)
        if decoded.audio is None:
            raise Refused("filter", "; ".join(decoded.notes) or "no sound")
        if not cuts:
            t = self._config.timeline
            needed = t.seconds(self._config.clip_chunks)
            raise Refused("filter", f"too short: {len(decoded.frames) / t.fps:.2f} s, a clip has {needed:.2f} s")
        reasons = [refuse_reason(c.frames, c.audio, self._config.filters) for c in cuts]
        if all(reasons):
            raise Refused("filter", str(reasons[0]))
        good = [c for c, r in zip(cuts, reasons, strict=True) if r is None]
        return good, decoded

    def _moments(self, cuts: list[Cut]) -> bytes:
        video = VideoMoments(self._config.video_codec.spatial, self._config.video_codec.temporal)
        audio = AudioMoments(self._config.audio_codec.hop)
        for cut in cuts:
            video.update(torch.from_numpy(cut.frames.copy())[None])
            audio.update(torch.from_numpy(cut.audio.copy())[None])
        return pack_moments(video, audio)


class Encode:
    """Row {source, content: its hash} -> one row a clip with its latents as bytes (or one refused row)."""

    def __init__(self, config: DataConfig, video_codec: dict[str, Any], audio_codec: dict[str, Any]) -> None:
        self._config = config
        self._video: VideoCodec = video_codec_from_json(video_codec)
        self._audio: AudioCodec = audio_codec_from_json(audio_codec)

    def __call__(self, row: Row) -> Iterator[Row]:
        path = Path(row["source"])
        try:
            decoded = decode(path, probe(path), self._config.decoding)
            sidecar = read_sidecar(path)
        except (MediaError, ValueError) as error:
            yield _clip_row(row["source"], reason=str(error))
            return
        except OSError as error:
            yield _clip_row(row["source"], reason=f"cannot be read ({error.strerror})")
            return
        seconds = self._config.timeline.seconds(self._config.clip_chunks)
        for cut in cut_clips(decoded, self._config):
            if reason := refuse_reason(cut.frames, cut.audio, self._config.filters):
                yield _clip_row(row["source"], reason=f"clip at {cut.start_s:.2f} s: {reason}")
                continue
            yield self._clip(row["source"], row["content"], cut, sidecar.caption, cut_words(sidecar.words, cut.start_s, seconds))

    def _clip(self, source: str, content: str, cut: Cut, caption: str, words: tuple[tuple[str, float, float], ...]) -> Row:
        frames, samples = torch.from_numpy(cut.frames.copy())[None], torch.from_numpy(cut.audio.copy())[None]
        video, audio = self._video.encode(frames).half(), self._audio.encode(samples).half()
        for name, latents in (("video", video), ("audio", audio)):
            if not bool(latents.isfinite().all()):
                reason = f"clip at {cut.start_s:.2f} s: its {name} latents are not finite in 16 bits; fit the codec to clips like this one"
                return _clip_row(source, reason=reason)
        clip_id = hashlib.sha256(f"{content}:{cut.start_s:.6f}:{self._config.clip_chunks}".encode()).hexdigest()[:16]
        return _clip_row(
            source,
            clip_id=clip_id,
            start_s=cut.start_s,
            video=video[0].numpy(),
            audio=audio[0].numpy(),
            text=json.dumps({"caption": caption, "words": words}),
            psnr_db=psnr(frames, self._video.decode(video.float())),
            snr_db=snr(samples, self._audio.decode(audio.float())),
        )


class MakePart:
    """Row {part: its name, items: JSON} -> row {part, rows: JSON}: encodes a part's sources, writes its shard and its receipt."""

    def __init__(self, encode: Encode, folder: str) -> None:
        self._encode, self._folder = encode, Path(folder)

    def __call__(self, row: Row) -> Row:
        part = Part(row["part"], tuple(json.loads(row["items"])))
        rows = self.write(part, [clip for item in part.items for clip in self._encode(item)])
        return {"part": part.name, "rows": json.dumps(rows)}

    def write(self, part: Part, clips: list[Row]) -> list[Row]:
        """The clips of a part as its shard; returns their rows without latents, each with the shard's name."""
        records = [_record(clip) for clip in clips if clip["clip_id"]]
        if records:
            write_shard(self._folder / part.shard, records)
        keep = ("source", "reason", "clip_id", "start_s", "psnr_db", "snr_db")
        rows = [{**{k: clip[k] for k in keep}, "shard": part.shard if clip["clip_id"] else ""} for clip in clips]
        give_receipt(self._folder, part, rows)
        return rows


def pack_moments(video: VideoMoments, audio: AudioMoments) -> bytes:
    """Codec moments as one byte string for a row of a table."""
    arrays = {"video": video.to_arrays(), "audio": audio.to_arrays()}
    return json.dumps({m: {k: [int(x) for x in v] for k, v in a.items()} for m, a in arrays.items()}).encode()


def unpack_moments(packed: bytes) -> tuple[VideoMoments, AudioMoments]:
    """What `pack_moments` packed."""
    data = json.loads(packed)
    arrays = {m: {k: np.array(v, dtype=np.int64) for k, v in a.items()} for m, a in data.items()}
    return VideoMoments.from_arrays(arrays["video"]), AudioMoments.from_arrays(arrays["audio"])


def surveyed(source: str, decoded: Decoded, config: DataConfig, content: str, moments: bytes) -> Row:
    """A row of the survey: the source can be used. content: hash of its bytes; av_offset_ms: how much later than the pictures the sound
    begins in the container, which the clips no longer have.
    """
    return _FOUND | {
        "source": source,
        "note": "; ".join(decoded.notes),
        "seconds": len(decoded.frames) / config.timeline.fps,
        "frames": len(decoded.frames),
        "samples": 0 if decoded.audio is None else len(decoded.audio),
        "av_offset_ms": 1000 * decoded.av_offset_s,
        "content": content,
        "moments": moments,
    }


def refused(source: str, stage: str, reason: str, said: str = "", seconds: float = 0.0) -> Row:
    """A row of the survey: the source is refused at this stage. said: ffmpeg's own words."""
    return _FOUND | {"source": source, "status": "refused", "stage": stage, "reason": reason, "said": said, "seconds": seconds}


_FOUND: Row = {"status": "used", "stage": "", "reason": "", "said": "", "note": "", "seconds": 0.0, "frames": 0, "samples": 0}
_FOUND |= {"av_offset_ms": float("nan"), "content": "", "moments": b""}


def _clip_row(
    source: str,
    reason: str = "",
    clip_id: str = "",
    start_s: float = 0.0,
    video: np.ndarray | None = None,
    audio: np.ndarray | None = None,
    text: str = "",
    psnr_db: float = 0.0,
    snr_db: float = 0.0,
) -> Row:
    return {
        "source": source,
        "reason": reason,
        "clip_id": clip_id,
        "start_s": start_s,
        "video": b"" if video is None else video.tobytes(),
        "video_shape": json.dumps([] if video is None else video.shape),
        "audio": b"" if audio is None else audio.tobytes(),
        "audio_shape": json.dumps([] if audio is None else audio.shape),
        "text": text,
        "psnr_db": psnr_db,
        "snr_db": snr_db,
    }


def _record(row: Row) -> ClipRecord:
    text = json.loads(row["text"])
    return ClipRecord(
        clip_id=row["clip_id"],
        source=row["source"],
        start_s=row["start_s"],
        video=np.frombuffer(row["video"], np.float16).reshape(json.loads(row["video_shape"])),
        audio=np.frombuffer(row["audio"], np.float16).reshape(json.loads(row["audio_shape"])),
        caption=text["caption"],
        words=tuple((w, s, e) for w, s, e in text["words"]),
    )


def settings_of(config: DataConfig, sources: list[Path]) -> str:
    """Hash of everything that shapes the dataset: the settings and the sources' names, sizes and modification times."""
    stats = [(str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in sources]  # of a link, not of its target
    sidecars = [(str(s), s.stat().st_size, s.stat().st_mtime_ns) for p in sources for s in sidecars_of(p)]
    return hashlib.sha256(json.dumps([asdict(config), stats, sidecars]).encode()).hexdigest()


def shaped_by(config: DataConfig) -> str:
    """Hash of the settings alone."""
    return hashlib.sha256(json.dumps(asdict(config)).encode()).hexdigest()
