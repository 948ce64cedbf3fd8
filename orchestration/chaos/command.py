"""The verb `chaos`: what it is told, whom it asks before it begins, and what it says at the end."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..command import Debug, Json, console, run_verb
from ..progress import plain_console, printable

if TYPE_CHECKING:
    from ..config import RunConfig
    from .conduct import Chaos, Wish
    from .schedule import Event

RESTARTS = ("auto", "command", "none")


def chaos(
    run: Annotated[
        str, typer.Argument(help="Run folder that all see, or the remote.uri of a run, which trains on the cluster at RAY_ADDRESS.")
    ],
    minutes: Annotated[float, typer.Option("--minutes", help="How long.")] = 30.0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed: the same kinds, times and targets.")] = 0,
    kinds: Annotated[
        str, typer.Option("--kinds", help="worker,rollout,coordinator,data,driver,freeze,s3,tracker,media (default: all that the run has).")
    ] = "",
    gap: Annotated[float, typer.Option("--gap", help="Seconds between two events at least; at most twice that is drawn.")] = 60.0,
    patience: Annotated[
        float | None,
        typer.Option(
            "--patience", help="Seconds for the run to be past an event (default: 900, or more where a checkpoint's steps take it)."
        ),
    ] = None,
    restart: Annotated[
        str,
        typer.Option("--restart", help="Of a killed driver: auto (its command again, if nobody else starts one), command (at once), none."),
    ] = "auto",
    out: Annotated[
        str | None, typer.Option("--out", help="Folder of the timeline and the record (default: chaos/ of the run folder).")
    ] = None,
    data_audit: Annotated[bool, typer.Option("--data-audit/--no-data-audit", help="Read all of the dataset for the verdict.")] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Begin without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the schedule, and do nothing.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Break a run on purpose while it trains: kill, freeze, fail its stores; then say whether all is accounted for. Exits 1 if not."""
    good = True

    def work() -> None:
        nonlocal good
        from .conduct import Wish, chosen

        if restart not in RESTARTS:
            raise ValueError(f"--restart={restart!r}: choose auto, command or none")
        named, config = _opened(run)
        wish = Wish(named, minutes, seed, tuple(k.strip() for k in kinds.split(",") if k.strip()), gap, restart, data_audit, patience)
        events, notes = chosen(wish, config)
        for note in notes:
            console.print(printable(note), soft_wrap=True)
        if dry_run:
            _show_schedule(events, as_json)
            return
        _ask(wish, events, yes)
        found = _done(wish, config, events, out)
        good = found["good"]
        _show(found, as_json)

    run_verb(work, debug, "what was broken is whole again, or becomes so by its deadline; the run goes on")
    raise typer.Exit(int(not good))


def _opened(run: str) -> tuple[str, RunConfig]:
    """How the run's job is called, and its configuration."""
    from ...datasets.places.storage import local_path
    from ...datasets.places.store import is_remote, store_of
    from ...datasets.transfer import told
    from ..config import from_tree
    from ..restore import remote_record
    from ..run_record import open_run

    if not is_remote(run):
        path = local_path("run", run)
        return str(path), open_run(path)
    with told("run", run), store_of(run) as store:
        record = remote_record(store)
    if record is None:
        raise ValueError(f"run {run!r}: holds no run.json; give a run folder, or the remote.uri of a run")
    return run.rstrip("/"), from_tree(record["config"])


def _ask(wish: Wish, events: tuple[Event, ...], yes: bool) -> None:
    """Have it confirmed: a training that somebody waits for may be broken for good.

    Raises:
        ValueError: it was not.
    """
    import os

    if not os.environ.get("RAY_ADDRESS"):
        raise ValueError("RAY_ADDRESS: is not set; chaos breaks a run on a cluster: give the address that its command was given")
    if yes:
        return
    if not sys.stdin.isatty():
        raise ValueError("--yes: was not given, and nobody can be asked here; give it to break this run on purpose")
    console.print(
        printable(f"{len(events)} events in {wish.minutes:g} minutes on the run {wish.run} at {os.environ['RAY_ADDRESS']}."), soft_wrap=True
    )
    if typer.prompt("Type `break it` to begin", err=True) != "break it":
        raise ValueError("not confirmed; nothing was done")


def _done(wish: Wish, config: RunConfig, events: tuple[Event, ...], out: str | None) -> dict[str, Any]:
    import time
    from contextlib import redirect_stdout
    from pathlib import Path

    from ...datasets.places.storage import local_path, make_folder, write_json
    from ...datasets.places.store import is_remote
    from ..session import ray_session
    from .conduct import conduct
    from .timeline import draw

    default = Path("chaos") if is_remote(wish.run) else Path(wish.run) / "chaos"
    folder = make_folder("--out", local_path("--out", out or str(default)))
    name = time.strftime(f"seed-{wish.seed}-%Y%m%d-%H%M%S")
    with redirect_stdout(sys.stderr), ray_session():  # Ray prints its machines' warnings, and stdout is the record's
        made = conduct(wish, config, events, name, lambda line: console.print(printable(line), soft_wrap=True))
    record = _record(wish, made, folder / f"{name}.png")
    write_json(folder / f"{name}.json", record)
    draw(made, f"{config.name}, seed {wish.seed}", folder / f"{name}.png")
    return record


def _record(wish: Wish, made: Chaos, timeline: Any) -> dict[str, Any]:
    return {
        "run": wish.run,
        "seed": wish.seed,
        "minutes": wish.minutes,
        "good": made.good,
        "events": [h.record(made.begin) for h in made.happened],
        "verdict": made.verdict,
        "not_mended": made.unmended,
        "timeline": str(timeline),
    }


def _show_schedule(events: tuple[Event, ...], as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps({"events": [asdict(event) | {"what": str(event)} for event in events]}))
        return
    table = Table("minute", "event", "place")
    for event in events:
        table.add_row(f"{event.at_s / 60:.1f}", str(event), str(event.place))
    plain_console().print(table)


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("minute", "event", "past it after")
    for event in found["events"]:
        at, took = event["happened_at_s"], event["recovery_s"]
        after = "did not happen" if at is None else "unknown" if event["unknown"] else "never" if took is None else f"{took:.1f} s"
        table.add_row(f"{(event['at_s'] if at is None else at) / 60:.1f}", event["what"], after)
    plain_console().print(table)
    verdict = found["verdict"]
    for fault in verdict["faults"]:
        typer.echo(printable(fault))
    if verdict["clean"] and verdict["data"]:
        typer.echo("every clip and every update is accounted for")
    elif verdict["clean"]:
        typer.echo(printable(f"every update is accounted for; the dataset was not audited ({verdict['not_audited']})"))
    typer.echo("the run is finished" if verdict["finished"] else "the run goes on" if verdict["goes_on"] else "the run does not go on")
    typer.echo(printable(f"{found['timeline']} shows it"))
