"""From media files to latents: how far from ffmpeg alone, what a job costs besides its clips, what a worker holds, how fast batches are.

    decode     probe + film + pixels to disk       against ffmpeg -f null    vs_ffmpeg, vs_ffmpeg_short
    encode     a part: judge, encode, write too    against ffmpeg -f null    vs_ffmpeg_encoded
    job        two short clips, Ray being there                              fixed_s
    memory     a part of one long film, its process and ffmpeg's             peak_rss_mb
    loader     shards -> batches                                             loader_gb_s, wait_p99_ms

Files are those of the media pack beside the checkout, else drawn characters. Needs Ray for the row `job` alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..datasets.config import DataConfig
from ..datasets.drawn.synthetic import SyntheticConfig, write_corpus
from ..datasets.encoding.encoders import LocalEncoder, OpenEncoder
from ..datasets.ffmpeg.ffmpeg_child import ffmpeg_path
from ..datasets.format.parts import Item, Part
from ..datasets.intake.inputs import sources_of
from ..datasets.intake.sources import source_to_json
from ..datasets.preparing.making import MakePart
from ..datasets.preparing.measuring import Codecs, Measure, fit, unpack_moments
from ._data_decode import cpu_s, decode_ratio
from ._loader import measure_loader

PACK = Path(__file__).resolve().parents[2] / "shared" / "media"
LONG = ("bbb_8s.webm", "d07_vfr.mp4", "d21_60fps.mp4", "ovi_1.mp4", "ovi_2.mp4", "ovi_3.mp4")
SHORT = ("d01_h264_aac.mp4", "d02_vp9_opus.webm", "d14_hevc10_opus.mkv", "grid_bbaf2n.mpg", "grid_lbax4n.mpg", "grid_lwbsza.mpg")
TARGETS = {
    "vs_ffmpeg": ("at least", 0.75),
    "vs_ffmpeg_short": ("at least", 0.60),
    "vs_ffmpeg_encoded": ("at least", 0.60),
    "fixed_s": ("at most", 8.0),
    "peak_rss_mb": ("at most", 1500.0),
    "loader_gb_s": ("at least", 1.0),
    "wait_p99_ms": ("at most", 1.0),
}


def main(words: Sequence[str]) -> int:
    """Run the rows that are asked for; exits 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench data", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default="decode,encode,job,memory,loader", help="which rows, by commas")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and a shorter film: figures are rougher")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1), help="of ffmpeg, and of ours")
    parser.add_argument("--film-minutes", type=float, default=0.0, help="of the film whose memory is measured (0: 20, quick 2)")
    given = parser.parse_args(words)
    memory = partial(_memory, minutes=given.film_minutes or (2.0 if given.quick else 20.0))
    rows = {"decode": _decode, "encode": _encode, "job": _job, "memory": memory, "loader": _loader}
    if unknown := sorted(set(given.rows.split(",")) - rows.keys()):
        raise ValueError(f"--rows: {unknown[0]!r} is unknown; choose from {', '.join(rows)}")
    found: dict[str, Any] = {"quick": given.quick, "processes": given.processes}
    with tempfile.TemporaryDirectory(prefix="bench-data-") as scratch:
        long, short, found["media"] = _files(Path(scratch))
        for name, row in rows.items():
            if name in given.rows.split(","):
                found |= row(long, short, given.processes, given.quick, Path(scratch))
                if not given.json:
                    print(f"{name}: done", file=sys.stderr)
    found["load"] = os.getloadavg()[0]
    print(json.dumps(found) if given.json else _table(found))
    return 0


def _files(scratch: Path) -> tuple[list[Path], list[Path], str]:
    """Films of 5 s and more, films of 3 s, and where they are from."""
    if all((PACK / name).is_file() for name in (*LONG, *SHORT)):
        return [PACK / name for name in LONG], [PACK / name for name in SHORT], "media pack"
    made = []
    for seconds in (6.0, 3.0):
        write_corpus(SyntheticConfig(6, seconds, 256, 256, seed=1), folder := scratch / f"{seconds:g}")
        made.append(sorted(p for p in folder.iterdir() if p.suffix in (".mp4", ".mkv", ".webm")))
    return made[0], made[1], "drawn characters"


def _decode(long: Sequence[Path], short: Sequence[Path], processes: int, quick: bool, scratch: Path) -> dict[str, Any]:
    config, rounds = _config().decoding, 3 if quick else 7
    far, near = (decode_ratio(files, config, processes, rounds) for files in (long, short))
    return {"vs_ffmpeg": far.of_ffmpeg, "vs_ffmpeg_short": near.of_ffmpeg, "decode_long": asdict(far), "decode_short": asdict(near)}


def _encode(long: Sequence[Path], short: Sequence[Path], processes: int, quick: bool, scratch: Path) -> dict[str, Any]:
    config = _config()
    work = partial(_part, config, _codecs(config, long))
    found = decode_ratio(long, config.decoding, processes, 3 if quick else 7, work)
    return {"vs_ffmpeg_encoded": found.of_ffmpeg, "encode_long": asdict(found)}


def _part(config: DataConfig, codecs: Codecs, path: Path, scratch: str) -> tuple[float, float]:
    """One source as a part: all that `data prepare` does with it after the first look."""
    import torch

    torch.set_num_threads(1)
    before, out = cpu_s(), Path(scratch) / str(os.getpid())
    out.mkdir(exist_ok=True)
    (source,) = sources_of([str(path)])
    receipt = MakePart(config, LocalEncoder(OpenEncoder(*codecs)), str(out)).make(Part("0", (Item(source, "bench", 4),)))
    assert receipt.clips, receipt.outcomes
    return cpu_s() - before, 0.0


def _job(long: Sequence[Path], short: Sequence[Path], processes: int, quick: bool, scratch: Path) -> dict[str, Any]:
    """Two drawn characters, prepared three times into new folders: the first also starts Ray's workers, which a cluster has."""
    import ray

    from ..datasets.pipeline import prepare
    from ..datasets.progress import silent

    write_corpus(SyntheticConfig(2, 2.2, 64, 64, seed=1), media := scratch / "job-media")
    ray.init(num_cpus=processes, include_dashboard=False, log_to_driver=False)
    try:
        spent = []
        for number in range(3):
            began = time.perf_counter()
            prepare(replace(_config(), media=str(media), clip_chunks=2), scratch / f"job-{number}", silent)
            spent.append(time.perf_counter() - began)
    finally:
        ray.shutdown()
    return {"fixed_s": spent[0], "fixed_warm_s": min(spent[1:])}


def _memory(long: Sequence[Path], short: Sequence[Path], processes: int, quick: bool, scratch: Path, minutes: float) -> dict[str, Any]:
    """A long film, as large as training has it, in a process of its own: what that and ffmpeg held at most. A film of a tenth beside it
    tells whether memory grows with length."""
    config = replace(_config(), width=336, height=192)
    codecs, peaks = _codecs(config, long[-2:]), dict[str, Any]()
    for name, length in (("tenth_rss_mb", minutes / 10), ("peak_rss_mb", minutes)):
        film = scratch / f"{name}.mp4"
        again = [ffmpeg_path(), "-nostdin", "-v", "error", "-stream_loop", "-1", "-i", str(long[-1])]
        subprocess.run([*again, "-t", str(60 * length), "-c", "copy", str(film)], check=True)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks[name] = pool.apply(_held, (config, codecs, film, str(scratch)))
        film.unlink()
    return peaks | {"film_minutes": minutes}


def _held(config: DataConfig, codecs: Codecs, path: Path, scratch: str) -> float:
    _part(config, codecs, path, scratch)
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def _loader(long: Sequence[Path], short: Sequence[Path], processes: int, quick: bool, scratch: Path) -> dict[str, Any]:
    found = measure_loader(scratch, 2 if quick else 4, 2.0 if quick else 10.0)
    return {"loader_gb_s": found.loader_gb_s, "wait_p50_ms": found.wait_p50_ms, "wait_p99_ms": found.wait_p99_ms}


def _config() -> DataConfig:
    """The demo's sizes, without rules: every clip is encoded."""
    config = DataConfig(media="bench", min_chunks=1)
    return replace(config, filters=replace(config.filters, min_rms_db=-300.0, min_luma=0.0, max_still=1.0, max_clipped=1.0))


def _codecs(config: DataConfig, files: Sequence[Path]) -> Codecs:
    rows = [Measure(config)({"source": source_to_json(sources_of([str(path)])[0]), "starts": "[]"}) for path in files[:2]]
    return fit(config, [unpack_moments(row["moments"]) for row in rows])


def _table(found: dict[str, Any]) -> str:
    lines = [f"{'figure':<20} {'':>8}  target"]
    for name, (sense, target) in TARGETS.items():
        if name in found:
            lines.append(f"{name:<20} {found[name]:>8.3g}  {sense} {target:g}")
    return "\n".join(lines)
