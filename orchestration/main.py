"""The command line `mutual-forcing`. It parses, calls, prints; it defines no class and no remote function (Ray pickles by module)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .chaos.command import chaos
from .checkpoint_verbs import audit, checkpoint_app
from .command import NOTHING_KEPT, Debug, Json, Set, console, print_record, print_version, run_verb
from .data.commands import data_app
from .evaluation.command import evaluate
from .jobs.command import logs, resume, status, stop, submit
from .planning.command import plan
from .progress import plain_console, printable
from .serving.command import serve

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(data_app, name="data")
app.add_typer(checkpoint_app, name="checkpoint")
app.command(epilog="Example: mutual-forcing audit runs/demo")(audit)
app.command(epilog="Example: mutual-forcing evaluate runs/demo --windows 0-5,5-15,15-25 --out runs/demo-evaluation")(evaluate)
app.command(epilog="Example: mutual-forcing chaos runs/demo --minutes 30 --seed 1 --dry-run")(chaos)
app.command(epilog="Example: mutual-forcing serve runs/demo --port 8000")(serve)
app.command(epilog="Example: mutual-forcing submit demo --address http://127.0.0.1:8265 --set remote.uri=s3://bucket/run --name mine")(
    submit
)
app.command(epilog="Example: mutual-forcing status mine --address http://127.0.0.1:8265 --json")(status)
app.command(epilog="Example: mutual-forcing logs mine --follow --address http://127.0.0.1:8265")(logs)
app.command(epilog="Example: mutual-forcing stop mine --address http://127.0.0.1:8265")(stop)
app.command(epilog="Example: mutual-forcing resume mine --address http://127.0.0.1:8265")(resume)
app.command(epilog="Example: mutual-forcing plan paper --gpus 64 --gpu h200 --price 3.9")(plan)

Version = Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print version, and commit of a checkout.")]
Out = Annotated[str | None, typer.Option("--out", help="Run folder (default: runs/NAME).")]
KEPT = "what was finished is kept; the same command continues from there"
Media = Annotated[str | None, typer.Option("--media", help="Folder with your own clips instead of synthetic characters.")]
WatermarkKey = Annotated[str | None, typer.Option("--watermark-key", help="Of the watermark (default: one that everybody knows).")]
Data = Annotated[str | None, typer.Option("--data", help="Dataset (folder or s3://) that `data prepare` made, instead of making one.")]


@app.callback()
def program(version: Version = False) -> None:
    """Train and run Mutual Forcing models."""


@app.command(epilog="Example: mutual-forcing train demo --media my/clips --set stages.joint.steps=500")
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe: demo, tiny, paper, or one of the ablation's, such as dmd-sf.")],
    media: Media = None,
    data: Data = None,
    out: Out = None,
    set_: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run needs and what stands against it, and start nothing.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Trace some steps of each stage into profile/ of the run folder (--set profile.steps=3).")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a recipe end to end: data, all stages, held-out clips, report. Rerunning continues what is there."""
    stands = False

    def run() -> None:
        nonlocal stands
        from ..datasets.places.storage import local_path
        from . import launch
        from .progress import Terminal
        from .runs import configured, default_run_dir

        config = configured(recipe, media, [*(["profile.steps=3"] if profile else []), *(set_ or [])], data)
        run_dir = local_path("--out", out) if out else default_run_dir(config)
        if dry_run:
            stands = _show_preflight(config, run_dir, as_json)
            return
        with Terminal(console) as terminal:
            worked = launch.train(config, run_dir, [launch.command_line()], terminal.progress, terminal.warn, terminal.say)
        if not worked:
            console.print("nothing to do: this run is finished, and its settings and data have not changed")
        _show_outcome(run_dir, as_json)

    run_verb(run, debug, KEPT)
    raise typer.Exit(int(stands))


@app.command(
    epilog='Example: mutual-forcing generate runs/demo --seconds 5 --caption "a calm voice" --transcript words.json --out clip.mp4'
)
def generate(
    checkpoint: Annotated[str, typer.Argument(help="RUN, RUN@best, RUN@STAGE, a folder below RUN/checkpoints, or an exported one.")],
    out: Annotated[
        str, typer.Option("--out", help="Video file to write (.mp4, .webm, .mkv), - for standard output, or a folder for --batch.")
    ],
    seconds: Annotated[float, typer.Option("--seconds", help="Length of the clip; of what is new with --continue.")] = 2.5,
    caption: Annotated[str | None, typer.Option("--caption", help="Who and what is seen and heard.")] = None,
    transcript: Annotated[
        str | None, typer.Option("--transcript", help="Words with times (.json, .srt, .vtt), plain text (.txt), or the words themselves.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Sidecar JSON with caption and transcript, instead of both.")] = None,
    first_frame: Annotated[str | None, typer.Option("--first-frame", help="Picture to begin with (PNG, JPEG, WebP).")] = None,
    like: Annotated[
        int | None,
        typer.Option("--like", help="Held-out clip that gives what nobody else gives (default: 0, without a first frame)."),
    ] = None,
    onward: Annotated[
        str | None, typer.Option("--continue", help="Film to go on after; what is written holds it too, without its last part of a chunk.")
    ] = None,
    mode: Annotated[str, typer.Option("--mode", help="few or multi.")] = "few",
    moves: Annotated[int | None, typer.Option("--moves", help="Moves (few) or Euler steps (multi) a chunk (default: the run's).")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale of mode multi (default: the run's).")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Noise seed: the same one gives the same clip on the same device.")] = 0,
    batch: Annotated[
        str | None, typer.Option("--batch", help="File with a JSON object a line: a clip each, these options for what it leaves out.")
    ] = None,
    actors: Annotated[int, typer.Option("--actors", min=0, help="Of --batch, with a model each (default: one a GPU, or one).")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    watermark: Annotated[bool, typer.Option("--watermark", help="Mark pictures and sound, hardly to be seen or heard.")] = False,
    watermark_key: WatermarkKey = None,
    c2pa_chain: Annotated[
        str | None, typer.Option("--c2pa-chain", help="Certificates (PEM) that sign the .mp4 as generated: Content Credentials.")
    ] = None,
    c2pa_key: Annotated[str | None, typer.Option("--c2pa-key", help="Private key (PEM) of the first of them.")] = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Generate a clip, written while it is made: Ctrl-C ends it, and the file is whole. Or many (--batch), without those that are there."""
    failed: dict[str, str] = {}

    def work() -> None:
        from .generation.generating import STANDARD_OUTPUT, generate_clip
        from .generation.prompts import Wishes
        from .generation.provenance import PUBLIC_KEY, Marks
        from .progress import Terminal

        marks = Marks(watermark, watermark_key or PUBLIC_KEY, c2pa_chain, c2pa_key)
        wishes = Wishes(caption, transcript, text, first_frame, like, onward, seconds, seed, mode, moves, guidance)
        with Terminal(console) as terminal:
            if batch is None:
                record = generate_clip(checkpoint, out, wishes, set_ or [], device, terminal.progress, terminal.warn, marks)
            else:
                from .generation.batch import generate_batch

                record = generate_batch(checkpoint, batch, out, wishes, set_ or [], device, actors, terminal.progress, marks)
                failed.update(record["failed"])
                for name, why in failed.items():
                    terminal.warn(f"{name}: {why}")
        print_record(record, as_json, to_stderr=out == STANDARD_OUTPUT)

    run_verb(work, debug, "clips that are finished are kept; the same command goes on" if batch else NOTHING_KEPT)
    raise typer.Exit(int(bool(failed)))


@app.command(epilog="Example: mutual-forcing detect clip.mp4 --json")
def detect(
    file: Annotated[str, typer.Argument(help="Film.")], watermark_key: WatermarkKey = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Say whether a film tells that it is generated: by its tag, a watermark, or Content Credentials."""

    def work() -> None:
        from .generation.provenance import PUBLIC_KEY
        from .generation.provenance import detect as found_in

        record = found_in(file, watermark_key or PUBLIC_KEY)
        if not as_json:
            mark, credentials = record.pop("watermark"), record.pop("credentials")
            for name in ("pictures", "sound"):
                record[f"watermark in {name}"] = f"{'found' if mark[name]['found'] else 'none found'} (z {mark[name]['z']})"
            record["credentials"] = "none" if credentials is None else f"{credentials['state']} {credentials['problems'] or ''}"
        print_record(record, as_json)

    run_verb(work, debug)


@app.command(epilog="Example: mutual-forcing report runs/demo")
def report(run: Annotated[str, typer.Argument(help="Run folder, or the remote.uri of a run.")], debug: Debug = False) -> None:
    """Write the run's report.html again from what the run folder holds."""

    def work() -> None:
        from ..datasets.places.storage import local_path
        from ..datasets.places.store import is_remote
        from .progress import Terminal
        from .report.page import build_report
        from .restore import report_again

        with Terminal(console) as terminal:
            progress = terminal.progress
            made = report_again(run, progress) if is_remote(run) else build_report(local_path("run", run), progress)
        typer.echo(str(made))

    run_verb(work, debug)


@app.command(epilog="Example: mutual-forcing replay runs/demo/bad-steps/joint-120-rank0.safetensors")
def replay(
    file: Annotated[str, typer.Argument(help="File that a stopped training saved, in bad-steps/ of its run folder.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compute a skipped step again, and name the first thing in it that is not finite."""

    def run() -> None:
        from ..datasets.places.storage import local_path
        from .replay import as_record, replay_file

        path = local_path("file", file)
        record = as_record(path, *replay_file(path))
        if as_json:
            typer.echo(json.dumps(record))
        else:
            _show_replay(record)

    run_verb(run, debug)


@app.command(epilog="Example: mutual-forcing doctor --json")
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Print what this machine has, and what will not work on it."""

    def run() -> None:
        from .doctor import examine

        record = examine()
        problems = [] if as_json else record.pop("problems")
        print_record(record, as_json)
        for problem in problems:
            plain_console().print(Text.assemble((f"{problem['kind']}:", "yellow"), " ", problem["text"]), soft_wrap=True)

    run_verb(run, debug)


@app.command(
    epilog="Example: mutual-forcing bench model --quick --json", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def bench(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="model, step, train, rollouts, data, clock, signals, ablation, history, stream, evaluation, plan or scale; "
            "then its own options (NAME -h)."
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="A shorter measurement.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure one claim on this machine, against what the arithmetic allows."""
    status = 0

    def run() -> None:
        nonlocal status
        from importlib import import_module
        from pkgutil import iter_modules

        from .. import benchmarks

        names = sorted(module.name for module in iter_modules(benchmarks.__path__) if not module.name.startswith("_"))
        if name not in names:
            raise ValueError(f"benchmark {name!r}: unknown; choose from {', '.join(names)}")
        options = {"--quick": quick, "--json": as_json}
        status = import_module(f"{benchmarks.__name__}.{name}").main(
            [*(option for option, given in options.items() if given), *context.args]
        )

    run_verb(run, debug, "rows that were finished are kept where the benchmark keeps any; the same command goes on")
    raise typer.Exit(status)


def app_entry() -> None:
    """The console script."""
    app()


def _show_preflight(config: Any, run_dir: Path, as_json: bool) -> bool:
    """Whether something stands against the run."""
    from .preflight import examine, needs_of

    needs, findings = needs_of(config), examine(config, run_dir)
    if as_json:
        typer.echo(json.dumps({"needs": asdict(needs), "findings": [asdict(f) for f in findings]}))
    else:
        megabytes = {"a training process": needs.worker, "a rollout actor": needs.actor, "a checkpoint": needs.checkpoint}
        rows = {f"{name} holds": f"{size / 1e6:.0f} MB" for name, size in megabytes.items() if size}
        print_record({"parameters": f"{needs.parameters / 1e6:.2f} M", **rows, "problems": len(findings)}, False)
        for f in findings:
            plain_console().print(
                Text.assemble((f"{f.kind}:", "red" if f.kind == "problem" else "yellow"), " ", printable(f.text)), soft_wrap=True
            )
    return any(f.kind == "problem" for f in findings)


def _show_replay(record: dict[str, Any]) -> None:
    console = plain_console()
    clips = ", ".join(record["sample_ids"])
    about = f"stage {record['stage']}, step {record['step']}, rank {record['rank']}; in training not finite: "
    console.print(printable(f"{about}{', '.join(record['offending'])}; clips {clips}"), soft_wrap=True)
    for check in record["checks"]:
        state = f"finite, at most {check['largest']:.3g}" if check["finite"] else f"not finite: {check['where']}"
        console.print(printable(f"{check['name']:<20} {state}"), soft_wrap=True)
    table = Table("part", "loss", "gradient norm video", "audio", "finite")
    for part in record["parts"]:
        norms = (_number(part["gradient_norm"][m]) if m in part["gradient_norm"] else "-" for m in ("video", "audio"))
        table.add_row(part["part"], _number(part["loss"]), *norms, "yes" if part["finite"] else "no")
    console.print(table)
    console.print(printable(record["verdict"]), soft_wrap=True)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _show_outcome(run_dir: Path, as_json: bool) -> None:
    from ..workers.evaluation.intervals import LEAST
    from .runs import outcome

    came_to = outcome(run_dir)
    if as_json:
        typer.echo(json.dumps(came_to))
        return
    table = Table("stage", "steps", "seconds", "loss before", "loss after", title="Training (same clips and noise)")
    for stage in came_to["stages"]:
        losses = ("-" if value is None else f"{value:.3f}" for value in (stage["loss_before"], stage["loss_after"]))
        table.add_row(stage["name"], str(stage["steps"]), f"{stage['seconds']:.0f}", *losses)
    plain_console().print(table)
    if came_to["sync"] is None:
        typer.echo("Mouth/voice correlation: not measured, the proxy is for synthetic characters only.")
    for name, s in (came_to["sync"] or {}).items():
        figures = f"{s['matched']:.3f} own pairs, {s['shuffled']:.3f} shuffled; gap {s['gap']:.3f}"
        few = "too few clips for an interval"
        interval = f"95 % interval {s['gap_ci'][0]:.3f} to {s['gap_ci'][1]:.3f}" if s["n"] >= LEAST else few
        typer.echo(f"Mouth/voice correlation, {name} ({s['n']} clips): {figures}, {interval}")
    typer.echo(f"Report: {came_to['report']}  (open it in a browser)")
