"""Everything that shapes a dataset, and how many processes make it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..model.codecs.dct import DctVideoConfig
from ..model.codecs.mdct import MdctAudioConfig
from ..model.timeline import Timeline
from ..model.types import MODALITIES
from .drawn.synthetic import LIMITS
from .encoding.actor_pool import PoolConfig as EncodersConfig
from .encoding.pretrained_codecs import PretrainedConfig
from .ffmpeg.media import DecodeConfig
from .format.sixteen_bits import KEPT
from .reading.members import parse_mix
from .signals.duplicates import DuplicateConfig
from .signals.faces import FaceConfig
from .signals.filters import FilterConfig
from .signals.lag import LagConfig
from .signals.scenes import SceneConfig
from .words.captions import CaptionConfig
from .words.transcribe import TranscribeConfig

NOT_SHAPING = ("media", "stream_shuffle", "prepared", "mix", "cache_gb", "pool", "encoders", "pretrained", "transcribe", "caption")


@dataclass(frozen=True)
class PoolConfig:
    """Processes that prepare data, one CPU each. max_workers: at most so many (0: as many as the cluster has CPUs, or units of `resource`);
    min_workers: above 0, a stage holds so many from its beginning to its end, as a pool that grows with the work (0: workers come and go
    with tasks). resource: a custom resource of the nodes that they may use, one unit each (empty: any node).
    """

    max_workers: int = 0
    min_workers: int = 0
    resource: str = ""

    def __post_init__(self) -> None:
        if self.max_workers < 0:
            raise ValueError(f"data.pool.max_workers={self.max_workers}: must be at least 1, or 0 for all CPUs")
        if self.min_workers < 0 or (self.max_workers and self.min_workers > self.max_workers):
            raise ValueError(f"data.pool.min_workers={self.min_workers}: must be from 0 (none are held) to data.pool.max_workers")

    @property
    def options(self) -> dict[str, Any]:
        """Of a task or an actor, as Ray takes them."""
        return {"num_cpus": 1} | ({"resources": {self.resource: 1}} if self.resource else {})

    @property
    def takes(self) -> dict[str, float]:
        """Resources of Ray's that one process takes."""
        return {"CPU": 1.0} | ({self.resource: 1.0} if self.resource else {})

    def most(self, there: Mapping[str, float]) -> int:
        """So many processes at once on a cluster with these resources of Ray's; with `max_workers` also where their nodes are to come."""
        return max(1, self.max_workers or int(there.get(self.resource or "CPU", 1)))


@dataclass(frozen=True)
class DataConfig:
    """Everything that shapes a dataset. media: folders, files, lists, s3:// prefixes (see sources.py), or "synthetic" for generated talking
    characters. prepared: a folder (local, or s3://) that `data prepare` made, to be used instead of media; it must have the same sizes,
    rates and codecs.

    mix: other prepared datasets that training draws from too, "URI=WEIGHT" each, where the run's own weighs 1. cache_gb: above 0, shards of
    prepared datasets in S3 stay there and are read by ranges, of which a machine keeps so many 10^9 bytes; 0: they are fetched first.

    stream_sources: above 0, training does not wait for a dataset: only so many sources are prepared before it (codecs are fitted to them,
    and some are held out), and clips of the others go to training as they are decoded. stream_shuffle: clips among which they are mixed.

    synthetic_count, synthetic_seconds: how many talking characters are drawn, and how long each talks. seed: what they are drawn from, and
    which sources are held out. modalities: of a clip; sources that lack one are refused. width, height: in pixels; clip_chunks:
    chunks of a clip; min_chunks: of the shorter clips at the end of a source or scene (0: there are none); stride_chunks: from the start of
    a clip to the start of the next (0: clip_chunks, without overlap). held_out_share: share of sources kept from training (at least one);
    codec_fit_sources: how many sources the embedded codecs are measured on. latent_dtype: of latents in shards, float16, or bfloat16 as its
    bits in uint16.
    """

    media: str | tuple[str, ...] = "synthetic"
    prepared: str = ""
    mix: tuple[str, ...] = ()
    cache_gb: float = 0.0
    stream_sources: int = 0
    stream_shuffle: int = 64
    synthetic_count: int = 64
    synthetic_seconds: float = 5.2
    modalities: tuple[str, ...] = MODALITIES
    width: int = 64
    height: int = 64
    clip_chunks: int = 5
    min_chunks: int = 0
    stride_chunks: int = 0
    held_out_share: float = 0.1
    codec_fit_sources: int = 48
    seed: int = 0
    latent_dtype: str = "float16"
    timeline: Timeline = field(default_factory=Timeline)
    video_codec: DctVideoConfig = field(default_factory=DctVideoConfig)
    audio_codec: MdctAudioConfig = field(default_factory=MdctAudioConfig)
    scenes: SceneConfig = SceneConfig()
    filters: FilterConfig = field(default_factory=FilterConfig)
    faces: FaceConfig = FaceConfig()
    lag: LagConfig = LagConfig()
    duplicates: DuplicateConfig = DuplicateConfig()
    transcribe: TranscribeConfig = TranscribeConfig()
    caption: CaptionConfig = CaptionConfig()
    pretrained: PretrainedConfig = PretrainedConfig()
    pool: PoolConfig = PoolConfig()
    encoders: EncodersConfig = EncodersConfig()

    def __post_init__(self) -> None:
        if self.latent_dtype not in KEPT:
            raise ValueError(f"data.latent_dtype={self.latent_dtype!r}: is not one of {', '.join(KEPT)}; float16 is more precise")
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"data.held_out_share={self.held_out_share}: a share between 0 and 1")
        for name in ("clip_chunks", "codec_fit_sources", "synthetic_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be at least 1")
        for name in ("min_chunks", "stride_chunks"):
            if not 0 <= getattr(self, name) <= self.clip_chunks:
                raise ValueError(f"data.{name}={getattr(self, name)}: must be from 0 to data.clip_chunks={self.clip_chunks}")
        if self.stream_sources < 0 or self.stream_sources == 1:
            raise ValueError(
                f"data.stream_sources={self.stream_sources}: one to train on and one to hold out are needed; give 0 (off) or 48"
            )
        if self.stream_sources and (self.prepared or self.mix):
            raise ValueError(f"data.stream_sources={self.stream_sources}: clips come from data.media; leave data.prepared and data.mix out")
        if not 1 <= self.stream_shuffle <= 100_000:
            raise ValueError(f"data.stream_shuffle={self.stream_shuffle}: must be clips, from 1 to 100000")
        if not self.modalities or set(self.modalities) - set(MODALITIES) or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"data.modalities={self.modalities}: name one or both of {', '.join(MODALITIES)}")
        if not self.inputs or not all(self.inputs):
            raise ValueError(f"data.media={self.media!r}: name at least one folder, file, list or s3:// prefix")
        if self.faces.min_share and "video" not in self.modalities:
            raise ValueError(f"data.faces.min_share={self.faces.min_share}: there are no pictures in data.modalities; set it to 0")
        if (self.lag.measure or self.lag.max_av_lag_ms) and set(self.modalities) != set(MODALITIES):
            raise ValueError("data.lag: a lag is one between pictures and sound; data.modalities leaves one out; turn it off")
        if self.scenes.detect and "video" not in self.modalities:
            raise ValueError("data.scenes.detect=true: scenes are found in pictures, which data.modalities leaves out; set it to false")
        parse_mix(self.mix)
        if not 0 <= self.cache_gb < 1e6:
            raise ValueError(f"data.cache_gb={self.cache_gb}: must be 10^9 bytes, from 0 to 1000000 (0: datasets are fetched first)")
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
        if self.is_synthetic:
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

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the user named, one by one."""
        return (self.media,) if isinstance(self.media, str) else self.media

    @property
    def is_synthetic(self) -> bool:
        return self.inputs == ("synthetic",)

    @property
    def shortest(self) -> int:
        """Chunks of the shortest clips."""
        return self.min_chunks or self.clip_chunks

    @property
    def stride(self) -> int:
        """Chunks from the start of a clip to the start of the next."""
        return self.stride_chunks or self.clip_chunks

    @property
    def clip_bytes(self) -> int:
        """Of the latents of a clip of full length, in 16 bits."""
        t, side = self.timeline, self.video_codec.spatial
        video = t.video_latents(self.clip_chunks) * self.video_codec.channels * (self.height // side) * (self.width // side)
        audio = t.audio_latents(self.clip_chunks) * self.audio_codec.channels
        return 2 * (video * ("video" in self.modalities) + audio * ("audio" in self.modalities))

    @property
    def decoding(self) -> DecodeConfig:
        t = self.timeline
        return DecodeConfig(fps=t.fps, width=self.width, height=self.height, sample_rate=t.sample_rate)

    def settings_of_codecs(self) -> dict[str, Any]:
        """What pretrained codecs must agree with, by the names that `--set` takes."""
        sections = {"video_codec": self.video_codec, "audio_codec": self.audio_codec, "timeline": self.timeline}
        return {f"data.{section}.{name}": value for section, record in sections.items() for name, value in asdict(record).items()}

    def shaping(self) -> dict[str, Any]:
        """All settings that shape clips, as plain data: two datasets may hold clips of one another where these are equal."""
        tree = asdict(self)
        drawn = () if self.is_synthetic else ("synthetic_count", "synthetic_seconds")
        streamed = () if self.stream_sources else ("stream_sources",)  # datasets of earlier releases have no such setting
        for name in ("licences", "consents"):
            if not getattr(self.filters, name):  # nor this one
                del tree["filters"][name]
        usual = ("latent_dtype",) if self.latent_dtype == "float16" else ()  # nor this one
        return {f.name: _plain(tree[f.name]) for f in fields(self) if f.name not in (*NOT_SHAPING, *drawn, *streamed, *usual)}


def first_difference(there: dict[str, Any], here: dict[str, Any], name: str = "data") -> str:
    """The first setting that differs, with both values, in words; empty if none does."""
    for key in sorted(there.keys() | here.keys()):
        one, other = there.get(key), here.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            if found := first_difference(one, other, f"{name}.{key}"):
                return found
        elif one != other:
            return f"{name}.{key}={one} there, {other} here"
    return ""


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    return [_plain(x) for x in value] if isinstance(value, list | tuple) else value
