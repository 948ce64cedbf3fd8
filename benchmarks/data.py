"""How fast media become pixels and sound on one clock, against `ffmpeg -f null` with the same filters.

clips of 5 s and more, clips of 3 s -> _data_decode (ffmpeg alone and ours, in turn) -> vs_ffmpeg, vs_ffmpeg_short
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from ..datasets.film_command import DecodeConfig
from ..datasets.media_write import write_media
from ._data_decode import Ratio, decode_ratio

MEDIA = Path(__file__).resolve().parents[1].parent / "shared" / "media"
LONG = ("ovi_1.mp4", "ovi_2.mp4", "bbb_8s.webm", "d07_vfr.mp4", "d21_60fps.mp4")
SHORT = ("grid_bbaf2n.mpg", "grid_brbk7n.mpg", "grid_lwbsza.mpg", "d01_h264_aac.mp4", "d02_vp9_opus.webm", "d14_hevc10_opus.mkv")
QUICK = 2  # files of each kind


def files_of(folder: Path, scratch: Path) -> dict[str, list[Path]]:
    """Clips of 5 s and more, and of 3 s: those of the folder, or such as are made in `scratch` where it is absent."""
    if folder.is_dir():
        return {"long": [folder / name for name in LONG], "short": [folder / name for name in SHORT]}
    made: dict[str, list[Path]] = {"long": [], "short": []}
    for kind, seconds in (("long", 5), ("short", 3)):
        for suffix in ("mp4", "webm"):
            t, y, x = np.ogrid[: seconds * 25, :288, :360]
            planes = [128 + 100 * np.sin((x * y + 40 * t * (n + 1)) / (600 + 90 * n)) for n in range(3)]
            sound = 0.3 * np.sin(np.arange(seconds * 44100) / 20)
            path = scratch / f"{kind}.{suffix}"
            write_media(path, np.stack(np.broadcast_arrays(*planes), -1).astype(np.uint8), 25, sound, 44100)
            made[kind].append(path)
    return made


def size_of(text: str) -> tuple[int, int]:
    """Height and width.

    Raises:
        ValueError: not two positive numbers with an x between them.
    """
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ValueError(f"--size={text!r}: write height x width in pixels, as in 192x336")
    return int(sides[0]), int(sides[1])


def print_table(ratios: dict[str, Ratio]) -> None:
    print(f"{'clips':<8}{'of ffmpeg':>12}{'of its CPU':>12}{'s a file':>10}{'probe':>8}")
    for kind, ratio in ratios.items():
        print(f"{kind:<8}{ratio.of_ffmpeg:>12.2f}{ratio.of_ffmpeg_cpu:>12.2f}{ratio.seconds:>10.3f}{100 * ratio.probe_share:>7.0f}%")


def main(arguments: list[str]) -> int:
    """See the module docstring; prints one JSON object as the last line with --json."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench data", description="How fast media become pixels and sound.")
    parser.add_argument("--quick", action="store_true", help="few files and rounds: a minute, and no figure to quote")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--media", type=Path, default=MEDIA, help="folder of the media pack (default: ../shared/media, or made clips)")
    parser.add_argument("--size", default="192x336", help="height x width of the pictures")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    height, width = size_of(options.size)
    for name in ("processes", "rounds"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name}={getattr(options, name)}: must be at least 1")
    config = DecodeConfig(height=height, width=width)
    with tempfile.TemporaryDirectory() as scratch:
        files = files_of(options.media, Path(scratch))
        if options.quick:
            files = {kind: paths[:QUICK] for kind, paths in files.items()}
        rounds = min(options.rounds, 2) if options.quick else options.rounds
        ratios = {kind: decode_ratio(paths, config, options.processes, rounds) for kind, paths in files.items()}
    print_table(ratios)
    if options.json:
        figures = {"vs_ffmpeg": ratios["long"].of_ffmpeg, "vs_ffmpeg_short": ratios["short"].of_ffmpeg}
        figures |= {"vs_ffmpeg_cpu": ratios["long"].of_ffmpeg_cpu, "vs_ffmpeg_short_cpu": ratios["short"].of_ffmpeg_cpu}
        print(json.dumps({"name": "data", "size": options.size, "processes": options.processes, **figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
