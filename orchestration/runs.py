"""What the verbs do with runs and their folders: configuration from words, one clip, the outcome in a few lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

from ..datasets.media import write_media
from ..datasets.progress import Progress, silent
from ..datasets.sidecars import parse_sidecar
from ..datasets.storage import local_path, make_folder, read_json
from ..datasets.store import is_remote
from ..model.sampler import SamplerConfig
from .config import RunConfig, with_settings
from .recipes import recipe
from .run_record import loop_config, open_run
from .samples import Generator, clip_controls, open_generator

MAX_SECONDS = 600.0
MAX_WORDS_PER_SECOND = 20

Words = tuple[tuple[str, float, float], ...]


def configured(name: str, media: str | Sequence[str] | None, assignments: list[str], data: str | None = None) -> RunConfig:
    """A recipe with the user's media or prepared dataset (`data`), and settings."""
    config = recipe(name)
    if data is not None:
        if media is not None:
            raise ValueError(f"--data={data!r}, --media={media!r}: a prepared dataset is used as it is; give one of the two")
        assignments = [f"data.prepared={json.dumps(data if is_remote(data) else str(local_path('--data', data)))}", *assignments]
    given = (media,) if isinstance(media, str) else tuple(media or ())
    if given and given != ("synthetic",):
        named = tuple(name if is_remote(name) else str(local_path("--media", name)) for name in given)
        config = replace(config, data=replace(config.data, media=named[0] if len(named) == 1 else named))
    settled = with_settings(config, assignments)
    return replace(settled, init=settled.init.absolute())  # the record of the run is read from elsewhere


def default_run_dir(config: RunConfig) -> Path:
    """runs/NAME, with a suffix for the user's own media or dataset, so that two folders never share a run."""
    data = config.data
    own = data.prepared or ("" if data.is_synthetic else "\n".join(data.inputs))
    suffix = "-" + hashlib.sha256(own.encode()).hexdigest()[:6] if own else ""
    return local_path("--out", Path("runs") / f"{config.name}{suffix}")


def generate_clip(
    run: str,
    out: str,
    like: int,
    text: str | None,
    seconds: float,
    mode: str,
    moves: int | None,
    guidance: float | None,
    seed: int,
    settings: Sequence[str] = (),
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Generate one clip and write it; returns what was made. `settings` change the run's configuration for this clip alone.

    moves, guidance: None takes what the run's own samples were made with. `progress` counts chunks; `warn` gets a line for each wish
    that the model was not trained for or cannot follow.
    """
    run_dir, path = local_path("run", run), local_path("--out", out)
    if path.suffix not in (".mp4", ".webm", ".mkv"):
        raise ValueError(f"--out={out!r}: the name must end in .mp4, .webm or .mkv")
    if mode not in ("few", "multi") or (moves is not None and moves < 1):
        raise ValueError(f"--mode={mode!r}, --moves={moves}: mode is few or multi, with at least 1 move")
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"--seconds={seconds}: between 0 and {MAX_SECONDS:g}")
    config = with_settings(open_run(run_dir), settings)
    generator = open_generator(loop_config(config, run_dir), config)
    records = generator.dataset.held_out_records()
    if not 0 <= like < len(records):
        raise ValueError(f"--like={like}: the run has {len(records)} held-out clips, numbered from 0")
    record = records[like]
    caption, words = record.caption, record.words
    if text is not None:
        sidecar = parse_sidecar(read_json(local_path("--text", text), "--text"), text)
        caption, words = sidecar.caption, sidecar.words
    chunks = max(1, ceil(seconds / float(config.data.timeline.chunk)))
    words = _sounding(words, config, chunks)
    sampler = _sampler(generator, mode, moves, guidance, warn)
    first = generator.dataset.collate([record], [0]).latents.get("video")[:, :1]
    controls = clip_controls(generator, caption, words)
    progress("generate chunks", 0, chunks)
    ((frames, audio),) = generator.clips(
        first, controls, chunks, sampler, [(seed, "generate")], lambda made: progress("generate chunks", made, chunks)
    )
    make_folder("--out", path.parent)
    t = config.data.timeline
    write_media(path, frames, t.fps, audio, t.sample_rate)
    return {
        "file": str(path),
        "seconds": round(len(frames) / t.fps, 3),
        "frames": len(frames),
        "stage": generator.stage,
        "evaluations_per_chunk": sampler.evaluations,
        "caption": caption,
    }


def _sampler(generator: Generator, mode: str, moves: int | None, guidance: float | None, warn: Callable[[str], None]) -> SamplerConfig:
    trained, samples = generator.config.objective.few.moves, generator.config.samples
    if mode == "multi":
        return generator.multi(moves or samples.multi_steps, samples.multi_guidance if guidance is None else guidance)
    if guidance is not None:
        warn(f"--guidance={guidance:g} is ignored: mode few has learned its guidance; give --mode multi to choose one")
    if moves not in (None, trained):
        warn(f"--moves={moves}: mode few was trained for {trained} moves a chunk, and other moves were never its task; expect a worse clip")
    return generator.few(moves or trained)


def _sounding(words: Words, config: RunConfig, chunks: int) -> Words:
    """The words of the time that is generated. There may be more than a training clip has: a chunk reads those near it.

    Raises:
        ValueError: more than anybody speaks.
    """
    seconds = config.data.timeline.seconds(chunks) + config.model.word_lookahead_s
    sounding = tuple(word for word in words if word[1] < seconds)
    if len(sounding) > MAX_WORDS_PER_SECOND * seconds:
        raise ValueError(f"--text: {len(sounding)} words in {seconds:g} s; at most {MAX_WORDS_PER_SECOND} a second are read")
    return sounding


def outcome(run_dir: Path) -> dict[str, Any]:
    """What a finished run came to: its stages with their loss on fixed clips and noise, and the sync figures.

    `sync` is None where the measure does not hold.
    """
    record = read_json(run_dir / "run.json", "run")
    stages = []
    for stage in record["stages"]:
        lines = (run_dir / "metrics" / f"{stage['name']}.jsonl").read_text().splitlines()
        probes = [value for line in lines if (value := json.loads(line)["metrics"].get("probe/loss")) is not None]
        before, after = (round(probes[i], 4) if probes else None for i in (0, -1))
        stages.append({k: stage[k] for k in ("name", "steps", "seconds")} | {"loss_before": before, "loss_after": after})
    samples = read_json(run_dir / "samples" / "samples.json", "samples")
    return {
        "run": str(run_dir),
        "report": str(run_dir / "report.html"),
        "total_seconds": record["total_seconds"],
        "stages": stages,
        "sync": samples["sync"] if samples["proxy_valid"] else None,
    }
