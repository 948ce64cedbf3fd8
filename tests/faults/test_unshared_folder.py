"""A machine of the cluster that does not share the run folder: told at the start, not by what times out later."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_material import Machines
from command_material import command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def machine_apart(environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A machine of the cluster that has another disk at `folder`."""
    words = ("unshare", "-m", "sh", "-ec", f'mount -t tmpfs tmpfs {folder}; exec "$@"', "sh")
    if sys.platform != "linux" or not shutil.which("unshare") or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("this system does not let us mount a disk")
    start = [str(Path(sys.executable).with_name("ray")), "start", f"--address={environment['RAY_ADDRESS']}", "--num-cpus=1", "--block"]
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
        yield
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
    for part in (f"--out={str(disk / 'run')!r}", "would not find the checkpoints there", "share the folder", "remote.uri=s3://"):
        assert part in error
    assert not list(disk.glob("run/.shared*"))
