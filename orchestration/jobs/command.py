"""The verbs of jobs: `submit`, `status`, `logs`, `stop`, `resume`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..command import Debug, Json, Set, console, print_record, run_verb
from ..progress import plain_console, printable

if TYPE_CHECKING:
    from .cluster import Cluster, Seen

Address = Annotated[
    str | None, typer.Option("--address", help="Dashboard of the cluster's head, http://HOST:8265 (or RAY_API_SERVER_ADDRESS).")
]
Job = Annotated[str, typer.Argument(help="Name of a job, as `submit` and `status` print it.")]
Follow = Annotated[
    bool, typer.Option("--follow/--detach", help="Print what the job prints until it ends (Ctrl-C leaves it running), or return.")
]
Grows = Annotated[bool, typer.Option("--grows", help="Start although machines are missing: the cluster adds them when asked for.")]
Install = Annotated[str, typer.Option("--install", help="auto: packages whose locked version the cluster has not; never: refuse it then.")]
Tag = Annotated[str, typer.Option("--tag", help="A word of yours that the cluster keeps with the job.")]
LAST = 60  # letters of what a job printed last, in a table
GOES_ON = "the job goes on; `mutual-forcing logs JOB --follow` looks again, `mutual-forcing stop JOB` ends it"


def submit(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, as for `train`.")],
    address: Address = None,
    media: Annotated[str | None, typer.Option("--media", help="As for `train`: s3:// or a path of the cluster.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="As for `train`: s3:// or a path of the cluster.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="Run folder on the head (default: ~/mutual-forcing/runs/NAME there).")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the job (default: recipe, time, four letters).")] = None,
    tag: Tag = "",
    env: Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE for the job's processes; never a secret (repeatable).")] = None,
    secret: Annotated[
        list[str] | None, typer.Option("--secret", help="NAME=file:/PATH or NAME=env:VARIABLE, where the cluster finds it (repeatable).")
    ] = None,
    restarts: Annotated[int, typer.Option("--restarts", min=0, max=1000, help="Of a driver that a signal ended, within an hour.")] = 5,
    stop_s: Annotated[int, typer.Option("--stop-seconds", min=1, max=86400, help="What a stop waits for the last checkpoint.")] = 600,
    install: Install = "auto",
    python: Annotated[str, typer.Option("--python", help="The interpreter on the cluster that has Ray.")] = "python",
    grows: Grows = False,
    follow: Follow = True,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a recipe as a job of a Ray cluster, after the cluster said that it can."""
    code = 0

    def work() -> None:
        nonlocal code
        from .secrets import parse_plain, parse_references
        from .spec import JobSpec

        given = JobSpec(
            recipe,
            tuple(set_ or ()),
            media,
            data,
            out or "",
            parse_plain(env or ()),
            parse_references(secret or ()),
            restarts,
            stop_s,
            tag,
            python,
        )
        cluster = _connect(address)
        from .submit import Wishes  # after the cluster has answered: it imports all that a run does
        from .submit import submit as start

        job = start(cluster, given, Wishes(name, install, grows), _say, _warn)
        code = _started(cluster, job, follow, as_json)

    run_verb(work, debug, GOES_ON)
    raise typer.Exit(code)


def resume(
    job: Job,
    address: Address = None,
    install: Install = "auto",
    grows: Grows = False,
    follow: Follow = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Go on with the run of a job that is over: same settings, same run folder, this code."""
    code = 0

    def work() -> None:
        nonlocal code
        cluster = _connect(address)
        from .submit import Wishes
        from .submit import resume as start

        code = _started(cluster, start(cluster, job, Wishes(None, install, grows), _say, _warn), follow, as_json)

    run_verb(work, debug, GOES_ON)
    raise typer.Exit(code)


def stop(
    job: Job,
    address: Address = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1, help="How long to wait (default: --stop-seconds of the job).")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """End a job; its training has a checkpoint written first, and `resume` goes on from there."""

    def work() -> None:
        from .control import described, last_line
        from .control import stop as end

        cluster = _connect(address)
        print_record(described(end(cluster, job, seconds, _say)) | {"last": last_line(cluster, job)}, as_json)

    run_verb(work, debug, "the job was asked to stop, and does")


def status(
    job: Annotated[str | None, typer.Argument(help="Name of a job (default: all).")] = None,
    address: Address = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how jobs are: of one all that is known, of all a line each."""

    def work() -> None:
        from .control import described, last_line
        from .spec import KEY

        cluster = _connect(address)
        if job is not None:
            seen = cluster.look(job)
            print_record(described(seen) | {"last": last_line(cluster, job)}, as_json)
            return
        records = [described(seen) for seen in cluster.all() if KEY in seen.metadata]
        if as_json:
            typer.echo(json.dumps(records))
        else:
            _show(records)

    run_verb(work, debug)


def logs(
    job: Job,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends, and exit with its code (1: it was stopped).")] = False,
    debug: Debug = False,
) -> None:
    """Print what a job has printed."""
    code = 0

    def work() -> None:
        nonlocal code
        cluster = _connect(address)
        if follow:
            code = _code(cluster.follow(job, _print, _warn))
        else:
            _print(cluster.logs(job))

    run_verb(work, debug, GOES_ON)
    raise typer.Exit(code)


def _connect(address: str | None) -> Cluster:
    from .cluster import connect

    return connect(address, _warn)


def _started(cluster: Cluster, job: str, follow: bool, as_json: bool) -> int:
    """Say that a job is on its way, and how it ended if it is followed; returns the exit code."""
    _say(f"job {job} is on its way")
    if not follow:
        typer.echo(json.dumps({"job": job}) if as_json else job)
        return 0
    seen = cluster.follow(job, _say_all if as_json else _print, _warn)
    if as_json:
        typer.echo(json.dumps({"job": job, "status": seen.status}))
    else:
        _say(f"job {job}: {seen.status}")
    return _code(seen)


def _code(seen: Seen) -> int:
    """That of its process; 1 where it was stopped, or did not come to run."""
    if seen.status == "SUCCEEDED":
        return 0
    return seen.exit_code if seen.exit_code is not None and 0 < seen.exit_code < 256 else 1


def _say(text: str) -> None:
    console.print(printable(text), soft_wrap=True, markup=False, highlight=False)


def _say_all(text: str) -> None:
    for line in text.splitlines():
        _say(line)


def _warn(text: str) -> None:
    _say(f"warning: {text}")


def _print(text: str) -> None:
    """What a process of the cluster printed, without what would steer this terminal."""
    for line in text.splitlines():
        typer.echo(printable(line.expandtabs()))


def _show(records: list[dict[str, Any]]) -> None:
    if not records:
        typer.echo("no jobs of this package")
        return
    table = Table("job", "status", "seconds", "recipe", "tag", "message")
    for r in records:
        table.add_row(
            *(printable(str(r[k] if r[k] or r[k] == 0 else "-"))[:LAST] for k in ("job", "status", "seconds", "recipe", "tag", "message"))
        )
    plain_console().print(table)
