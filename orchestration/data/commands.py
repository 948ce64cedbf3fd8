"""The verbs `data prepare | requeue | inspect | audit | export`: they parse, call and print."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from ..command import Debug, Json, Set, console, print_record, run_verb
from ..progress import plain_console, printable

data_app = typer.Typer(no_args_is_help=True, help="Turn media files into aligned latents, and look at them.")
Dataset = Annotated[str, typer.Argument(help="Dataset folder, or s3://BUCKET/FOLDER.")]
Moved = Annotated[list[str] | None, typer.Option("--media", help="Where its sources are now, if not where they were (repeatable).")]
KEPT = "what was finished is kept; the same command goes on from there"
SHOWN = 200  # sources in a terminal
ADDS_UP = {
    True: "every source and every clip is accounted for, exactly once",
    False: "every clip, and every source of the account, is accounted for, exactly once; inputs not at hand, not compared: give --media",
}


@data_app.command("prepare", epilog="Example: mutual-forcing data prepare my/clips more.csv --recipe demo --out prepared/mine")
def prepare(
    media: Annotated[
        list[str], typer.Argument(help="Folders, files, s3:// prefixes, lists (.jsonl, .csv, .parquet), tars; or `synthetic` alone.")
    ],
    out: Annotated[str, typer.Option("--out", help="Folder for the dataset, or s3://BUCKET/FOLDER.")],
    recipe: Annotated[str, typer.Option("--recipe", help="Recipe that will train on it.")] = "demo",
    max_av_lag: Annotated[
        str | None, typer.Option("--max-av-lag", help="Leave out clips whose sound is surely further off than this, as 80ms.")
    ] = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Decode, align, cut and encode media files to latent shards with a manifest, for `train RECIPE --data FOLDER`. Given again, it adds
    what is new."""

    def run() -> None:
        from ..progress import Terminal
        from ..runs import configured
        from .verbs import prepared

        gate = [] if max_av_lag is None else [f"data.lag.max_av_lag_ms={milliseconds(max_av_lag)}"]
        config = configured(recipe, media, [*gate, *(set_ or [])])
        with Terminal(console) as terminal:
            told = prepared(config.data, out, terminal.progress)
        show(told, as_json)

    run_verb(run, debug, KEPT)


@data_app.command("requeue", epilog="Example: mutual-forcing data requeue prepared/mine --stage decode")
def requeue(
    dataset: Dataset,
    stage: Annotated[str, typer.Option("--stage", help="Only those that this stage refused (list, text, probe, decode, filter ...).")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Only those with these words in the reason.")] = "",
    media: Moved = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Try refused sources again, as after a better download or another version of ffmpeg; what they give is added."""

    def run() -> None:
        from ..progress import Terminal
        from .verbs import requeued

        with Terminal(console) as terminal:
            told, found = requeued(dataset, stage, reason, media or [], terminal.progress, set_ or [])
        if not as_json:
            typer.echo(str(found))
        show(told, as_json, requeue=asdict(found))

    run_verb(run, debug, KEPT)


@data_app.command("inspect", epilog="Example: mutual-forcing data inspect runs/demo/data")
def inspect(
    dataset: Dataset,
    clip: Annotated[str | None, typer.Option("--clip", help="Instead, write this clip as a film, next to its source.")] = None,
    out: Annotated[str, typer.Option("--out", help="Of --clip: the film to write (.mp4, .webm, .mkv).")] = "clip.mp4",
    media: Moved = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print what a dataset holds and what became of every source; write its contact sheet, and inspect.html with histograms."""

    def run() -> None:
        from ..progress import Terminal
        from .verbs import inspected, played

        if clip is not None:
            print_record(played(dataset, clip, out, media or [], set_ or []), as_json)
            return
        with Terminal(console) as terminal:
            told = inspected(dataset, terminal.progress, set_ or [])
        show(told, as_json)

    run_verb(run, debug)


@data_app.command("audit", epilog="Example: mutual-forcing data audit prepared/mine --run runs/demo")
def audit(
    dataset: Dataset,
    run: Annotated[str | None, typer.Option("--run", help="Run folder: hold its ledger of training against the dataset too.")] = None,
    media: Moved = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prove that every source and every clip is accounted for, exactly once; exits 1 if one is not."""
    at_fault = False

    def work() -> None:
        nonlocal at_fault
        from ..progress import Terminal
        from .verbs import audited

        with Terminal(console) as terminal:
            found, visits = audited(dataset, run, media or [], terminal.progress)
        at_fault = bool(found.faults)
        if as_json:
            typer.echo(json.dumps(asdict(found) | {"trained_on": visits}))
            return
        typer.echo(
            f"{found.sources} sources: {found.used} used, {found.sources - found.used} refused, each with its reason\n"
            f"{found.clips} clips in {found.shards} shards, {found.left_out} left out, each with its reason"
        )
        if visits:
            times = Counter(visits.values())
            never = f", {times[0]} of them never" if times[0] else ""
            typer.echo(f"{sum(visits.values())} clips of {len(visits)} training sources were trained on{never}")
        for fault in found.faults:
            typer.echo(f"fault: {printable(fault)}")
        typer.echo("the account does not add up" if at_fault else ADDS_UP[found.compared])

    run_verb(work, debug)
    raise typer.Exit(int(at_fault))


@data_app.command("export", epilog="Example: mutual-forcing data export prepared/mine --out parquet/mine")
def export(
    dataset: Dataset,
    out: Annotated[str, typer.Option("--out", help="Folder for Parquet files, which must not be there yet.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a dataset as Parquet for others: latents as bytes with their shapes, text, tags and what was measured."""

    def run() -> None:
        from ..progress import Terminal
        from .verbs import exported

        with Terminal(console) as terminal:
            record = exported(dataset, out, terminal.progress)
        print_record(record, as_json)

    run_verb(run, debug)


def milliseconds(text: str) -> float:
    """From `80ms`, `0.08s` or a plain number of milliseconds.

    Raises:
        ValueError: it is none of these.
    """
    number, unit = (text.removesuffix("ms"), 1.0) if not text.endswith("s") or text.endswith("ms") else (text.removesuffix("s"), 1000.0)
    try:
        return float(number) * unit
    except ValueError:
        raise ValueError(f"--max-av-lag={text!r}: is no time; give milliseconds, as 80ms") from None


def show(told: Any, as_json: bool, **more: Any) -> None:
    """A dataset as it describes itself (`verbs.Told`). more: for a machine to read besides."""
    from ...datasets.format.account import UNREAD, records

    manifest, (sources, clips) = told.manifest, _yields(told)
    if as_json:
        quality = {name: db for name, (db, _) in manifest.quality.items()}
        totals = {"clips": manifest.clips, "hours": manifest.hours, "version": manifest.version, **quality}
        about = {"sources": records(told.lines), "contact_sheet": told.sheet, "page": told.page}
        typer.echo(json.dumps({**totals, "yield": sources, "clip_yield": clips, **about, **more}))
        return
    table = Table(title=f"{manifest.clips} clips, {manifest.hours * 60:.1f} minutes")
    for name in ("path", "status", "clips", "seconds", "reason or note"):
        table.add_column(name, overflow="fold")
    for line in sorted(told.lines, key=lambda line: line.used)[:SHOWN]:  # what is refused first: it is what a reader must know
        about = printable(_why(line) or line.note)
        table.add_row(printable(line.path), line.status, str(line.clips), f"{line.seconds:.2f}", about)
    plain_console().print(table)
    if len(told.lines) > SHOWN:
        typer.echo(f"{len(told.lines) - SHOWN} more sources: --json lists all")
    _show_yield("what became of the sources", sources)
    if len(clips) > 1:
        _show_yield("what became of the clips of used sources", clips)
    if unread := sum(line.stage == UNREAD for line in told.lines):
        typer.echo(f"{unread} sources could not be read, which says nothing of them: give `data prepare` again")
    quality = [f"{db:.1f} dB {what}" for db, what in manifest.quality.values()]
    typer.echo(f"codecs, from latents back to media: {', '.join(quality) or 'not measured'}")
    for name, place in (("contact sheet", told.sheet), ("page", told.page)):
        if place:
            typer.echo(f"{name}: {place}")


def _why(line: Any) -> str:
    return line.reason + (f" (ffmpeg: {line.said})" if line.said else "")


def _yields(told: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Of the sources, and of the clips of used ones."""
    from ...datasets.preparing.commit import lost_clips
    from ...datasets.signals.filters import yields

    used, reasons = sum(line.used for line in told.lines), [line.reason for line in told.lines if not line.used]
    return yields("used", used, reasons), yields("made", told.manifest.clips, lost_clips(told.manifest, told.lines))


def _show_yield(title: str, counts: dict[str, int]) -> None:
    table = Table(title, Column("count", justify="right"), Column("share", justify="right"))
    for name, count in counts.items():
        table.add_row(printable(name), str(count), f"{100 * count / sum(counts.values()):.1f} %")
    plain_console().print(table)
