"""A plan on the terminal: tables of memory, time and assumptions, and its other figures line by line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from ..config import RunConfig
from ..progress import plain_console, printable
from .assumed import BYTES, LOW_MFU
from .plan import Plan
from .traffic import DRAIN_S
from .words import between, counted, duration, money, size

GB, MB = 1e9, 1e6
NAMES = {"fake": "fake score", "ema": "average", "frozen": "frozen teacher", "caches": "teacher's cache", "start": "first weights"}

Fact = tuple[str, str]


def show(made: Plan, config: RunConfig) -> None:
    """The plan as tables and lines; where nothing fits, the remedy is the last one."""
    console, wish = plain_console(), made.wish
    total = sum(made.parameters.values())
    parameters = f"{total / GB:.1f} B" if total >= 1e9 else f"{total / MB:.1f} M"
    console.print(f"{wish.recipe}: {parameters} parameters on {wish.gpus} x {wish.kind} ({wish.gpu.memory / GB:.0f} GB)", style="bold")
    for table in (_zero(made), _stages(made, config)):
        if table is not None:
            console.print(table)
    facts = Table.grid(padding=(0, 2))
    for name, text in _facts(made, config):
        facts.add_row(name, printable(text))
    console.print(facts)
    console.print(_assumed(made))
    for line in made.remarks:
        console.print(printable(line), soft_wrap=True)
    if made.layout is None:
        console.print(printable(f"nothing fits: {made.remedy}"), soft_wrap=True)


def _zero(made: Plan) -> Table:
    """A row a part, a column a ZeRO stage: at the moment when a training process needs most."""
    unit, name = (GB, "GB") if max(fit.moment.total for fit in made.zero) >= 10 * GB else (MB, "MB")
    count = counted(made.zero[0].choice.trainers, "trainer")
    table = Table(f"{name} of a trainer", *(f"ZeRO {fit.choice.zero}" for fit in made.zero), title=f"memory with {count}")
    for column in table.columns[1:]:
        column.justify = "right"
    for part in made.zero[0].moment.parts:
        if any(fit.moment.parts[part] for fit in made.zero):
            table.add_row(NAMES.get(part, part), *(_of(fit.moment.parts[part], unit) for fit in made.zero))
    table.add_row("together", *(_of(fit.moment.total, unit) for fit in made.zero), style="bold")
    table.add_row("clips a forward", *(str(fit.choice.micro) for fit in made.zero))
    table.add_row("layers computed again", *(_policy(fit.choice.every) for fit in made.zero))
    table.add_row("optimizer on the", *("host" if fit.choice.offload else "GPU" for fit in made.zero))
    table.add_row("most in stage", *(fit.stage for fit in made.zero))
    table.add_row("at", *(fit.moment.name for fit in made.zero))
    table.add_row("fits", *("no" if fit.why else "yes" for fit in made.zero), style="bold")
    return table


def _of(value: float, unit: float) -> str:
    return f"{value / unit:,.1f}" if value >= unit / 20 else "-" if value == 0 else "<0.1"


def _policy(every: int) -> str:
    return {0: "none", 1: "all"}.get(every, f"every {every}nd")


def _stages(made: Plan, config: RunConfig) -> Table | None:
    if made.layout is None:
        return None
    table = Table("stage", "steps", "batch", "step", "tokens/s", "time", "memory", title="time")
    for column in table.columns[1:]:
        column.justify = "right"
    for s in config.stages:
        seconds = made.layout.step_s[s.name]
        speed = f"{s.batch * made.tokens[s.name] / seconds:,.0f}"
        held = size(made.memory[s.name]["total"])
        table.add_row(s.name, f"{s.steps:,}", str(s.batch), duration(seconds), speed, duration(seconds * s.steps), held)
    return table


def _facts(made: Plan, config: RunConfig) -> Iterator[Fact]:
    for fit in made.zero:
        if fit.why:
            yield f"ZeRO {fit.choice.zero}", f"does not fit: {fit.why}"
    if made.layout is not None:
        yield from _of_layout(made)
    yield from _of_host(made)
    if made.layout is not None:
        yield from _of_time(made, config)
    yield from _of_data(made)


def _of_layout(made: Plan) -> Iterator[Fact]:
    t = made.layout
    assert t is not None
    choice = t.fit.choice
    rollouts = f" + {counted(t.actors, 'GPU')} for rollouts" if t.actors else ""
    yield (
        "layout",
        f"{counted(choice.trainers, 'trainer')}{rollouts}, ZeRO {choice.zero}, {counted(choice.micro, 'clip')} a forward, layers computed "
        f"again: {_policy(choice.every)}, optimizer on the {'host' if choice.offload else 'GPU'}",
    )
    for name, share in made.shares.items():
        yield "", f"a step of {name}: " + ", ".join(f"{what} {100 * part:.0f} %" for what, part in share.items() if part >= 0.005)
    if t.actors:
        parts = ", ".join(f"{name} {size(value)}" for name, value in made.actor.items())
        yield (
            "rollout GPU",
            f"{size(sum(made.actor.values()))} of {size(made.wish.gpu.memory)} ({parts}); a request of {counted(t.clips, 'clip')} takes "
            f"{duration(t.request_s)}",
        )


def _of_host(made: Plan) -> Iterator[Fact]:
    h, p = made.host, made.host.process
    parts = []
    if h.processes:
        parts.append(f"{counted(h.processes, 'training process', 'training processes')} x {size(p.most)}")
    if h.actors:
        parts.append(f"{counted(h.actors, 'rollout actor')} x {size(h.actor)}")
    if h.store:
        parts.append(f"object store {size(h.store)}")
    limit = "" if h.limit is None else f", of {size(h.limit)}{': TOO MUCH' if h.over else ''}"
    yield "host memory", f"{size(h.node)} of a machine{limit} ({' + '.join(parts)})"
    yield (
        "",
        f"a training process takes {size(p.start)} where it goes on from a checkpoint, {size(p.training)} in training (stage {p.stage})",
    )


def _of_time(made: Plan, config: RunConfig) -> Iterator[Fact]:
    t, c, wish = made.layout, made.checkpoints, made.wish
    assert t is not None
    assert c is not None
    if min(t.step_s.values()) >= 1:  # faster ones are a network too small for the assumed pace to mean anything
        machines = counted(made.data_machines, "machine")
        yield "data as they come", f"{machines} would keep pace (data.stream_sources); none for a prepared dataset"
    slow = made.slow.seconds if made.slow is not None else t.seconds
    share = f", at {100 * made.assumptions['mfu']['value']:.0f} and {100 * LOW_MFU:.0f} % of the peak" if made.slow is not None else ""
    days = f" ({between(*(f'{value / 86400:,.1f} days' for value in (t.seconds, slow)))})" if t.seconds > 2 * 86400 else ""
    yield "time", f"{between(duration(t.seconds), duration(slow))}{days}{share}"
    cost = between(money(made.cost_of(t.seconds)), money(made.cost_of(slow)))
    yield "cost", f"{cost} at {wish.price:g} USD an hour of a GPU, for {counted(t.gpus, 'GPU')}"
    yield (
        "checkpoints",
        f"{c.count:,} of up to {size(c.size)}, {size(c.bytes)} to S3 in all; committed {c.drain_s:.3g} s after a notice, of "
        f"{DRAIN_S:.0f} s: {'in time' if c.in_time else 'TOO LATE'} (copy {duration(c.copy_s)}, upload {duration(c.write_s)})",
    )
    every = config.checkpoint.every
    since = f"checkpoint.every={every}" if every else "checkpoint.every=0, one at the end of a stage"
    yield (
        "lost machine",
        f"without a checkpoint in time, up to {duration(c.lost_s)} of training and {money(made.cost_of(c.lost_s))} (stage {c.stage}, "
        f"{since})",
    )


def _of_data(made: Plan) -> Iterator[Fact]:
    yield "clips", f"{size(made.read)} are read from S3 in all, if no machine keeps any"
    if made.store is not None:
        s = made.store
        yield (
            "object store",
            f"{size(s.trainer)} at rank 0, {size(s.actor)} on a machine with actors; weights {size(s.published)}/s to each of them",
        )
    d = made.corpus
    yield (
        "100 M clips",
        f"{size(d.bytes)} in {d.shards:,} shards ({d.objects:,} objects), manifest {size(d.manifest)}, account {size(d.account)}, table "
        f"{size(d.table)}; {d.node_hours:,.0f} hours of a CPU machine",
    )
    if d.datasets > 1:
        yield "", f"at least {d.datasets:,} datasets, mixed by data.mix: {d.why}"


def _assumed(made: Plan) -> Table:
    table = Table("assumed", "value", "from", title="what this stands on")
    for name, row in made.assumptions.items():
        table.add_row(name, _value(name, row["value"]), printable(row["from"]))
    return table


def _value(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if name in (*BYTES, "bandwidth"):
        return f"{size(value)}/s"
    return size(value) if name == "memory" else f"{value:.3g}"
