"""A run folder's copy in S3 over real HTTP: it follows the run, no fault stops or slows the run, and another machine goes on from it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
from dataset_material import make_dataset
from s3_server import S3, Fault, Kind, s3_server
from typer.testing import CliRunner

from mutual_forcing.datasets.format.manifest import MANIFEST, read_manifest
from mutual_forcing.datasets.places import store as store_module
from mutual_forcing.datasets.places.storage import read_json, write_json
from mutual_forcing.datasets.places.store import store_of
from mutual_forcing.datasets.progress import silent
from mutual_forcing.orchestration import mirror
from mutual_forcing.orchestration.checkpoints import store_of_run
from mutual_forcing.orchestration.config import RunConfig, with_settings
from mutual_forcing.orchestration.launch import _dataset
from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.mirror import RemoteConfig, mirrored
from mutual_forcing.orchestration.preflight import examine
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.restore import MOVED, restore
from mutual_forcing.orchestration.run_folder import RUN
from mutual_forcing.orchestration.run_record import claim, loop_config
from mutual_forcing.workers.metrics import MetricSpool

TINY = recipe("tiny")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setattr(store_module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(store_module, "ATTEMPTS", 3)
    for name, value in {"INTERVAL": 0.05, "PAUSE": 0.1, "KEEP_TRYING": 0.1, "PATIENCE": 20.0}.items():
        monkeypatch.setattr(mirror, name, value)
    with s3_server(monkeypatch) as place:
        yield place


@pytest.fixture
def config(s3: S3) -> RunConfig:
    return with_settings(TINY, [f"remote.uri={s3.uri}/one"])


def begun(config: RunConfig, run: Path) -> dict:
    """A run folder as the driver has it while training is under way."""
    run.mkdir()
    record = claim(config, run, ["mutual-forcing train tiny"])
    make_dataset(run / "data", shards=2)
    spool = MetricSpool(run / "metrics", "joint")
    for step in range(3):
        spool.write(step, {"loss": 1.0})
    spool.close()
    (run / "samples").mkdir()
    (run / "samples" / "clip.mp4").write_bytes(b"clip")
    (run / "samples" / ".half.tmp").write_bytes(b"half")
    (run / "samples" / "link").symlink_to("/etc/passwd")
    (run / "bad-steps").mkdir()
    (run / "bad-steps" / "joint-1-rank0.safetensors").write_bytes(b"large")
    (run / "mlflow.db").write_bytes(b"of this machine")
    return record


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def copy(config: RunConfig, run: Path, warnings: list[str] | None = None) -> None:
    with mirrored(config.remote, run, True, ([] if warnings is None else warnings).append):
        pass


def test_the_copy_holds_what_another_machine_and_people_need(s3: S3, config: RunConfig, tmp_path: Path) -> None:
    begun(config, tmp_path / "run")
    warnings: list[str] = []
    copy(config, tmp_path / "run", warnings)
    assert warnings == []
    assert sorted(store_of(config.remote.uri).names()) == [
        "bad-steps/joint-1-rank0.safetensors",
        "data/clips.parquet",
        "data/manifest.json",
        "data/shard-0.arrow",
        "data/shard-1.arrow",
        "data/sources.jsonl",
        "metrics/joint.jsonl",
        "run.json",
        "samples/clip.mp4",
    ]


def test_it_follows_the_run_and_sends_what_has_changed_alone(s3: S3, config: RunConfig, tmp_path: Path) -> None:
    run, store, warnings = tmp_path / "run", store_of(config.remote.uri), list[str]()
    begun(config, run)
    with mirrored(config.remote, run, True, warnings.append):
        until(lambda: "data/manifest.json" in store.names())
        s3.faults += [Fault("slow", "PUT", part, 1) for part in ("clip.mp4", "rank0", "shard-", "joint.jsonl")]
        spool = MetricSpool(run / "metrics", "joint", 3)  # as after a restart
        spool.write(3, {"loss": 0.5})
        until(lambda: store.fetch("metrics/joint.jsonl").read_bytes() == (run / "metrics" / "joint.jsonl").read_bytes())
    assert [path.rpartition("/")[2] for _, path in s3.met] == ["joint.jsonl"]
    copy(config, run, warnings)  # the next command sends small files again, and neither data nor saved steps
    assert not [path for _, path in s3.met if "shard-" in path or "rank0" in path]
    assert warnings == []


def test_a_growing_file_costs_no_more_than_its_rate(s3: S3, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "RATE", 200)
    run, sent = tmp_path / "run", list[tuple[float, int]]()
    begun(config, run)
    growing = "metrics/joint.jsonl"
    send = store_module.S3Store.send

    def noted(self: store_module.S3Store, path: Path, name: str) -> None:
        size = path.stat().st_size
        send(self, path, name)
        if name == growing:
            sent.append((time.monotonic(), size))

    monkeypatch.setattr(store_module.S3Store, "send", noted)
    with mirrored(config.remote, run, False, print), (run / growing).open("a") as spool:
        for _ in range(100):
            spool.write("x" * 9 + "\n")
            spool.flush()
            time.sleep(0.02)
        until(lambda: len(sent) >= 2)
    size = (run / growing).stat().st_size
    assert size > 800  # four seconds at that rate
    *during, (_, last) = sent  # the last one is the end's, which waits for no rate
    assert last == size
    assert all(later - before >= size / 200 for (before, size), (later, _) in pairwise(during))
    assert store_of(config.remote.uri).names("metrics/") == {growing: size}, "and whole at the end"


@pytest.mark.parametrize("kind", ["503", "denied", "reset", "slow"])
def test_faults_of_single_requests_leave_no_trace(s3: S3, config: RunConfig, tmp_path: Path, kind: Kind) -> None:
    begun(config, tmp_path / "run")
    s3.faults += [Fault(kind, "PUT", part, 1) for part in (RUN, "joint.jsonl", "shard-1", MANIFEST)]
    warnings: list[str] = []
    copy(config, tmp_path / "run", warnings)
    assert len(s3.met) == 4
    assert warnings == []
    assert len(store_of(config.remote.uri).names()) == 9


def test_an_outage_during_a_run_draws_one_warning_and_all_arrives_afterwards(s3: S3, config: RunConfig, tmp_path: Path) -> None:
    run, warnings = tmp_path / "run", list[str]()
    begun(config, run)
    s3.up.clear()
    began = time.monotonic()
    with mirrored(config.remote, run, True, warnings.append):
        assert time.monotonic() - began < 1, "the run does not wait"
        until(lambda: bool(warnings))
        time.sleep(1)
        (run / "report.html").write_text("late")
        s3.up.set()
    assert len(warnings) == 1
    assert "it is tried again" in warnings[0]
    names = store_of(config.remote.uri).names()
    assert len(names) == 10
    assert names["report.html"] == 4


def test_one_file_that_cannot_be_sent_keeps_no_other_back(
    s3: S3, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PATIENCE", 8.0)
    begun(config, tmp_path / "run")
    s3.faults.append(Fault("denied", "PUT", "joint.jsonl", 10**6))
    warnings: list[str] = []
    copy(config, tmp_path / "run", warnings)
    assert len(store_of(config.remote.uri).names()) == 8
    assert ["tried again" in text for text in warnings] == [True, False]
    assert "1 files of the run were not sent (metrics/joint.jsonl)" in warnings[1]


def test_a_store_that_hangs_holds_the_end_of_a_run_for_its_patience_alone(
    s3: S3, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PATIENCE", 0.5)
    begun(config, tmp_path / "run")
    s3.faults.append(Fault("hang", "PUT", "", 10**6))
    warnings: list[str] = []
    copy(config, tmp_path / "run", warnings)  # comes to an end at all, though no request does
    assert len(s3.met) <= 1
    assert [("were not sent" in text, "the same command sends them" in text) for text in warnings] == [(True, True)]


def test_another_machine_goes_on_with_the_run(s3: S3, config: RunConfig, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    record = begun(config, first)
    record |= {"dataset": read_manifest(first / "data").contents(), "mlflow": {"tracking_uri": "sqlite:////first/mlflow.db", "run_id": "a"}}
    write_json(first / RUN, record)
    write_json(first / "metrics" / "mlflow.json", {"joint": "b"})
    copy(config, first)
    shutil.rmtree(first)
    assert restore(config.remote, config.settings(), second, silent)
    assert (second / "metrics" / "joint.jsonl").read_bytes().count(b"\n") == 3
    assert read_manifest(second / "data").clips == 6
    assert not (second / "bad-steps").exists()
    again = claim(config, second, [])
    assert (again["created"], again["mlflow"], again[MOVED]) == (record["created"], {}, True)
    assert not (second / "metrics" / "mlflow.json").exists(), "the tracking store stayed on the other machine"
    _dataset(config, second / "data", again, silent)
    assert again["dataset"] == record["dataset"], "taken as it is, not made again"
    assert loop_config(config, second).checkpoints.uri == f"{config.remote.uri}/checkpoints"
    assert not restore(config.remote, config.settings(), second, silent), "it is here now"


def test_a_tracking_server_s_run_goes_on(s3: S3, config: RunConfig, tmp_path: Path) -> None:
    about = {"tracking_uri": "http://server:5000", "run_id": "a"}
    write_json(tmp_path / "first" / RUN, begun(config, tmp_path / "first") | {"mlflow": about})
    copy(config, tmp_path / "first")
    restore(config.remote, config.settings(), tmp_path / "second", silent)
    assert read_json(tmp_path / "second" / RUN, "run")["mlflow"] == about


def test_a_machine_that_comes_back_takes_what_the_other_has_done(s3: S3, config: RunConfig, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    begun(config, first)
    copy(config, first)
    restore(config.remote, config.settings(), second, silent)
    spool = MetricSpool(second / "metrics", "joint", 3)
    spool.write(3, {"loss": 1.0})
    spool.close()
    write_json(second / RUN, read_json(second / RUN, "run") | {"total_seconds": 10.0})
    copy(config, second)
    assert restore(config.remote, config.settings(), first, silent)
    assert (first / "metrics" / "joint.jsonl").read_bytes() == (second / "metrics" / "joint.jsonl").read_bytes()
    assert not restore(config.remote, config.settings(), second, silent)


@pytest.mark.parametrize("part", ["joint.jsonl", "shard-1", RUN])
def test_a_restoration_that_was_cut_off_begins_again(s3: S3, config: RunConfig, tmp_path: Path, part: str) -> None:
    begun(config, tmp_path / "first")
    copy(config, tmp_path / "first")
    s3.faults.append(Fault("503", "GET", part, 10**6))
    with pytest.raises(ValueError, match=r"remote|s3://.*cannot be read or written.*the same command goes on") as refused:
        restore(config.remote, config.settings(), tmp_path / "second", silent)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "second" / RUN).exists()
    s3.faults.clear()
    assert restore(config.remote, config.settings(), tmp_path / "second", silent)
    assert read_manifest(tmp_path / "second" / "data").clips == 6
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == [".lock", "data", "metrics", RUN, "samples"]


def test_another_run_is_refused_on_both_sides(s3: S3, config: RunConfig, tmp_path: Path) -> None:
    begun(config, tmp_path / "first")
    copy(config, tmp_path / "first")
    other = replace(config, seed=1)
    with pytest.raises(ValueError, match=r"remote\.uri=.*another configuration"):
        restore(other.remote, other.settings(), tmp_path / "second", silent)
    write_json(begun_at(config, tmp_path / "third") / RUN, read_json(tmp_path / "third" / RUN, "run") | {"created": "yesterday"})
    with pytest.raises(ValueError, match=r"remote\.uri=.*holds another run than"):
        restore(config.remote, config.settings(), tmp_path / "third", silent)
    (tmp_path / "fourth").mkdir()
    (tmp_path / "fourth" / "file").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        restore(config.remote, config.settings(), tmp_path / "fourth", silent)
    with pytest.raises(ValueError, match=r"data hold other clips|not the one that this run"):
        _dataset(config, tmp_path / "first" / "data", {MOVED: True, "dataset": "another"}, silent)


def begun_at(config: RunConfig, run: Path) -> Path:
    begun(config, run)
    return run


def test_hostile_names_and_records_are_refused(s3: S3, config: RunConfig, tmp_path: Path) -> None:
    store = store_of(config.remote.uri)
    with store.writing(RUN) as path:
        path.write_text("[1]")
    with pytest.raises(ValueError, match="holds no configuration"):
        restore(config.remote, config.settings(), tmp_path / "second", silent)
    write_json(tmp_path / "record", {"config": asdict(config), "settings": config.settings()})
    store.send(tmp_path / "record", RUN)
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(f"{config.remote.uri}/metrics/a/../../../evil", b"x")
    with pytest.raises(ValueError, match="leads out of its folder"):
        restore(config.remote, config.settings(), tmp_path / "second", silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["record", "second"]


def test_checkpoints_go_there_unless_another_place_is_named(s3: S3, config: RunConfig, tmp_path: Path) -> None:
    assert config.settings() == TINY.settings(), "where a copy is kept shapes no weights"
    assert config.checkpoint_uri == f"{config.remote.uri}/checkpoints"
    assert with_settings(config, ["checkpoint.uri=/else/where"]).checkpoint_uri == "/else/where"
    assert [f.text for f in examine(config, tmp_path / "run") if f.kind == "problem"] == []
    assert store_of(config.remote.uri).names() == {}, "what was written to try it is gone"
    begun(config, tmp_path / "run")
    copy(config, tmp_path / "run")
    assert store_of_run(config.remote.uri).uri == store_of_run(str(tmp_path / "run")).uri == config.checkpoint_uri
    with pytest.raises(ValueError, match=r"checkpoint\.uri=''.*are in 's3://"):
        claim(TINY, tmp_path / "run", [])
    s3.faults.append(Fault("denied", "PUT", "/one/.preflight", 10**6))
    (text,) = [f.text for f in examine(config, tmp_path / "run") if f.kind == "problem"]
    assert text.startswith("remote.uri=")


def test_a_report_is_made_again_from_the_copy(s3: S3, config: RunConfig, tmp_path: Path) -> None:
    begun(config, tmp_path / "run")
    copy(config, tmp_path / "run")
    made = CliRunner().invoke(app, ["report", config.remote.uri])
    assert made.exit_code == 0, made.output
    assert made.output.strip().endswith(f"{config.remote.uri}/report.html")
    assert b"<html" in store_of(config.remote.uri).fetch("report.html").read_bytes()
    missing = CliRunner().invoke(app, ["report", f"{s3.uri}/nothing"])
    assert missing.exit_code == 1
    assert "holds no run.json" in missing.output


@pytest.mark.parametrize("uri", ["/local", "s3://bucket", "s3://bucket/", "s3://", "gs://bucket/run", "s3://bucket/run/"])
def test_a_uri_that_is_no_folder_of_a_bucket_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"remote\.uri=.*must be s3://BUCKET/FOLDER"):
        RemoteConfig(uri)


def test_without_a_copy_nothing_is_started(tmp_path: Path) -> None:
    before = threading.active_count()
    with mirrored(RemoteConfig(), tmp_path, True, print):
        assert threading.active_count() == before
    assert not restore(RemoteConfig(), "any", tmp_path, silent)
    assert json.loads(json.dumps(asdict(TINY)))["remote"] == {"uri": ""}
