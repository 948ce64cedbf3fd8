"""A corpus of synthetic talking characters with exactly known sync, written as ordinary media files with sidecars.

    (seed, index) -> identity, speech plan -> portrait frames + voice      SyntheticClip
    corpus: <stem>.json (caption, transcript), then <stem>.mp4|webm|mkv;   corpus.json says of which settings, and when it is complete

The files enter through the same door as anyone's media. Determinism: a clip depends on the settings and its index alone.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..places.storage import write_json
from ..progress import Progress, silent
from .characters import Identity, describe, draw_identity, move, voice_of
from .portrait import paint_portrait
from .voice import Word, articulate, plan_speech, speak

GENERATOR = 1  # raise it when the same settings give other pictures or sounds
CONTAINERS = (".mp4", ".webm", ".mkv")
DRAW = "draw talking characters"
LIMITS = {
    "count": (1, 99_999),
    "seconds": (1.0, 600.0),
    "width": (32, 2048),
    "height": (32, 2048),
    "fps": (8, 120),
    "sample_rate": (8000, 48_000),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class SyntheticConfig:
    """count clips of `seconds` each; width and height in pixels; fps in frames/s; sample_rate in Hz."""

    count: int = 64
    seconds: float = 5.2
    width: int = 64
    height: int = 64
    fps: int = 24
    sample_rate: int = 16000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = asdict(self)[name]
            if not low <= value <= high:
                raise ValueError(f"synthetic.{name} is {value}: choose a value from {low} to {high}")

    @property
    def frames(self) -> int:
        """Frames of one clip."""
        return round(self.seconds * self.fps)

    @property
    def samples(self) -> int:
        """Audio samples of one clip, exactly as long as its frames."""
        return round(self.frames * self.sample_rate / self.fps)


@dataclass(frozen=True)
class SyntheticClip:
    """frames uint8 [N, H, W, 3]; audio float32 [S] mono; words on the video clock; mouth_N the true opening, 0..1."""

    frames: np.ndarray
    audio: np.ndarray
    caption: str
    words: tuple[Word, ...]
    identity: Identity
    mouth_N: np.ndarray


def make_character_clip(config: SyntheticConfig, index: int) -> SyntheticClip:
    """Clip `index` of a corpus; the same for the same (settings, index), in any process and order."""
    person, rhythm, motion, noise = (np.random.default_rng([config.seed, index, part]) for part in range(4))
    identity = draw_identity(person)
    voice = voice_of(identity)
    times = np.arange(config.frames) / config.fps
    plan = plan_speech(rhythm, voice, config.samples / config.sample_rate)
    articulation = articulate(plan, times)
    return SyntheticClip(
        frames=paint_portrait(identity, move(motion, identity, articulation, times), articulation, config.width, config.height),
        audio=speak(plan, voice, noise, config.sample_rate, config.samples),
        caption=describe(identity),
        words=plan.words,
        identity=identity,
        mouth_N=articulation.opening,
    )


def write_corpus(config: SyntheticConfig, out_dir: Path, workers: int = 2, progress: Progress = silent) -> list[Path]:
    """Write the corpus that is not there yet and return its media files in order; `progress` counts clips.

    Threads suffice: numpy releases the interpreter's lock on large arrays and the encoder is another process. Every file appears
    whole or not at all, the sidecar before its media, so an interrupted run is completed by the next.
    ValueError if `out_dir` holds a corpus of other settings or files that are not ours.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}: use at least 1")
    out_dir.mkdir(parents=True, exist_ok=True)
    _claim(config, out_dir)
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="synthetic") as pool:
        jobs = [pool.submit(_write_clip, config, index, out_dir) for index in range(config.count)]
        try:
            progress(DRAW, 0, config.count)
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                progress(DRAW, done, config.count)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    write_json(out_dir / "corpus.json", _ticket(config, complete=True))
    return [job.result() for job in jobs]


def _write_clip(config: SyntheticConfig, index: int, out_dir: Path) -> Path:
    media = out_dir / f"character-{index:05d}{CONTAINERS[index % len(CONTAINERS)]}"
    sidecar = media.with_suffix(".json")
    if media.is_file() and media.stat().st_size > 0 and sidecar.is_file():
        return media
    from ..ffmpeg.media import write_media  # drawing alone needs numpy, and no ffmpeg

    clip = make_character_clip(config, index)
    transcript = [{"word": word.text, "start": word.start, "end": word.end} for word in clip.words]
    write_json(sidecar, {"caption": clip.caption, "transcript": transcript})
    write_media(media, clip.frames, config.fps, clip.audio, config.sample_rate)
    return media


def _ticket(config: SyntheticConfig, complete: bool) -> dict[str, object]:
    return {"generator": GENERATOR, "config": asdict(config), "complete": complete}


def _claim(config: SyntheticConfig, out_dir: Path) -> None:
    """Mark the folder as this corpus's before the first clip, so that no other settings are ever mixed in."""
    ticket, mine = out_dir / "corpus.json", _ticket(config, complete=False)
    if not ticket.exists():
        strangers = [entry.name for entry in out_dir.iterdir() if not entry.name.startswith(".")]
        if strangers:
            raise ValueError(f"{out_dir} holds other files ({strangers[0]!r} ...): write the synthetic corpus into an empty folder")
        return write_json(ticket, mine)
    try:
        found = json.loads(ticket.read_text())
    except ValueError as error:
        raise ValueError(f"{ticket} is not readable as JSON ({error}): delete the folder, or choose another") from error
    if not isinstance(found, dict) or {**found, "complete": False} != mine:
        raise ValueError(f"{out_dir} holds a corpus of other settings: delete the folder, or choose another")
