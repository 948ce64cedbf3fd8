"""The verbs `checkpoint list | verify | prune | export` and `audit`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from .command import Debug, Json, run_verb
from .progress import plain_console, printable

checkpoint_app = typer.Typer(no_args_is_help=True, help="Look after the checkpoints of a run.")
Run = Annotated[str, typer.Argument(help="Run folder, or the local folder or s3://BUCKET/FOLDER that holds its checkpoints.")]


@checkpoint_app.command("list", epilog="Example: mutual-forcing checkpoint list runs/demo --json")
def list_(run: Run, as_json: Json = False, debug: Debug = False) -> None:
    """List what is there: complete checkpoints, and what was never committed."""

    def work() -> None:
        from .checkpoints import listed

        _show(listed(run), as_json)

    run_verb(work, debug)


@checkpoint_app.command("verify", epilog="Example: mutual-forcing checkpoint verify runs/demo")
def verify(run: Run, as_json: Json = False, debug: Debug = False) -> None:
    """Compare every file of every checkpoint with its hash; exits 1 if one is damaged."""
    damaged = False

    def work() -> None:
        nonlocal damaged
        from .checkpoints import verified

        records = verified(run)
        damaged = any(record["damage"] for record in records)
        _show(records, as_json)

    run_verb(work, debug)
    raise typer.Exit(int(damaged))


@checkpoint_app.command("prune", epilog="Example: mutual-forcing checkpoint prune runs/demo --keep-last 1 --dry-run")
def prune(
    run: Run,
    keep_last: Annotated[int, typer.Option("--keep-last", help="So many of each stage stay, besides that of its end.")] = 2,
    keep_every: Annotated[int, typer.Option("--keep-every", help="Those of steps that this divides stay too (0: none).")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove old checkpoints, and what was not committed for an hour. Refused while a command works in the run folder; give RUN as
    s3://... or a folder of checkpoints only when you know that nobody trains there."""

    def work() -> None:
        from .checkpoints import pruned

        gone = pruned(run, keep_last, keep_every, dry_run)
        if as_json:
            typer.echo(json.dumps({"removed": [] if dry_run else gone, "would_remove": gone if dry_run else []}))
            return
        for path in gone:
            typer.echo(f"{'would remove' if dry_run else 'removed'} {printable(path)}")
        typer.echo(f"{len(gone)} checkpoints {'would go' if dry_run else 'went'}")

    run_verb(work, debug, "what was removed is gone, the rest is as it was")


@checkpoint_app.command("export", epilog="Example: mutual-forcing checkpoint export runs/demo --out weights --register talking-heads")
def export(
    run: Run,
    out: Annotated[str, typer.Option("--out", help="Folder for the files; it must not hold any.")],
    stage: Annotated[str, typer.Option("--stage", help="Stage (default: the last one with a checkpoint).")] = "",
    step: Annotated[int, typer.Option("--step", help="Step of its checkpoint (default: the last).")] = -1,
    best: Annotated[bool, typer.Option("--best", help="Of the checkpoint that evaluations found best (course.best).")] = False,
    role: Annotated[str, typer.Option("--weights", help="ema (averaged), live, or fake.")] = "ema",
    branch: Annotated[str, typer.Option("--branch", help="video, audio, or both (a file each).")] = "both",
    register: Annotated[
        str,
        typer.Option("--register", help="Make them a version of this model in MLflow's registry too (MLFLOW_TRACKING_URI, or the run's)."),
    ] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write weights as safetensors with a JSON that describes them: readable without this package."""

    def work() -> None:
        from .checkpoints import exported
        from .registration import open_registration

        if best and step >= 0:
            raise ValueError(f"--best with --step={step}: give one of them")
        registration = open_registration(run, register) if register else None
        record = exported(run, out, stage, step, role, branch, best)
        if registration is not None:
            record["registered"] = version = registration.add(record)
        if as_json:
            typer.echo(json.dumps(record))
            return
        typer.echo(f"{record['folder']}: {', '.join(record['files'])}")
        if registration is not None:
            typer.echo(f"version {version['version']} of {version['name']} at {version['tracking_uri']}")

    run_verb(work, debug, "weights without weights.json are not whole; remove the folder and give the command again")


def audit(run: Annotated[str, typer.Argument(help="Run folder.")], as_json: Json = False, debug: Debug = False) -> None:
    """Prove from the ledger that every clip of every epoch was trained on exactly once; exits 1 if not."""
    wrong = False

    def work() -> None:
        nonlocal wrong
        from .checkpoints import audited

        records = audited(run)
        wrong = any(record["faults"] for record in records)
        if as_json:
            typer.echo(json.dumps(records))
            return
        table = Table("stage", "steps", "clips", "epochs", "skipped", "verdict")
        for r in records:
            counts = (str(r["steps"]), str(r["clips"]), f"{r['epochs']:.2f}", str(len(r["skipped"])))
            table.add_row(r["stage"], *counts, "wrong" if r["faults"] else "right")
        plain_console().print(table)
        for r in records:
            for fault in r["faults"]:
                typer.echo(printable(f"{r['stage']}: {fault}"))
        streamed = [r["stage"] for r in records if "different" in r]
        if streamed and not wrong:
            typer.echo(f"{', '.join(streamed)}: clips came as they were decoded, in passes; none is held out")
        if not wrong and len(streamed) < len(records):
            typer.echo("every clip of every epoch was trained on exactly once")

    run_verb(work, debug)
    raise typer.Exit(int(wrong))


def _show(records: list[dict], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(records))
        return
    table = Table("checkpoint", "step", "state", "MB")
    for r in records:
        state = "damaged" if r.get("damage") else ("best" if r["best"] else "complete") if r["complete"] else "not committed"
        table.add_row(printable("/".join(r["path"].rsplit("/", 2)[1:])), str(r["step"]), state, f"{r['bytes'] / 1e6:.1f}")
    plain_console().print(table)
    for where in sorted({r["path"].rsplit("/", 2)[0] for r in records}):
        typer.echo(f"in {printable(where)}")  # lines, not cells: a table cuts what is long
    for r in records:
        if r.get("damage"):
            typer.echo(printable(r["damage"]))
