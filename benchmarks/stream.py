"""How fast a clip streams from a prompt to bytes that a player takes, and whether that lasts for ten minutes.

    random network of the demo's size, or --checkpoint -> Playing -> chunks -> MediaStream -> fragments, which are counted

    alone      one clip: time to the first chunk and to the first fragment, frames/s, jitter, memory, the last tenth against the first
    viewers    1, 2, 4 and 8 viewers of a served model, together and one after the other

Weights are random: time does not see them. The encoder runs beside the network, on the same processor.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._stream_viewers import viewers

if TYPE_CHECKING:
    from ..orchestration.generation.opened_model import OpenedModel

Figures = dict[str, Any]
SECONDS, QUICK_SECONDS = 600.0, 30.0
WARM = 0.1  # of the clip: before it memory is not yet what it stays
ROWS = {
    "time_to_first_chunk_s": "time to first chunk, s",
    "time_to_first_fragment_s": "time to first fragment, s",
    "fps": "frames/s",
    "realtime_factor": "times as fast as real time",
    "chunk_ms": "median time of a chunk, ms",
    "jitter_p99_ms": "99 of 100 chunks are off that by at most, ms",
    "first_tenth_ms": "mean time of a chunk in the first tenth, ms",
    "last_tenth_ms": "in the last tenth, ms",
    "cpu_first_tenth_ms": "processor time of a chunk in the first tenth, without the encoder's, ms",
    "cpu_last_tenth_ms": "in the last tenth, ms",
    "rss_growth_mb": "memory grew by, MB",
    "kbit_per_s": "kbit a second of film",
}


def alone(model: OpenedModel, seconds: float, mode: str, moves: int | None) -> Figures:
    """One clip of so many seconds. Raises ValueError if the model cannot make it."""
    import numpy as np
    import psutil
    import torch

    from ..datasets.ffmpeg.media_stream import MediaStream
    from ..orchestration.generation.generating import format_of
    from ..orchestration.generation.playing import Playing, Prompt

    record, clock = model.record, model.record.timeline
    chunks = max(20, round(seconds / float(clock.chunk)))
    words = tuple(("word", 0.4 * i, 0.4 * i + 0.3) for i in range(int(seconds / 0.4)))
    # A picture of noise that the codec has made: encoders see moving pictures of the network, whatever they begin with.
    shape = (record.network.video_channels, record.height // model.video.spatial_stride, record.width // model.video.spatial_stride)
    first = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    process, memory, ends, work, fragment, size = psutil.Process(), list[int](), list[float](), list[float](), list[float](), 0

    def take(data: bytes) -> None:
        nonlocal size
        if b"moof" in data and not fragment:
            fragment.append(time.perf_counter())
        size += len(data)

    began = time.perf_counter()
    with MediaStream(take, format_of(model, {})) as out:
        for (chunk,) in Playing(model, [Prompt(first, "a calm voice in a quiet room", words)], model.sampler(mode, moves, None), chunks):
            ends.append(time.perf_counter())
            work.append(time.process_time())
            out.push(chunk.frames, chunk.samples)
            memory.append(process.memory_info().rss)
        frames = out.frames
    spent = time.perf_counter() - began
    between, worked = 1000 * np.diff(ends), 1000 * np.diff(work)
    tenth, warm = max(1, len(between) // 10), max(1, round(WARM * chunks))
    return {
        "time_to_first_chunk_s": round(ends[0] - began, 4),
        "time_to_first_fragment_s": round(fragment[0] - began, 4),
        "fps": round(frames / spent, 2),
        "realtime_factor": round(frames / clock.fps / spent, 3),
        "chunk_ms": round(float(np.median(between)), 2),
        "jitter_p99_ms": round(float(np.quantile(np.abs(between - np.median(between)), 0.99)), 2),
        "first_tenth_ms": round(float(between[:tenth].mean()), 2),
        "last_tenth_ms": round(float(between[-tenth:].mean()), 2),
        "cpu_first_tenth_ms": round(float(worked[:tenth].mean()), 2),
        "cpu_last_tenth_ms": round(float(worked[-tenth:].mean()), 2),
        "rss_growth_mb": round((memory[-1] - memory[warm]) / 1e6, 2),
        "kbit_per_s": round(8e-3 * size / (frames / clock.fps), 1),
    }


Part = Callable[["OpenedModel", float, str, int | None], Figures]
PARTS: dict[str, Part] = {"alone": alone, "viewers": viewers}
"""What is measured, one after the other, each adding figures of its own names."""


def random_model(device: str) -> OpenedModel:
    """A network of the demo's size that has learned nothing, with the embedded codecs."""
    import torch

    from ..model.presets import Preset
    from ..orchestration.generation.opened_model import OpenedModel
    from ..orchestration.model_record import ModelRecord
    from ..orchestration.recipes import recipe
    from ._decoding import embedded
    from ._streams import Case, Stage

    demo = recipe("demo")
    preset = Preset(demo.model, demo.data.timeline, demo.data.video_codec.spatial)
    where, codecs = torch.device(device), embedded(preset)
    network = Stage(Case(preset, demo.data.height, demo.data.width, where, seconds=1)).net
    codec_json = codecs.video.to_json(), codecs.audio.to_json()
    record = ModelRecord(demo.model, demo.data.timeline, demo.objective, demo.samples, demo.data.width, demo.data.height, *codec_json)
    return OpenedModel(network, record, codecs.video, codecs.audio, "random", 0, "0" * 64, where)


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print figures as lines or as one line of JSON."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench stream", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS:g} seconds of film instead of {SECONDS:g}")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--seconds", type=float, default=0.0, help="of film")
    parser.add_argument("--checkpoint", default="", help="a run folder or exported weights, instead of random ones")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--mode", default="few", help="few or multi")
    parser.add_argument("--moves", type=int, default=None, help="of a chunk (few) or Euler steps (multi)")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--only", default="", help=f"of {', '.join(PARTS)}, with commas")
    options = parser.parse_args(arguments)
    import torch

    from ..orchestration.generation.opened_model import device_named, open_model

    parts = [name.strip() for name in options.only.split(",") if name.strip()] or list(PARTS)
    if unknown := [name for name in parts if name not in PARTS]:
        raise ValueError(f"--only={','.join(unknown)!r}: choose from {', '.join(PARTS)}")
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    if not 10 <= seconds <= 4 * 3600:
        raise ValueError(f"--seconds={seconds:g}: from 10 to {4 * 3600}")
    torch.set_num_threads(options.threads)
    device = device_named(options.device)
    model = open_model(options.checkpoint, (), device, threads=options.threads) if options.checkpoint else random_model(device)
    figures: Figures = {"device": device if device == "cpu" else torch.cuda.get_device_name(), "seconds": seconds, "mode": options.mode}
    for name in parts:
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures |= PARTS[name](model, seconds, options.mode, options.moves)
    if options.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        if name != "viewers":
            print(f"{ROWS.get(name, name):<72} {value}")
    for row in figures.get("viewers", ()):
        print("  ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
    return 0
