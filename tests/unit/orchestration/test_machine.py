"""What the doctor finds, also where what it looks for is missing; and which commit a run is of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import say

from mutual_forcing.datasets.ffmpeg import ffmpeg_child
from mutual_forcing.orchestration import doctor, machine

WITHOUT = """
import sys
for name in {names!r}:
    sys.modules[name] = None
import importlib.metadata as metadata
version = metadata.version
def missing(name):
    if name in {names!r}:
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = missing
from mutual_forcing.orchestration.main import app
app(["doctor", *sys.argv[1:]])
"""


def doctor_without(*names: str) -> dict[str, Any]:
    """What the doctor says where these packages are not installed."""
    done = subprocess.run([sys.executable, "-c", WITHOUT.format(names=names), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_missing_package_is_reported_not_raised() -> None:
    said = doctor_without("torch", "psutil", "deepspeed", "imageio-ffmpeg", "imageio_ffmpeg")
    assert said["versions"]["torch"] == said["versions"]["deepspeed"] == "not installed"
    assert (said["gpus"], said["memory_gb"], said["ffmpeg"]) == ([], None, None)
    fatal = [p["text"] for p in said["problems"] if p["kind"] == "will not work"]
    assert len(fatal) == 2
    assert fatal[0].startswith("torch, deepspeed, imageio-ffmpeg, psutil: not installed; run `make setup`")
    assert "ffmpeg" in fatal[1]


def test_no_usable_ffmpeg_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise ffmpeg_child.MediaError("open", "ffmpeg", "no usable ffmpeg: install ffmpeg 5.1 or newer")

    monkeypatch.setattr(ffmpeg_child, "ffmpeg_path", none)
    problems = doctor.examine()["problems"]
    assert ["install ffmpeg 5.1" in p["text"] for p in problems if p["kind"] == "will not work"] == [True]
    monkeypatch.setattr(ffmpeg_child, "ffmpeg_path", lambda: "/none/ffmpeg")
    problems = doctor.examine()["problems"]
    assert ["ffmpeg does not run here" in p["text"] for p in problems if p["kind"] == "will not work"] == [True]


def test_only_what_will_not_work_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"cores": 1, "memory_gb": 4.0, "gpus": ["A GPU"], "system": "Linux"}
    monkeypatch.setattr(doctor, "machine", lambda: here)
    monkeypatch.setattr(doctor, "free_memory_gb", lambda: 3.0)
    monkeypatch.setattr(doctor, "NEEDED_DISK_GB", 1e9)
    kinds = {p["text"].split()[0]: p["kind"] for p in doctor.examine()["problems"]}
    assert kinds["a"] == "will not work", "no room for a run"
    assert (kinds["two"], kinds["`train"], kinds["training"]) == ("slow", "note", "note")


def test_the_doctors_rows_can_be_read_and_copied() -> None:
    said = say("doctor")
    assert said.code == 0
    assert "{" not in said.out
    assert "…" not in said.out
    rows = dict(line.split(maxsplit=1) for line in said.out.splitlines() if ":" not in line.split()[0])
    assert Path(rows["ffmpeg"]).is_file()
    assert rows["ray"] == machine.version_of("ray")


def test_the_state_of_a_checkout(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", *words], check=True, capture_output=True)

    assert machine.git_state(tmp_path) == {"git_commit": "not a git checkout", "git_dirty": None}
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    (tmp_path / "stray").write_text("a file that is no module cannot change what the code does")
    clean = machine.git_state(tmp_path)
    assert (len(clean["git_commit"]), clean["git_dirty"]) == (40, False)
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "new module.py").write_text("X = 1")
    assert machine.git_state(tmp_path) == {**clean, "git_dirty": True}, "one that git does not know is imported, and shipped with a job"
    (tmp_path / "room" / "new module.py").unlink()
    assert machine.git_state(tmp_path) == clean
    (tmp_path / "a").write_text("2")
    assert machine.git_state(tmp_path) == {**clean, "git_dirty": True}
    (tmp_path / "site-packages").mkdir()
    assert machine.git_state(tmp_path / "site-packages")["git_commit"] == machine.NO_CHECKOUT, "what lies in a checkout is not of it"
