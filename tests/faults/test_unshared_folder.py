"""A machine of the cluster that does not share the run folder: what it writes for people comes to the run folder all the same, and where it
would not find checkpoints or data, that is told at the start, not by what times out later.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from cluster_material import Machines
from command_material import Running, command
from s3_server import s3_server
from training_material import Training, finish, undisturbed

from mutual_forcing.orchestration.chaos.holder import holder_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@contextmanager
def machine_apart(environment: dict[str, str], folder: Path, cpus: int = 1) -> Iterator[psutil.Process]:
    """A machine of the cluster that has another disk at `folder`: its first process."""
    words = ("unshare", "-m", "sh", "-ec", f'mount -t tmpfs tmpfs {folder}; exec "$@"', "sh")
    if sys.platform != "linux" or not shutil.which("unshare") or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("this system does not let us mount a disk")
    start = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        f"--address={environment['RAY_ADDRESS']}",
        f"--num-cpus={cpus}",
        "--block",
    ]
    process = subprocess.Popen(
        [*words, *start, f"--object-store-memory={100 * 2**20}"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"Ray runtime started" in line:
                break
        yield psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def test_a_run_folder_that_one_machine_does_not_see_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with Machines(1) as machines, machine_apart(machines.environment, disk):
        answer = command("train", "tiny", "--out", str(disk / "run"), environment=machines.environment, seconds=200)
    assert answer.code == 1, answer.error
    (error,) = answer.errors
    for part in (f"--out={str(disk / 'run')!r}", "would not find the checkpoints there", "share it with all machines", "remote.uri=s3://"):
        assert part in error
    assert not list(disk.glob("run/.shared*"))


def trainers(machine: psutil.Process) -> list[psutil.Process]:
    """Its training processes, oldest first."""
    found = [child for child in machine.children(recursive=True) if "RayTrainWorker" in " ".join(child.cmdline())]
    return sorted(found, key=lambda process: process.create_time())


def test_a_training_far_from_its_run_folder_is_seen_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver on a head without cores, everything else on a machine with another disk, as on `cluster.yaml`. A worker is killed."""
    disk, cache, steps = tmp_path / "disk", tmp_path / "cache", 40
    disk.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    training = Training(disk / "run", steps, 5)
    with s3_server(monkeypatch) as s3, Machines(0) as machines, machine_apart(machines.environment, disk, cpus=8) as machine:
        with Running(*training.words, "--set", f"remote.uri={s3.uri}/one", environment=machines.environment) as running:
            training.until_another_attempt(running)
            training.until_step(running, 8)
            running.until(lambda: bool(trainers(machine)), 10)
            trainers(machine)[0].kill()
            training.until_another_attempt(running)
            answer = running.wait(600)
        assert answer.code == 0, answer.error
        training.assert_as_if_undisturbed(undisturbed(tmp_path / "undisturbed", steps))
    lines = [json.loads(line) for line in (training.folder / "logs" / "rank-00000.jsonl").read_text().splitlines()]
    begun = [line["message"] for line in lines if line["message"].startswith("attempt ")]
    assert len(begun) == 2
    assert "does not see it" not in answer.error
    assert "its metrics end at" not in answer.error
    assert (training.folder / "report.html").is_file()
    assert not list((cache / "mutual-forcing" / "away").iterdir())
    assert not list(training.folder.glob(".fit-*"))


def test_chaos_breaks_and_judges_a_training_far_from_its_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver too: what it had not fetched when it was killed is fetched by the next."""
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3_server(monkeypatch) as s3, Machines(0) as machines, machine_apart(machines.environment, disk, cpus=8):
        training = Training(disk / "run", 150, 5, f"remote.uri={s3.uri}/one", "workers.max_failures=50")
        try:
            with Running(*training.words, environment=machines.environment) as running:
                training.until_step(running, 5)
                asked = ("--minutes", "3", "--seed", "3", "--gap", "20", "--kinds", "worker,freeze,rollout,driver", "--yes", "--json")
                said = command("chaos", str(training.folder), *asked, seconds=1200, environment=machines.environment)
                assert said.code == 0, said.error + said.out
                finish(training.folder, 900)
        finally:
            if driver := holder_of(str(training.folder / ".lock")):  # the last one was started by nobody's child
                os.kill(driver, signal.SIGTERM)
        audit = command("audit", str(training.folder))
    assert audit.code == 0, audit.out + audit.error
    record = json.loads(said.out)
    happened = [event for event in record["events"] if event["happened_at_s"] is not None]
    assert len(happened) >= 2
    assert all(event["recovery_s"] is not None for event in happened)
    assert record["verdict"]["clean"]
