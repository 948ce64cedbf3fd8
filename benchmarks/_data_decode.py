"""Decoding against its limit: `ffmpeg -f null` with the same program, the same filters and threads, the same files, as many processes.

    files, spread over processes -> ffmpeg -f null                                     seconds
                                 -> probe -> open_film -> every clip's pixels to disk  seconds     in turn, round after round

The ratio is the median over the rounds: what else runs on the machine hits both.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import ffmpeg

from ..datasets.ffmpeg.film import open_film
from ..datasets.ffmpeg.film_command import DecodeConfig, part_of, picture_filters, sound_filters
from ..datasets.ffmpeg.probe import Probe, plain_file, probe, program, source

CLIP_S = 5  # that are read at a time
LEAST_S = 1.0  # of ffmpeg alone: files are repeated until a round takes so long a process


Task = tuple[Any, ...]
Work = Callable[[Path, str], tuple[float, float]]


@dataclass(frozen=True)
class Ratio:
    """`of_ffmpeg`: seconds of ffmpeg alone over ours (1: as fast), by the clock; `of_ffmpeg_cpu`: the same of processor time.
    `seconds`: ours a file; `probe_share`: of ours, spent in `probe`.
    """

    of_ffmpeg: float
    of_ffmpeg_cpu: float
    seconds: float
    probe_share: float


def decode_ratio(files: Sequence[Path], config: DecodeConfig, processes: int, rounds: int, work: Work | None = None) -> Ratio:
    """How fast files are decoded, aligned, resized and written, against ffmpeg alone. work: instead, what is done with each path, in a
    scratch folder; returns (seconds of processor time, seconds of them in `probe`).
    """
    found = [probe(path) for path in files]
    limits = [(null_command(path, one, config),) for path, one in zip(files, found, strict=True)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool, tempfile.TemporaryDirectory() as scratch:
        mine, ours = (_ours, [(str(path), config, scratch) for path in files]) if work is None else (work, [(p, scratch) for p in files])
        alone_s = _round(pool, _alone, limits)[0]
        repeats = max(1, math.ceil(LEAST_S / alone_s), math.ceil(2 * processes / len(files)))
        _round(pool, mine, ours)
        figures = [(_round(pool, _alone, limits * repeats), _round(pool, mine, ours * repeats)) for _ in range(rounds)]
    return Ratio(
        statistics.median(alone[0] / mine[0] for alone, mine in figures),
        statistics.median(alone[1] / mine[1] for alone, mine in figures),
        statistics.median(mine[0] * processes for _, mine in figures) / (len(files) * repeats),
        statistics.median(mine[2] / (mine[0] * processes) for _, mine in figures),
    )


def null_command(path: Path, found: Probe, config: DecodeConfig) -> list[str]:
    """ffmpeg alone, with the filters that a film has."""
    part = part_of(found, config, 0.0, None)
    opened = source(plain_file(path, "decode"), t=part.limit_s)
    outputs = [picture_filters(opened["V:0"], found, config, part).output("-", f="null", fps_mode="passthrough")]
    if found.has_audio:
        outputs.append(sound_filters(opened["a:0"], found, config, part).output("-", f="null"))
    return ffmpeg.merge_outputs(*outputs).compile(cmd=program("error"))


def _round(pool: Pool, work: Callable[..., tuple[float, float]], tasks: Sequence[Task]) -> tuple[float, float, float]:
    """Seconds by the clock and of processors that all tasks took, and those of their probes."""
    began = time.perf_counter()
    spent = pool.starmap(work, tasks, chunksize=1)
    return time.perf_counter() - began, sum(cpu for cpu, _ in spent), sum(probed for _, probed in spent)


def _alone(arguments: list[str]) -> tuple[float, float]:
    before = cpu_s()
    subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL)
    return cpu_s() - before, 0.0


def _ours(path: str, config: DecodeConfig, scratch: str) -> tuple[float, float]:
    before, began = cpu_s(), time.perf_counter()
    found = probe(path)
    probed = time.perf_counter() - began
    out = Path(scratch) / f"{os.getpid()}.raw"
    with out.open("wb", buffering=0) as file, open_film(path, found, config) as film:
        first = 0
        while cut := film.read(first, CLIP_S * config.fps):
            assert cut.frames is not None
            file.write(cut.frames.data)
            if cut.audio is not None:
                file.write(cut.audio.data)
            first += cut.count
        film.verdict()
    out.unlink()
    return cpu_s() - before, probed


def cpu_s() -> float:
    """Of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
