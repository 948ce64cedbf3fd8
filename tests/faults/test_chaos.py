"""The verb `chaos` on a real run: on a cluster of several machines, with its copy in S3, while everything that it can break is broken."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_material import Machines
from command_material import Running, command
from s3_server import S3, s3_server
from training_material import finish

from mutual_forcing.datasets.places import fault_switch
from mutual_forcing.orchestration.chaos.holder import SUFFIX, holder_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

SETTINGS = (
    "data.stream_sources=4",
    "data.synthetic_count=12",
    "stages.joint.steps=60",
    "rollouts.max_age=2",
    "checkpoint.every=4",
    "workers.max_failures=50",
)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with s3_server(monkeypatch) as place:
        yield place


@pytest.mark.parametrize(("minutes", "mutual"), [(4, 120), (10, 400)])
def test_a_run_that_is_broken_all_the_time_finishes_and_has_all_its_clips(s3: S3, tmp_path: Path, minutes: int, mutual: int) -> None:
    folder, kept = tmp_path / "run", os.environ.get("MF_CHAOS_OUT")
    settings = (*SETTINGS, f"stages.mutual.steps={mutual}", f"remote.uri={s3.uri}/run")
    words = ["train", "tiny", "--out", str(folder), *(word for setting in settings for word in ("--set", setting))]
    with Machines(2) as machines:
        try:
            with Running(*words, environment=machines.environment) as running:
                running.until(lambda: (folder / "run.json").is_file(), 300)
                asked = ("--minutes", str(minutes), "--seed", "1", "--gap", "20", "--yes", "--json", *(("--out", kept) if kept else ()))
                said = command("chaos", str(folder), *asked, seconds=3600, environment=machines.environment)
                print(said.error)
                assert said.code == 0, said.error + said.out
                finish(folder, 1800)
        finally:
            if driver := holder_of(str(folder / ".lock")):  # the last one was started by nobody's child
                os.kill(driver, signal.SIGTERM)
    record = json.loads(said.out)
    happened = [event for event in record["events"] if event["happened_at_s"] is not None]
    assert len(happened) >= 3, "a slow machine takes minutes for each"
    assert all(event["recovery_s"] is not None for event in happened)
    assert len({event["kind"] for event in happened}) >= 3
    assert record["verdict"]["clean"]
    assert record["not_mended"] == []
    assert Path(record["timeline"]).read_bytes().startswith(b"\x89PNG")
    assert not fault_switch.FOLDER.exists()
    assert not list(folder.rglob(f"*{SUFFIX}"))
    audit = command("audit", str(folder))
    assert audit.code == 0, audit.out + audit.error
