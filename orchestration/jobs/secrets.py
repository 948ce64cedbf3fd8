"""Secrets of a job, by reference: where a process of the cluster finds a value, never the value. Ray shows `env_vars` to whoever asks.

    --secret AWS_SECRET_ACCESS_KEY=file:/run/secrets/aws      a file on every machine, such as a mounted secret
    --secret MLFLOW_TRACKING_TOKEN=env:TEAM_MLFLOW_TOKEN      a variable that Ray was started with there

The driver and every worker read them when they start (`resolve` is Ray's `worker_process_setup_hook`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ...datasets.redaction import names_secret

REFERENCES = "MUTUAL_FORCING_SECRETS"  # the variable that carries them: NAME=file:PATH, one a line
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
MAX_BYTES = 64 * 1024


def parse_references(given: Iterable[str]) -> dict[str, str]:
    """`NAME=file:PATH` and `NAME=env:VARIABLE` as names with references.

    Raises:
        ValueError: one has another form. The text after `=` is not repeated: it may be a secret.
    """
    found = {}
    for text in given:
        name, _, reference = text.partition("=")
        kind, _, place = reference.partition(":")
        fits = (kind == "file" and place.startswith("/")) or (kind == "env" and NAME.fullmatch(place))
        if not NAME.fullmatch(name) or not fits or "\n" in place:
            raise ValueError(f"--secret {name[:40]!r}: give NAME=file:/path/there or NAME=env:VARIABLE_THERE; a value itself is not taken")
        found[name] = reference
    return found


def parse_plain(given: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE` as plain variables, which anybody who may ask the cluster can read.

    Raises:
        ValueError: one has another form, or looks like a secret.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not NAME.fullmatch(name):
            raise ValueError(f"--env {name[:40]!r}: give NAME=VALUE")
        if _looks_secret(name, value):
            raise ValueError(
                f"--env {name}: it looks like a secret, and Ray shows variables of jobs in plain text; use --secret {name}=file:PATH"
            )
        if name == REFERENCES:
            raise ValueError(f"--env {name}: it is what --secret sets; use --secret")
        found[name] = value
    return found


def _looks_secret(name: str, value: str) -> bool:
    try:
        carries = urlsplit(value).password is not None
    except ValueError:
        carries = False
    return carries or names_secret(name)


def as_variable(references: Mapping[str, str]) -> dict[str, str]:
    """The environment that carries references to the processes of a job."""
    return {REFERENCES: "\n".join(f"{name}={place}" for name, place in references.items())} if references else {}


def resolve() -> None:
    """Put every secret that this process was given a reference to into its environment.

    Raises:
        ValueError: one cannot be read here; its name and its place are named.
    """
    for name, reference in parse_references(filter(None, os.environ.get(REFERENCES, "").split("\n"))).items():
        kind, _, place = reference.partition(":")
        os.environ[name] = _of_file(name, Path(place)) if kind == "file" else _of_environment(name, place)


def _of_file(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(
            f"--secret {name}: {str(path)!r} cannot be read on this machine ({error.strerror}); mount it on every node"
        ) from error
    if len(content) > MAX_BYTES or b"\0" in content:
        raise ValueError(
            f"--secret {name}: {str(path)!r} is no secret of at most {MAX_BYTES // 1024} KiB; give the file that holds it alone"
        )
    return content.decode(errors="surrogateescape").rstrip("\r\n")


def _of_environment(name: str, variable: str) -> str:
    if variable not in os.environ:
        raise ValueError(f"--secret {name}: no variable {variable} on this machine; start Ray with it on every node")
    return os.environ[variable]
