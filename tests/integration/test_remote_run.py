"""Without a disk that lasts: data prepared into S3, and a run that loses its machine and goes on upon another one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_material import Running, command
from s3_server import S3, s3_server

from mutual_forcing.datasets.format.manifest import MANIFEST, read_manifest
from mutual_forcing.datasets.places.store import store_of
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.workers.checkpoint import found_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with s3_server(monkeypatch) as place:
        yield place


def test_the_same_command_on_an_empty_machine_finishes_the_run(s3: S3, tmp_path: Path) -> None:
    first, second, store = tmp_path / "first" / "run", tmp_path / "second" / "run", store_of(f"{s3.uri}/one")
    words = ["train", "tiny", "--set", f"remote.uri={store.uri}", "--set", "stages.joint.steps=400", "--set", "checkpoint.every=20"]

    def half_way() -> bool:
        there = store.names()
        return {f"data/{MANIFEST}", "metrics/joint.jsonl"} <= there.keys() and any(
            "checkpoints/joint" in n and "COMMIT" in n for n in there
        )

    with Running(*words, "--out", str(first)) as running:
        running.until(half_way, 300)
    assert not running.left_behind(30), "killed, all of them"
    checkpoints = store_of(f"{store.uri}/checkpoints")
    last = [f for f in found_in(checkpoints, "joint") if f.complete][-1]
    assert last.step < 400, "it was killed too late to see anything: stretch the stage"
    finished = {f.path for f in found_in(checkpoints) if f.complete and f.stage.startswith("pretrain")}
    data = read_manifest(first / "data")
    shutil.rmtree(first.parent)

    done = command(*words, "--out", str(second), seconds=600)
    assert done.code == 0, done.error
    assert sum("was brought to" in line for line in done.error.splitlines()) == 1
    assert read_manifest(second / "data") == data
    assert not (second / "media").exists(), "nothing was drawn again"
    assert finished <= {f.path for f in found_in(checkpoints)}, "finished stages were kept"
    records = json.loads(command("audit", str(second), "--json").out)
    assert [(r["stage"], r["faults"]) for r in records] == [(s.name, []) for s in recipe("tiny").stages]
    steps = [json.loads(line)["step"] for line in (second / "metrics" / "joint.jsonl").read_text().splitlines()]
    assert steps[0] == 0, "metrics of the other machine"
    assert set(range(last.step, 400)) <= set(steps)

    there = store.names()
    for name in ("report.html", "run.json", "samples/samples.json", "metrics/mutual.jsonl"):
        assert there[name] == (second / name).stat().st_size, name
    shutil.rmtree(second.parent)
    again = command(*words, "--out", str(second), seconds=600)  # a third machine finds it finished
    assert again.code == 0, again.error


def test_data_prepared_into_a_store_are_inspected_and_trained_on(s3: S3, tmp_path: Path) -> None:
    uri = f"{s3.uri}/mine"
    done = command("data", "prepare", "synthetic", "--recipe", "tiny", "--out", uri, "--json")
    assert done.code == 0, done.error
    made = json.loads(done.out)
    assert made["contact_sheet"] == f"{uri}/contact.png"
    assert {MANIFEST, "contact.png", "sources.jsonl"} <= store_of(uri).names().keys()
    seen = command("data", "inspect", uri, "--json")
    assert (seen.code, json.loads(seen.out)["clips"]) == (0, made["clips"]), seen.error
    fits = command("train", "tiny", "--data", uri, "--out", str(tmp_path / "run"), "--dry-run", "--json")
    assert [f["text"] for f in json.loads(fits.out)["findings"] if f["kind"] == "problem"] == []
    wrong = command("train", "demo", "--data", uri, "--out", str(tmp_path / "run"), "--dry-run")
    assert "made with data." in wrong.out
    twice = command("data", "prepare", "synthetic", "--recipe", "tiny", "--out", uri, "--json")
    assert (twice.code, json.loads(twice.out)) == (0, made), twice.error
    other = command("data", "prepare", "synthetic", "--recipe", "tiny", "--out", uri, "--set", "data.seed=1")
    assert "holds a dataset of other settings (data.seed=0 there, 1 here)" in other.errors[0]
    assert command("data", "audit", uri).code == 0
