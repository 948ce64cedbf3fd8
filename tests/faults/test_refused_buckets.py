"""A bucket that does not exist or may not be written to, and addresses with passwords in them: one line with a remedy, before anything
starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from dataset_material import make_dataset
from s3_server import S3, Fault, s3_server
from typer.testing import CliRunner

from mutual_forcing.datasets.places import store as store_module
from mutual_forcing.datasets.places.store import store_of
from mutual_forcing.datasets.transfer import send_dataset
from mutual_forcing.orchestration.main import app

CANARY = "canary-8d1f03a6"
NOWHERE = "s3://no-such-bucket/one"
VERBS = {
    "remote.uri": ("train", "tiny", "--out", "OUT", "--set", "remote.uri=URI"),
    "checkpoint.uri": ("train", "tiny", "--out", "OUT", "--set", "checkpoint.uri=URI"),
    "data.prepared": ("train", "tiny", "--out", "OUT", "--data", "URI"),
    "media": ("train", "tiny", "--out", "OUT", "--media", "URI"),
    "--out": ("data", "prepare", "synthetic", "--recipe", "tiny", "--out", "URI"),
    "input": ("data", "prepare", "URI", "--recipe", "tiny", "--out", "OUT"),
    "inspect": ("data", "inspect", "URI"),
    "list": ("checkpoint", "list", "URI"),
    "report": ("report", "URI"),
}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setattr(store_module, "FIRST_PAUSE", 0.01)
    with s3_server(monkeypatch) as place:
        yield place


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused must not have started anything."""
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))


def refused(words: tuple[str, ...], uri: str, folder: Path) -> str:
    """The one line of a verb that must fail, and leave nothing."""
    done = CliRunner().invoke(app, [w.replace("OUT", str(folder / "out")).replace("URI", uri) for w in words])
    assert done.exit_code == 1, done.output
    assert list(folder.iterdir()) == []
    (line,) = done.output.splitlines()
    return line


@pytest.mark.parametrize("field", VERBS)
def test_a_bucket_that_does_not_exist_is_not_an_empty_one(s3: S3, tmp_path: Path, field: str) -> None:
    line = refused(VERBS[field], NOWHERE, tmp_path)
    assert "there is no such bucket; correct its name, or make it" in line
    assert NOWHERE in line
    assert "problems" not in line, "one cause, told once"
    if "." in field or field.startswith("-"):
        assert line.startswith(f"error: {field}='{NOWHERE}': ")


@pytest.mark.parametrize(("field", "method"), [("remote.uri", "PUT"), ("checkpoint.uri", "PUT"), ("--out", "PUT"), ("--out", "DELETE")])
def test_a_bucket_that_may_not_be_written_to_is_told_before_the_start(s3: S3, tmp_path: Path, field: str, method: str) -> None:
    s3.faults.append(Fault("denied", method, "", 10**6))
    line = refused(VERBS[field], s3.uri, tmp_path)
    assert line.startswith(f"error: {field}='{s3.uri}': no permission to write there and read it back")
    assert "s3:PutObject" in line
    s3.faults.clear()
    assert len(store_of(s3.uri).names()) == (method == "DELETE"), "what was written to try it cannot go without the right to remove it"


def test_data_are_read_from_a_bucket_that_may_not_be_written_to(s3: S3, tmp_path: Path) -> None:
    make_dataset(tmp_path / "mine", shards=2)
    send_dataset(tmp_path / "mine", store_of(s3.uri))
    s3.faults += [Fault("denied", method, "", 10**6) for method in ("PUT", "DELETE", "POST")]
    done = CliRunner().invoke(app, ["data", "export", s3.uri, "--out", str(tmp_path / "parquet")])
    assert done.exit_code == 0, done.output
    assert s3.met == []


@pytest.mark.parametrize("field", ["remote.uri", "data.prepared", "--out", "input", "list"])
def test_a_password_before_the_bucket_is_refused_and_not_shown(s3: S3, tmp_path: Path, field: str) -> None:
    line = refused(VERBS[field], f"s3://me:{CANARY}@bucket/one", tmp_path)
    assert CANARY not in line
    assert "s3://bucket/one': was given with a user or password; leave them out" in line


@pytest.mark.parametrize("field", ["remote.uri", "--out"])
def test_a_password_in_the_endpoint_is_refused_and_not_shown(s3: S3, tmp_path: Path, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{CANARY}@127.0.0.1:9")
    line = refused(VERBS[field], "s3://bucket/one", tmp_path)
    assert CANARY not in line
    assert "AWS_ENDPOINT_URL='http://127.0.0.1:9': was given with a user or password" in line


def test_no_error_of_a_store_shows_the_credentials_that_it_was_asked_with(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which S3 fails, with the traceback that --debug prints."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setattr(store_module, "ATTEMPTS", 2)
    for kind in ("denied", "503", "reset", "short"):
        s3.faults[:] = [Fault(kind, "GET", "", 10**6)]
        done = CliRunner().invoke(app, ["checkpoint", "list", s3.uri, "--debug"])
        assert done.exit_code == 1, kind
        assert CANARY not in done.output
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    done = CliRunner().invoke(app, ["checkpoint", "list", s3.uri, "--debug"])
    assert done.exit_code == 1
    assert CANARY not in done.output
