"""How fast a preset streams and trains, against what its arithmetic allows.

    stream    FEW 4, FEW 8 and MULTI 50 guided, chunk by chunk with the cache; FEW 4 without one, and decoded    frames/s, latency, memory
    long      ten minutes of FEW 4: does a chunk come to cost more, does memory grow
    training  a step of flow matching                                                                 tokens/s, share of the FLOPs

    model/arithmetic (multiply-adds, bytes), _ceilings (of this device), _streams (a network, played), _decoding -> _speed (a row) -> here

Each row is kept in a file when it is finished, so the same command goes on where it was stopped, or where `--minutes` ended it; a row that
failed is tried again. Weights are random: time does not see them. Needs PyTorch alone; decoding needs NumPy, the plot matplotlib.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..model.execution import ExecutionConfig
from ..model.presets import preset
from ..model.timeline import Timeline
from ._ceilings import Ceilings, measure_ceilings
from ._model_page import plot, print_table
from ._speed import DECODED, MODES, NOT, Amount, Figures, forget, long, stream, training
from ._streams import Case

if TYPE_CHECKING:
    from ._decoding import Codecs

QUICK = Amount(rounds=2, latency=10, long=200, chunks=3)
ON_GPU = Amount(rounds=3, latency=30, warm=8)  # every shape of a pass is recorded in these rounds; three, as MULTI 50 takes long
TRAINED = 8  # clips of a training step on a GPU: with two, it waits for Python
MANY = 8  # clips at once on a CPU: rollouts are made in batches, and weights are then read once for all of them
ROOT = Path(__file__).resolve().parents[1]
MINE = ("model", "_speed", "_streams", "_ceilings", "_decoding")  # modules of benchmarks/ that figures depend on
RESOLUTIONS = {"192x336": (192, 336), "480x768": (480, 768), "704x1280": (704, 1280)}
EAGER, COMPILED = ExecutionConfig(), ExecutionConfig(compile=True)
RECORDED = ExecutionConfig(compile=True, graphs=True)
FLEX = ExecutionConfig("flex", compile=True)


@dataclass(frozen=True)
class Row:
    """One file of figures."""

    name: str
    measure: Callable[[Ceilings], Figures]


def rows_of(name: str, device: torch.device, amount: Amount, codecs: Codecs | None) -> list[Row]:
    """What is measured of a preset. On a GPU in bf16: the three resolutions of the paper; recorded, compiled and eager; flex and dense."""
    chosen = preset(name)
    if device.type == "cpu":
        small, fewer = Case(chosen, 64, 64, device, seconds=80, codecs=codecs), replace(amount, rounds=min(amount.rounds, 5), latency=10)
        rows = [
            Row("stream-64x64", lambda c: stream(small, amount, c, recompute=True)),
            Row(f"stream-64x64-{MANY}-clips", lambda c: stream(replace(small, clips=MANY), fewer, c, recompute=True)),
            Row("training", lambda c: training(replace(small, clips=2), amount, c)),
        ]
        return rows + ([Row("long", lambda c: long(replace(small, seconds=600), amount.long))] if amount.long else [])

    def case(resolution: str, execution: ExecutionConfig) -> Case:
        return Case(chosen, *RESOLUTIONS[resolution], device, torch.bfloat16, execution, seconds=60, codecs=codecs)

    fast = {name: MODES[name] for name in ("few4", "few8")}
    rows = [Row(f"stream-{r}", lambda c, r=r: stream(case(r, RECORDED), amount, c, recompute=False, modes=fast)) for r in RESOLUTIONS]
    slow = {name: MODES[name] for name in ("few4", "multi50")}  # apart: MULTI takes seconds a chunk where pictures are large
    bare = replace(amount, latency=amount.rounds)
    rows += [
        Row(f"stream-{r}-multi50", lambda c, r=r: stream(replace(case(r, RECORDED), codecs=None), bare, c, recompute=False, modes=slow))
        for r in RESOLUTIONS
    ]
    for label, how in (("compiled", COMPILED), ("eager", EAGER)):
        once = replace(amount, warm=1)
        rows.append(Row(f"stream-192x336-{label}", lambda c, how=how, once=once: stream(case("192x336", how), once, c, recompute=True)))
    for label, execution in (("flex", FLEX), ("dense", COMPILED), ("dense-eager", EAGER)):
        for every in (0, 1):
            how = replace(execution, checkpoint_every=every)
            name = f"training-{label}{'-recomputed' * every}"
            rows.append(Row(name, lambda c, how=how: training(replace(case("192x336", how), clips=TRAINED), amount, c)))
    return rows


def chosen_of(rows: list[Row], beginnings: str) -> list[Row]:
    """The rows whose names begin with one of these; all of them where none is given.

    Raises:
        ValueError: a beginning that no row has.
    """
    wanted = [w.strip() for w in beginnings.split(",") if w.strip()]
    if unknown := [w for w in wanted if not any(row.name.startswith(w) for row in rows)]:
        raise ValueError(f"--rows={','.join(unknown)!r}: no row begins so; they are {', '.join(row.name for row in rows)}")
    return [row for row in rows if not wanted or row.name.startswith(tuple(wanted))]


def measured(rows: list[Row], out: Path, mark: dict[str, str], device: torch.device, until: float) -> dict[str, Figures]:
    """Figures of each row, from its file if there is one. A row that fails says why, and the others go on."""
    figures: dict[str, Figures] = {}
    ceilings = _kept(out / "ceilings.json", mark, lambda: asdict(measure_ceilings(device, _dtype(device))))
    figures["ceilings"] = ceilings
    for row in rows:
        path = out / f"{row.name}.json"
        if path.is_file() or time.monotonic() < until:
            print(f"{row.name} ...", file=sys.stderr, flush=True)
            figures[row.name] = _kept(path, mark, lambda row=row: _or_why(row, Ceilings(**ceilings), device))
        else:
            figures[row.name] = {NOT: "the time of this call was over; give the same command again"}
    return figures


def mark_of(device: torch.device, amount: Amount, codecs: str) -> dict[str, str]:
    """What figures depend on besides their row: the machine, how much is measured, the codecs, and the code."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    digest = hashlib.sha256()
    for path in [*sorted((ROOT / "model").rglob("*.py")), *(ROOT / "benchmarks" / f"{name}.py" for name in MINE)]:
        digest.update(path.read_bytes())
    return {"device": name, "torch": torch.__version__, "amount": str(amount), "codecs": codecs, "code": digest.hexdigest()[:12]}


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def codecs_of(name: str, video: str, audio: str, device: torch.device) -> tuple[Codecs | None, str]:
    """What decodes a preset's latents, and its name: the codecs of two folders, or the embedded ones where the preset is theirs.

    Raises:
        ValueError: one folder without the other, or one that does not fit.
    """
    if bool(video) != bool(audio):
        raise ValueError(f"--video-codec={video!r}, --audio-codec={audio!r}: give both or neither")
    chosen = preset(name)
    if not video and (chosen.clock != Timeline() or find_spec("numpy") is None):
        return None, "none"
    from ._decoding import embedded, pretrained  # NumPy, and diffusers for a folder: the network alone needs neither

    if video:
        return pretrained(chosen, video, audio, device, _dtype(device)), f"{video}, {audio}"
    return embedded(chosen), "embedded"


def _kept(path: Path, mark: dict[str, str], measure: Callable[[], Figures]) -> Figures:
    if path.is_file():
        record = json.loads(path.read_text())
        before = record.get("mark", {})
        other = [f"{name} {before.get(name)!r}, now {value!r}" for name, value in mark.items() if before.get(name) != value]
        if other:
            raise ValueError(f"--out={str(path.parent)!r}: {path.name} was measured with {'; '.join(other)}; choose another folder")
        return record["figures"]
    figures = measure()
    if NOT not in figures:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"mark": mark, "figures": figures}))
        part.replace(path)
    return figures


def _or_why(row: Row, ceilings: Ceilings, device: torch.device) -> Figures:
    forget(device)
    torch.compiler.reset()  # what another row compiled must not decide what this one runs
    try:
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):  # or a compiled row would be half an eager one
            return row.measure(ceilings)
    except torch.OutOfMemoryError:
        return {NOT: "it does not fit into the device's memory", "failed": True}
    except RuntimeError as error:  # of a compiler or a kernel: the other rows need not suffer
        return {NOT: f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}", "failed": True}


def headline(figures: dict[str, Figures]) -> Figures:
    """The figures that the targets are about: compiled on a GPU, one clip on a CPU, `_many` of them apart."""

    def of(row: str, *keys: str) -> Figures:
        return {key: figures[row][key] for key in keys if key in figures.get(row, {})}

    found: Figures = {}
    for resolution in RESOLUTIONS:
        row = figures.get(f"stream-{resolution}", {})
        if "few4" in row:
            decoded = DECODED.format("few4") in row
            found[f"fps_{resolution}"] = row[DECODED.format("few4") if decoded else "few4"]["fps"]
            found["codec"] = "included" if decoded else "excluded"
    for row in ("stream-64x64", "stream-192x336-eager", "stream-192x336-multi50"):  # the last has no stream without a cache
        found |= of(row, "cached_vs_flop_ratio", "few4_vs_predicted")
    found |= {f"{key}_many": x for key, x in of(f"stream-64x64-{MANY}-clips", "cached_vs_flop_ratio", "few4_vs_predicted").items()}
    found |= of("long", "latency_growth", "rss_growth_mb")
    mfu = [row["mfu"] for name, row in figures.items() if name.startswith("training") and "mfu" in row]
    return found | ({"mfu": max(mfu)} if mfu else {})


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, so that a ratio does not hang on how many cores happen to be free."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(arguments: list[str]) -> int:
    """See the module docstring; prints one JSON object as the last line with --json."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench model", description="How fast a preset streams and trains.")
    parser.add_argument("--preset", default="tiny", help="tiny, small, base or paper")
    parser.add_argument("--quick", action="store_true", help="few rounds and short clips: seconds for tiny, and no figure to quote")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, help="no row begins after so many minutes (default: 60 on a CPU, 3 on a GPU)")
    parser.add_argument("--out", default="runs/bench-model", help="folder of the rows")
    parser.add_argument("--rows", default="", help="only the rows whose names begin with one of these, comma-separated")
    parser.add_argument("--plot", help="write the roofline to this file")
    parser.add_argument("--video-codec", default="", help="folder of the autoencoder that decodes (default: the embedded codecs, or none)")
    parser.add_argument("--audio-codec", default="", help="folder of the autoencoder of the sound")
    options = parser.parse_args(arguments)
    try:
        device = torch.device(options.device)
    except RuntimeError as error:
        raise ValueError(f"--device={options.device!r}: not a device; choose cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device={options.device!r}: PyTorch sees no GPU here; install a build for CUDA, or choose --device cpu")
    if options.plot and find_spec("matplotlib") is None:
        raise ValueError(f"--plot={options.plot!r}: needs matplotlib; install it, or leave the plot out")
    on_cpu = device.type == "cpu"
    minutes = options.minutes if options.minutes is not None else 60.0 if on_cpu else 3.0
    out = Path(options.out) / f"{options.preset}-{device.type}{'-quick' * options.quick}"
    amount = QUICK if options.quick else Amount() if on_cpu else ON_GPU
    codecs, which = codecs_of(options.preset, options.video_codec, options.audio_codec, device)
    with one_thread() if on_cpu else nullcontext():
        rows = chosen_of(rows_of(options.preset, device, amount, codecs), options.rows)
        figures = measured(rows, out, mark_of(device, amount, which), device, time.monotonic() + 60 * minutes)
    print_table(figures)
    if options.plot:
        plot(figures, Path(options.plot))
    if options.json:
        print(json.dumps({"name": "model", "preset": options.preset, **headline(figures), "rows": figures, "out": str(out)}))
    return int(any("failed" in row for row in figures.values()))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
