"""What every verb of the command line shares: its common options, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import traceback
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from ..datasets.places.store import NoBucket
from ..datasets.redaction import without_secrets
from .progress import plain_console, printable

console = plain_console(stderr=True)
NO_ROOM = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))

Set = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: section.key=value (repeatable).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print a traceback on failure.")]


NOTHING_KEPT = "nothing was finished; give the command again to start over"


def run_verb(action: Any, debug: bool, kept: str = NOTHING_KEPT) -> None:
    """Run a verb: a failure prints one line with its cause and exits non-zero; Ctrl-C exits 130, SIGTERM 143. kept: what is left of a verb
    that was stopped, or had no room, and what to do next.
    """
    code = 128 + signal.SIGINT

    def stop(number: int, _: object) -> None:
        nonlocal code
        code = 128 + number  # kept here: Ray raises a KeyboardInterrupt of its own in place of this one
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        action()
    except KeyboardInterrupt as stopped:
        console.print(Text.assemble(("stopped:", "red"), " ", printable(str(stopped) or kept)), soft_wrap=True)
        raise typer.Exit(code) from None
    except Exception as error:  # noqa: BLE001  the last handler: every failure becomes one line and a non-zero exit
        if debug:
            typer.echo(without_secrets(traceback.format_exc()), err=True)
        typer.echo(f"error: {without_secrets(_one_line(error, kept))}", err=True)
        raise typer.Exit(1) from None


def _one_line(error: BaseException, kept: str) -> str:
    """The cause at the root of the chain Ray wraps it in, in one line."""
    from .root_cause import root_cause

    cause = root_cause(error)
    if isinstance(cause, NoBucket):
        return f"{cause.filename}: {cause.strerror}"
    text = " ".join(str(cause).split()) or type(cause).__name__
    known = isinstance(cause, ValueError | FloatingPointError)
    # By its words: ffmpeg and safetensors find it too, and raise no OSError. Some of our own errors name the remedy already.
    if any(reason in text for reason in NO_ROOM) and "choose another" not in text:
        return f"{text[:600]}; make room or choose another folder; {kept}"
    return text if known else f"{type(cause).__name__}: {text[:600]} (run again with --debug for the traceback)"


def print_version(wanted: bool) -> None:
    """Of the option `--version`."""
    if wanted:
        from .machine import version_line

        typer.echo(version_line())
        raise typer.Exit()


def print_record(record: dict[str, Any], as_json: bool, to_stderr: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps(record), err=to_stderr)
        return
    rows, terminal = dict(_rows(record)), plain_console(to_stderr)
    width = max(map(len, rows))
    for key, value in rows.items():  # lines, not a table: a terminal wraps a long path, a table would cut it
        terminal.print(Text.assemble((f"{key:<{width}}", "bold"), "  ", printable(value)), soft_wrap=True)


def _rows(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A record as names and texts; the fields of a record in it are rows of their own."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _rows(value)
        elif isinstance(value, list):
            yield key, ", ".join(map(str, value)) or "none"
        else:
            yield key, "unknown" if value is None else str(value)
