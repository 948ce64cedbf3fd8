"""The sections of the report: what a run left, turned into records that the template prints.

Each `*_section` reads its own files and returns one frozen record, or raises `UnavailableError`; none knows about HTML, except that
pictures, clips and plots come ready to embed.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from ...datasets.progress import Progress, silent
from ...workers.evaluation.intervals import LEAST
from ..run_reader import Entry, NotApplicableError, StageInfo, StageMetrics, UnavailableError, read_lines, read_metrics, read_object
from .embed import Take, embed
from .plots import Interval, age_chart, sync_chart

MAX_CLIPS = 24
MAX_SOURCES = 200
MIN_CLIPS = 8  # from which an interval decides an answer; from LEAST on there is one


@dataclass(frozen=True)
class Word:
    word: str
    start: float
    end: float


@dataclass(frozen=True)
class ClipView:
    name: str
    caption: str
    words: tuple[Word, ...]
    takes: tuple[Take, ...]


@dataclass(frozen=True)
class Mode:
    """A mode of generation, and what it took."""

    title: str
    evaluations: float | None
    frames_per_s: float | None

    @property
    def effort(self) -> str:
        return "" if self.evaluations is None else f"{self.evaluations:g} evaluations a chunk"

    @property
    def rate(self) -> str:
        return "" if self.frames_per_s is None else f"{self.frames_per_s:.3g} frames/s"

    @property
    def detail(self) -> str:
        return ", ".join(part for part in (self.effort, self.rate) if part)


@dataclass(frozen=True)
class ClipsSection:
    clips: tuple[ClipView, ...]
    left_out: int
    modes: tuple[Mode, ...]
    contact: Take


@dataclass(frozen=True)
class SyncRow:
    """Mouth/voice correlation of one mode: own pairs, shuffled pairs, and their difference with its bootstrap interval over clips."""

    title: str
    matched: float
    shuffled: float
    gap: Interval
    lag_ms: float
    count: int

    @property
    def verdict(self) -> str:
        """Whether the mouth follows the voice: the whole interval of the gap must lie above zero."""
        if self.count < MIN_CLIPS:
            return f"too few clips to say (below {MIN_CLIPS})"
        return "yes" if self.gap.low > 0 else "not shown: the interval reaches zero"


@dataclass(frozen=True)
class SyncSection:
    rows: tuple[SyncRow, ...]
    chart: Markup


@dataclass(frozen=True)
class PoolFigures:
    """actors: at most; wanted: at the last look; busy: mean share of their time; the others count over all attempts of the training."""

    actors: int
    wanted: int
    busy: float
    replaced: int
    late: int
    dropped: int


@dataclass(frozen=True)
class RolloutSection:
    chart: Markup
    mean_age: float
    oldest: int
    rollouts: int
    wait_share: float | None
    pool: PoolFigures | None


@dataclass(frozen=True)
class SourceRow:
    source: str
    used: bool
    reason: str
    clips: float
    seconds: float


@dataclass(frozen=True)
class SourcesSection:
    rows: tuple[SourceRow, ...]
    used: int
    refused: int

    @property
    def left_out(self) -> int:
        return self.used + self.refused - len(self.rows)


@dataclass(frozen=True)
class DataSection:
    clips: int
    seconds: float
    video_psnr_db: float | None
    audio_snr_db: float | None
    contact: Take


@dataclass(frozen=True)
class StageTime:
    stage: str
    steps: int
    samples: int
    seconds: float

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.seconds if self.seconds > 0 else math.nan


@dataclass(frozen=True)
class TimingSection:
    stages: tuple[StageTime, ...]
    total_seconds: float | None

    @property
    def elsewhere(self) -> float | None:
        """Seconds outside the stages: start, data, generation, this report."""
        return None if self.total_seconds is None else self.total_seconds - sum(stage.seconds for stage in self.stages)


def clips_section(run_dir: Path, progress: Progress = silent) -> ClipsSection:
    """Held-out clips next to what each mode made of them, from samples/samples.json."""
    samples = read_object(run_dir, "samples/samples.json")
    modes = _modes(samples)
    entries = samples.entries("clips")
    if not entries:
        raise UnavailableError("samples/samples.json lists no clips: nothing was generated")
    shown = entries[:MAX_CLIPS]
    clips = []
    for done, entry in enumerate(shown):
        progress("embed clips", done, len(shown))
        clips.append(_clip(run_dir, entry, modes))
    progress("embed clips", len(shown), len(shown))
    contact = embed(run_dir, f"samples/{samples.text('contact', 'contact.png')}", "contact sheet")
    return ClipsSection(tuple(clips), len(entries) - len(clips), tuple(modes.values()), contact)


def sync_section(run_dir: Path) -> SyncSection:
    """Mouth/voice correlation of real and generated clips, where the measure holds."""
    samples = read_object(run_dir, "samples/samples.json")
    if not samples.flag("proxy_valid"):
        raise NotApplicableError(
            "the measure reads the mouths of the synthetic characters; on real faces it says nothing, so it is not reported"
        )
    sync = samples.entry("sync")
    if not sync.fields:
        raise UnavailableError("samples/samples.json holds no sync figures: shuffled pairs need at least two held-out clips")
    rows = tuple(_sync_row(name, sync.entry(name)) for name in sync.fields)
    chart = sync_chart([(row.title, row.matched, row.shuffled) for row in rows], "Mouth/voice correlation, own and shuffled pairs")
    return SyncSection(rows, chart)


def rollout_section(run_dir: Path, stages: Sequence[StageInfo]) -> RolloutSection:
    """Ages of the rollouts that were trained on, and the share of the time spent waiting for them, over all stages."""
    logged = [metrics for metrics in (_metrics_or_none(run_dir, stage.name) for stage in stages) if metrics is not None]
    counts: dict[int, float] = {}
    for metrics in logged:
        for name in metrics.series:
            if age := re.fullmatch(r"age/(\d{1,3})", name):
                counts[int(age[1])] = counts.get(int(age[1]), 0.0) + metrics.total(name)
    if not sum(counts.values()) > 0:
        raise UnavailableError("no rollout was trained on: the run did not reach a stage that uses them")
    total = sum(counts.values())
    using = [metrics for metrics in logged if any(name.startswith("age/") for name in metrics.series)]
    waited, spent = (sum(metrics.total(name) for metrics in using) for name in ("rollout_wait_s", "step_s"))
    mean_age = sum(age * count for age, count in counts.items()) / total
    oldest = max(age for age, count in counts.items() if count > 0)
    chart = age_chart(counts, "Share of rollouts at each age")
    pools = [pool for metrics in using if (pool := _pool_figures(metrics)) is not None]
    return RolloutSection(chart, mean_age, oldest, round(total), waited / spent if spent > 0 else None, pools[-1] if pools else None)


def _pool_figures(metrics: StageMetrics) -> PoolFigures | None:
    series = {name: metrics.series.get(f"pool/{name}") for name in ("actors", "wanted", "busy", "replaced", "late", "dropped")}
    found = {name: x.values for name, x in series.items() if x is not None and len(x.values)}
    if len(found) < len(series):
        return None
    counted = {name: _counted(found[name]) for name in ("replaced", "late", "dropped")}
    return PoolFigures(round(found["actors"].max()), round(found["wanted"][-1]), float(found["busy"].mean()), **counted)


def _counted(values: np.ndarray) -> int:
    """What a counter came to that begins again at zero with each attempt."""
    return round(float(np.diff(values, prepend=0.0).clip(min=0).sum() + values[1:][np.diff(values) < 0].sum()))


def data_section(run_dir: Path) -> DataSection:
    """How much data there is, the codecs' round trip, and the contact sheet."""
    manifest = read_object(run_dir, "data/manifest.json")
    quality = manifest.entry("codec_quality") if manifest.has("codec_quality") else Entry({}, "data/manifest.json")
    return DataSection(
        clips=round(_finite(manifest, "clips")),
        seconds=manifest.number("hours") * 3600,
        video_psnr_db=_optional(quality, "video_psnr_db"),
        audio_snr_db=_optional(quality, "audio_snr_db"),
        contact=embed(run_dir, "data/contact.png", "contact sheet"),
    )


def sources_section(run_dir: Path) -> SourcesSection:
    """Every source and what became of it, from its account."""
    manifest = read_object(run_dir, "data/manifest.json")
    entries, _ = read_lines(run_dir, f"data/{manifest.text('account', 'sources.jsonl')}")
    # Refused sources first: they are what the reader must know.
    rows = sorted((_source(entry) for entry in entries), key=lambda row: row.used)
    used = sum(row.used for row in rows)
    return SourcesSection(tuple(rows[:MAX_SOURCES]), used, len(rows) - used)


def timing_section(run: Entry) -> TimingSection:
    """Steps, samples and seconds of every stage that ended."""
    stages = tuple(
        StageTime(stage.text("name"), round(_finite(stage, "steps")), round(_finite(stage, "samples")), stage.number("seconds"))
        for stage in run.entries("stages")
    )
    if not stages:
        raise UnavailableError("run.json lists no finished stage")
    return TimingSection(stages, _optional(run, "total_seconds"))


def mode_title(mode: str) -> str:
    """How a mode is called in the report: `few4` is FEW, `multi` is MULTI, `real` is real."""
    if few := re.fullmatch(r"few(\d*)", mode):
        return f"FEW {few[1]}".strip()
    return {"multi": "MULTI", "real": "Real"}.get(mode, mode)


def _clip(run_dir: Path, clip: Entry, modes: dict[str, Mode]) -> ClipView:
    takes = [embed(run_dir, f"samples/{clip.text('real')}", "Real", "held out")]
    generated = clip.entry("generated")
    for mode in generated.fields:
        detail = modes[mode].detail if mode in modes else ""
        takes.append(embed(run_dir, f"samples/{generated.text(mode)}", mode_title(mode), detail))
    listed = clip.entries("words") if clip.has("words") else []
    words = tuple(Word(word.text("word"), word.number("start"), word.number("end")) for word in listed)
    return ClipView(str(clip.fields.get("id", "")), clip.text("caption", ""), words, tuple(takes))


def _modes(samples: Entry) -> dict[str, Mode]:
    generation = samples.entry("generation") if samples.has("generation") else Entry({}, "samples/samples.json")
    made = {mode: generation.entry(mode) for mode in generation.fields}
    return {
        mode: Mode(mode_title(mode), _optional(entry, "evaluations_per_chunk"), _optional(entry, "frames_per_s"))
        for mode, entry in made.items()
    }


def _sync_row(name: str, row: Entry) -> SyncRow:
    low, high = row.numbers("gap_ci", 2)
    lag = row.number("lag_s") * 1000 if row.has("lag_s") else math.nan
    count = round(_finite(row, "n"))
    gap = Interval(row.number("gap"), low, high) if count >= LEAST else Interval(row.number("gap"), math.nan, math.nan)
    return SyncRow(mode_title(name), row.number("matched"), row.number("shuffled"), gap, lag, count)


def _metrics_or_none(run_dir: Path, stage: str) -> StageMetrics | None:
    try:
        return read_metrics(run_dir, stage)
    except UnavailableError:
        return None  # its own loss plot says why


def _source(entry: Entry) -> SourceRow:
    clips, seconds = (entry.number(key) if entry.has(key) else 0.0 for key in ("clips", "seconds"))
    return SourceRow(entry.text("path"), entry.text("status") == "used", entry.text("reason", ""), clips, seconds)


def _optional(entry: Entry, key: str) -> float | None:
    return entry.number(key) if entry.has(key) else None


def _finite(entry: Entry, key: str) -> float:
    value = entry.number(key)
    if not math.isfinite(value):
        raise UnavailableError(f"{entry.where}: {key!r} is not a finite number")
    return value
