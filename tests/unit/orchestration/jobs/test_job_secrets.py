"""Secrets of jobs go by reference: values are refused where they would be shown, and no message repeats one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mutual_forcing.orchestration.jobs.secrets import REFERENCES, as_variable, parse_plain, parse_references, resolve

CANARY = "CANARY-9f3b1c"


@pytest.mark.parametrize(
    "given",
    [
        CANARY,
        f"NAME={CANARY}",
        f"NAME=value:{CANARY}",
        f"NAME=file:{CANARY}",
        f"NAME=env:{CANARY} x",
        f"NAME=file:/a\n{CANARY}",
        f"1N=env:{CANARY}",
    ],
)
def test_a_value_in_place_of_a_reference_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(ValueError, match="a value itself is not taken") as refused:
        parse_references([given])
    assert CANARY not in str(refused.value) or given == CANARY  # a name alone is shown


@pytest.mark.parametrize(
    "given",
    [f"AWS_SECRET_ACCESS_KEY={CANARY}", f"HF_TOKEN={CANARY}", f"DB_PASSWORD={CANARY}", f"MLFLOW_TRACKING_URI=http://me:{CANARY}@host"],
)
def test_a_plain_variable_that_looks_like_a_secret_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(ValueError, match=r"--secret") as refused:
        parse_plain([given])
    assert CANARY not in str(refused.value)


def test_plain_variables_pass() -> None:
    places = ["AWS_WEB_IDENTITY_TOKEN_FILE=/var/run/token", "MY_TOKEN_FILE=/run/secrets/mine", "RAY_AUTH_TOKEN_PATH=/run/token"]
    given = ["AWS_ENDPOINT_URL=http://127.0.0.1:9000", *places, "EMPTY="]
    assert parse_plain(given) == dict(text.split("=", 1) for text in given)


def test_references_become_values_in_the_process_that_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(f"{CANARY}\n")
    monkeypatch.setenv("TEAM_TOKEN", f"{CANARY}-2")
    monkeypatch.setenv("KEY", "")
    monkeypatch.setenv("TOKEN", "")
    carried = as_variable(parse_references([f"KEY=file:{tmp_path / 'key'}", "TOKEN=env:TEAM_TOKEN"]))
    assert CANARY not in str(carried)
    monkeypatch.setenv(REFERENCES, carried[REFERENCES])
    resolve()
    assert (os.environ["KEY"], os.environ["TOKEN"]) == (CANARY, f"{CANARY}-2")


@pytest.mark.parametrize("reference", ["file:/nowhere/at/all", "env:NOT_SET_ANYWHERE", "file:/dev/zero"])
def test_a_secret_that_cannot_be_read_is_named_by_its_place(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REFERENCES, f"KEY={reference}")
    with pytest.raises(ValueError, match="--secret KEY: "):
        resolve()


def test_without_secrets_nothing_is_carried() -> None:
    assert as_variable({}) == {}
