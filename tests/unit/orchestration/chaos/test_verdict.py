"""The verdict: of a real run, whole and with something missing; and what the verb does with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_material import HIDDEN
from run_material import untrained_run
from s3_server import s3_server
from typer.testing import CliRunner

from mutual_forcing.datasets.format.manifest import MANIFEST, read_manifest
from mutual_forcing.datasets.places.store import store_of, write_bytes
from mutual_forcing.datasets.reading.members import Member, write_members
from mutual_forcing.orchestration.chaos import verdict
from mutual_forcing.orchestration.chaos.command import _record, _show
from mutual_forcing.orchestration.chaos.conduct import Chaos, Happened, Wish, chosen, stores_of
from mutual_forcing.orchestration.chaos.schedule import KINDS, Event
from mutual_forcing.orchestration.chaos.timeline import draw
from mutual_forcing.orchestration.chaos.verdict import judge, of_steps
from mutual_forcing.orchestration.chaos.watch import Seen
from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.recipes import recipe

TINY = recipe("tiny")
WISH = Wish("/runs/one", 30, 1, (), 60, "auto", True)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "PAUSE", 0.0)  # nobody trains these runs


def test_steps_count_once_each_in_order() -> None:
    assert of_steps([0, 1, 2], 3) == of_steps([0, 1, 2, 3], 3) == of_steps([], 0) == []
    assert of_steps([0, 1, 1, 2], 3) == ["metrics: step 2 is expected, and step 1 follows"]
    assert of_steps([0, 2], 3) == ["metrics: step 1 is expected, and step 2 follows"]
    assert of_steps([0, 1], 3) == ["metrics: 2 steps, and 3 are in a checkpoint"]


def test_a_run_without_a_ledger_or_with_a_damaged_dataset_is_not_clean(tmp_path: Path) -> None:
    run = tmp_path / "run"
    untrained_run(run)
    found = judge(str(run), True)
    assert found["data"]["clips"] == read_manifest(run / "data").clips
    assert not [fault for fault in found["faults"] if fault.startswith("dataset")]
    shard = run / "data" / read_manifest(run / "data").shards[0].file
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    damaged = judge(str(run), True)
    assert not damaged["clean"]
    assert any("is not what the manifest says" in fault for fault in damaged["faults"])
    left = judge(str(run), False)
    assert (left["data"], left["not_audited"]) == (None, "--no-data-audit")
    (run / "data" / MANIFEST).unlink()
    assert "has no manifest.json" in judge(str(run), True)["not_audited"]


def test_shards_that_are_read_by_ranges_are_audited_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    untrained_run(run)
    manifest = read_manifest(run / "data")
    with s3_server(monkeypatch) as s3:
        store = store_of(f"{s3.uri}/data")
        for path in sorted((run / "data").iterdir()):
            store.send(path, path.name)
        write_members(run / "data", [Member(run / "data", uri=f"{s3.uri}/data", cache_gb=1.0)])
        for shard in manifest.shards:
            (run / "data" / shard.file).unlink()
        found = judge(str(run), True)
        assert (found["data"]["clips"], found["not_audited"]) == (manifest.clips, "")
        assert not [fault for fault in found["faults"] if "dataset" in fault]
        content = bytearray(store.read_range(manifest.shards[0].file, 0, manifest.shards[0].bytes))
        content[len(content) // 2] ^= 1
        write_bytes(store, manifest.shards[0].file, bytes(content))
        assert [fault for fault in judge(str(run), True)["faults"] if "dataset" in fault]


def test_all_datasets_of_a_mix_are_audited(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "run" / "data" / "mix-1"
    untrained_run(run)
    clips = read_manifest(run / "data").clips
    other.mkdir()
    for path in [path for path in (run / "data").iterdir() if path.is_file()]:
        shutil.copy(path, other / path.name)
    write_members(run / "data", [Member(run / "data"), Member(other)])
    assert judge(str(run), True)["data"]["clips"] == 2 * clips
    (other / read_manifest(other).shards[0].file).unlink()
    assert [fault for fault in judge(str(run), True)["faults"] if "dataset" in fault]


def test_what_a_run_has_nothing_of_is_left_out() -> None:
    events, notes = chosen(WISH, TINY)
    assert {event.kind for event in events} <= {"worker", "rollout", "coordinator", "driver", "freeze", "tracker"}
    assert any("workers.max_failures=3" in note for note in notes)
    assert sum(event.kind in ("worker", "coordinator") for event in events) <= 3
    streaming = with_settings(TINY, ["data.stream_sources=4", "remote.uri=s3://bucket/one", "workers.max_failures=50"])
    assert {event.kind for event in chosen(WISH, streaming)[0]} == set(KINDS)
    assert stores_of(streaming) == ["s3://bucket/one", "s3://bucket/one/checkpoints", "s3://bucket/one/data"]
    with pytest.raises(ValueError, match=r"--kinds: s3 is left out: the run has nothing in S3"):
        chosen(Wish("/runs/one", 30, 1, ("s3",), 60, "auto", True), TINY)


def made(happened: list[Happened], verdict: dict) -> Chaos:
    course = [Seen(100 + 2.0 * i, 0, i, 1, 5) for i in range(30)] + [Seen(160 + 2.0 * i, 0, 24 + i, 2, 6) for i in range(30)]
    course += [Seen(220.0 + i, 1, i, 3, 6) for i in range(40)]
    curve = [(s.at, s.stage, s.steps, 2.0 / (1 + s.steps)) for s in course]
    return Chaos(100.0, ("joint", "mutual"), happened, course, curve, verdict)


CLEAN = {"clean": True, "faults": [], "stages": [], "data": {"clips": 3}, "not_audited": "", "finished": False, "goes_on": True}


def test_the_record_and_the_timeline_tell_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    happened = [
        Happened(Event(60, "driver"), 158.0, "driver 0 of 1", "another driver took over", 34.0),
        Happened(Event(120, "freeze", "rollout", seconds=9.0), 222.0, "rollout 1 of 2", "no step was lost", 3.2),
        Happened(Event(150, "worker"), 250.0, "worker 0 of 2", "", None),
        Happened(Event(160, "data"), 0.0, "", "did not happen: no data of the run lives"),
    ]
    told = CLEAN | {"clean": False, "goes_on": False, "faults": ["joint: clip-a was left out"]}
    chaos = made(happened, told)
    record = _record(WISH, chaos, tmp_path / "a.png")
    assert json.loads(json.dumps(record)) == record
    assert not record["good"]
    assert [event["happened_at_s"] for event in record["events"]] == [58.0, 122.0, 150.0, None]
    _show(record, False)
    said = capsys.readouterr().out
    for words in ("34.0 s", "never", "did not happen", "joint: clip-a was left out", "the run does not go on"):
        assert words in said
    assert "accounted for" not in said
    draw(chaos, "tiny", tmp_path / "a.png")
    draw(made([], CLEAN), "tiny", tmp_path / "b.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "b.png"))


def test_a_dataset_that_nobody_read_is_not_called_accounted_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _show(_record(WISH, made([], CLEAN), tmp_path / "a.png"), False)
    assert "every clip and every update is accounted for" in capsys.readouterr().out
    unread = CLEAN | {"data": None, "not_audited": "--no-data-audit"}
    _show(_record(WISH, made([], unread), tmp_path / "a.png"), False)
    said = capsys.readouterr().out
    assert "the dataset was not audited (--no-data-audit)" in said
    assert "every clip" not in said


def test_a_clean_account_is_good_only_if_the_run_goes_on() -> None:
    assert made([], CLEAN).good
    assert not made([], CLEAN | {"goes_on": False}).good
    assert not made([], CLEAN | {"clean": False}).good


def test_the_verb_asks_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untrained_run(tmp_path / "run")
    for name in HIDDEN:
        monkeypatch.delenv(name, raising=False)
    run, cli = str(tmp_path / "run"), CliRunner()
    shown = cli.invoke(app, ["chaos", run, "--dry-run", "--json", "--seed", "3"])
    assert shown.exit_code == 0, shown.output
    events = json.loads(shown.stdout)["events"]
    assert events == json.loads(cli.invoke(app, ["chaos", run, "--dry-run", "--json", "--seed", "3"]).stdout)["events"]
    assert events
    away = cli.invoke(app, ["chaos", run, "--yes"])
    assert away.exit_code == 1
    assert "RAY_ADDRESS: is not set" in away.output
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    unasked = cli.invoke(app, ["chaos", run])
    assert unasked.exit_code == 1
    assert "--yes: was not given" in unasked.output
    for words, said in (
        (["--restart", "never"], "--restart='never'"),
        (["--kinds", "fire"], "--kinds='fire': unknown"),
        (["--patience", "0"], "--patience=0"),
    ):
        refused = cli.invoke(app, ["chaos", run, *words, "--yes"])
        assert refused.exit_code == 1
        assert said in refused.output
    missing = cli.invoke(app, ["chaos", str(tmp_path / "none"), "--dry-run"])
    assert missing.exit_code == 1
