"""The verb `plan`: what it is told, and its tables on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..command import Debug, Json, Set, run_verb
from ..progress import plain_console, printable

if TYPE_CHECKING:
    from ...datasets.manifest import Manifest
    from ..config import RunConfig
    from .plan import Plan

GB = 1e9
NAMES = {"fake": "fake score", "ema": "average", "frozen": "frozen teacher", "caches": "teacher's cache", "start": "first weights"}
NOT_KEPT = "nothing was started; give the command again"


def plan(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, for example paper.")],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="How many there are for training and rollouts together.")] = 8,
    gpu: Annotated[str, typer.Option("--gpu", help="Which: a100-40, a100-80, h100, h100-nvl or h200.")] = "h100",
    price: Annotated[float | None, typer.Option("--price", min=0.0, help="Of one for an hour (default: a round figure).")] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Prepared dataset (folder or s3://): its clips instead of the recipe's.")
    ] = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help="File that `bench plan --calibrate` wrote on this GPU.")] = None,
    mfu: Annotated[float, typer.Option("--mfu", help="Share of the bf16 peak that training reaches, where nothing was measured.")] = 0.24,
    network: Annotated[float, typer.Option("--network", help="10^9 bytes/s of a GPU to other machines.")] = 50.0,
    upload: Annotated[float, typer.Option("--upload", help="10^9 bytes/s of a process to S3.")] = 0.25,
    clips_per_s: Annotated[float, typer.Option("--clips-per-s", help="Clips that one CPU prepares in a second.")] = 0.5,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a run will need before it starts: memory by ZeRO stage, a layout that fits, hours, traffic, cost. Starts nothing."""

    def work() -> None:
        from pathlib import Path

        from ..runs import configured
        from .calibration import read_calibration
        from .gpus import gpu as known
        from .plan import Assumed, Wish, make_plan

        card = known(gpu)
        assumed = Assumed(mfu=mfu, network=network * GB, upload=upload * GB, clips_per_s=clips_per_s)
        config = configured(recipe, None, ["workers.use_gpu=true", "workers.count=1", "engine.micro_batch=0", *(set_ or [])], data)
        measured = read_calibration(Path(calibration)) if calibration else None
        manifest = _manifest(config, data) if data else None
        wish = Wish(recipe, gpus, gpu.lower(), card, card.price if price is None else price)
        made = make_plan(config, wish, assumed, measured, manifest)
        if as_json:
            typer.echo(json.dumps(made.to_json(config)))
        else:
            show(made, config)

    run_verb(work, debug, NOT_KEPT)


def _manifest(config: RunConfig, uri: str) -> Manifest:
    """The manifest of a dataset, which is all that is read of it.

    Raises:
        ValueError: there is none, or its clips have other sizes than the recipe's.
    """
    from ...datasets.manifest import MANIFEST, open_manifest
    from ...datasets.store import store_of

    store = store_of(uri)
    try:
        found = open_manifest(store.fetch(MANIFEST))
    except OSError as error:
        raise ValueError(f"--data={uri!r}: no manifest.json can be read there ({' '.join(str(error).split())})") from error
    finally:
        store.close()
    sizes = {name: getattr(found, name) for name in ("clip_chunks", "width", "height")}
    if other := {name: value for name, value in sizes.items() if getattr(config.data, name) != value}:
        words = " ".join(f"--set data.{name}={value}" for name, value in other.items())
        raise ValueError(f"--data={uri!r}: its clips have other sizes than the recipe's; give {words}")
    return found


def show(made: Plan, config: RunConfig) -> None:
    """The plan as tables and lines."""
    console = plain_console()
    wish = made.wish
    total = sum(made.parameters.values())
    console.print(
        f"{wish.recipe}: {total / GB:.1f} B parameters on {wish.gpus} x {wish.kind} ({wish.gpu.memory / GB:.0f} GB)", style="bold"
    )
    for table in (_zero(made), _stages(made, config)):
        if table is not None:
            console.print(table)
    for line in _lines(made):
        console.print(printable(line), soft_wrap=True)
    console.print(_assumed(made))


def _gb(value: float) -> str:
    return f"{value / GB:.1f}" if value >= GB / 20 else "-" if value == 0 else "<0.1"


def _zero(made: Plan) -> Table:
    """A row a part, a column a ZeRO stage: at the moment when a training process needs most."""
    count = made.zero[0].choice.trainers
    table = Table("GB of a trainer", *(f"ZeRO {fit.choice.zero}" for fit in made.zero), title=f"memory with {count} trainers")
    for column in table.columns[1:]:
        column.justify = "right"
    for part in made.zero[0].moment.parts:
        if any(fit.moment.parts[part] for fit in made.zero):
            table.add_row(NAMES.get(part, part), *(_gb(fit.moment.parts[part]) for fit in made.zero))
    table.add_row("together", *(_gb(fit.moment.total) for fit in made.zero), style="bold")
    table.add_row("clips a forward", *(str(fit.choice.micro) for fit in made.zero))
    table.add_row("layers computed again", *(_policy(fit.choice.every) for fit in made.zero))
    table.add_row("optimizer on the", *("host" if fit.choice.offload else "GPU" for fit in made.zero))
    table.add_row("most in stage", *(fit.stage for fit in made.zero))
    table.add_row("at", *(fit.moment.name for fit in made.zero))
    table.add_row("fits", *("no" if fit.why else "yes" for fit in made.zero), style="bold")
    return table


def _policy(every: int) -> str:
    return {0: "none", 1: "all"}.get(every, f"every {every}nd")


def _stages(made: Plan, config: RunConfig) -> Table | None:
    if made.layout is None:
        return None
    hours = made.stage_hours(config)
    table = Table("stage", "steps", "batch", "step", "tokens/s", "hours", "GB a trainer", title="time")
    for column in table.columns[1:]:
        column.justify = "right"
    for s in config.stages:
        seconds = made.layout.step_s[s.name]
        speed = f"{s.batch * made.tokens[s.name] / seconds:,.0f}"
        held = _gb(made.memory[s.name]["total"])
        table.add_row(s.name, f"{s.steps:,}", str(s.batch), _seconds(seconds), speed, f"{hours[s.name]:,.1f}", held)
    return table


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.1 else f"{1000 * value:.3g} ms"


def _lines(made: Plan) -> Iterator[str]:
    t, wish = made.layout, made.wish
    for fit in made.zero:
        if fit.why:
            yield f"ZeRO {fit.choice.zero} does not fit: {fit.why}"
    if t is None or made.hours is None or made.cost is None:
        yield f"nothing fits: {made.remedy}"
        return
    choice = t.fit.choice
    rollouts = f" + {t.actors} GPUs for rollouts" if t.actors else ""
    yield (
        f"layout: {choice.trainers} trainers{rollouts}, ZeRO {choice.zero}, {choice.micro} clips a forward, layers computed again: "
        f"{_policy(choice.every)}, optimizer on the {'host' if choice.offload else 'GPU'}"
    )
    for name, share in made.shares.items():
        yield f"  a step of {name}: " + ", ".join(f"{what} {100 * part:.0f} %" for what, part in share.items() if part >= 0.005)
    if t.actors:
        yield f"  a rollout request takes {_seconds(t.request_s)} of an actor"
    yield f"  data as they come (data.stream_sources): {made.data_machines} machines would keep pace; none for a prepared dataset"
    yield f"time: {made.hours:,.0f} hours ({made.hours / 24:,.1f} days)"
    yield f"cost: {made.cost:,.0f} USD at {wish.price:g} an hour for {t.gpus} GPUs"
    if made.checkpoints is not None:
        c = made.checkpoints
        yield (
            f"checkpoints: up to {c.size / GB:,.1f} GB each, {c.count:,} of them ({c.bytes / 1e12:,.1f} TB to S3 in all); committed "
            f"{c.drain_s:.0f} s after a notice, of 120: {'in time' if c.in_time else 'TOO LATE'} (copy {c.copy_s:.1f} s, "
            f"upload {c.write_s:.1f} s)"
        )
    yield f"clips: {made.read / 1e12:,.1f} TB are read from S3 in all, if no machine keeps any"
    if made.store is not None:
        s = made.store
        yield (
            f"object store: {s.trainer / GB:.1f} GB at rank 0, {s.actor / GB:.1f} GB on a machine with actors; weights "
            f"{s.published / GB:.2f} GB/s to each of them"
        )
    d = made.corpus
    yield (
        f"100 M clips: {d.bytes / 1e12:.1f} TB in {d.shards:,} shards ({d.objects:,} objects), manifest {d.manifest / GB:.2f} GB, account "
        f"{d.account / GB:.1f} GB, table {d.table / GB:.1f} GB; {d.node_hours:,.0f} hours of a CPU machine"
    )
    yield from (f"  {text}" for text in d.too_large)
    yield from made.remarks


def _assumed(made: Plan) -> Table:
    table = Table("assumed", "value", "from", title="what this stands on")
    for name, row in made.assumptions.items():
        table.add_row(name, _value(row["value"]), printable(row["from"]))
    return table


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value / GB:g} x 10^9" if value >= GB / 100 else f"{value:.3g}"
