"""One process at a time works in a folder: a run folder, or that of a dataset."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from media_material import names, write_film

from mutual_forcing.datasets.adopt import adopt
from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.pipeline import prepare
from mutual_forcing.datasets.places.lock import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from mutual_forcing.datasets.places.lock import locked
with locked("run folder", Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen]:
    """A process that works in the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_told_who_works_there(folder: Path, holder: subprocess.Popen) -> None:
    words = rf"^run folder '{folder}': process {holder.pid} on \S+ is working in it; .*--out$"
    with pytest.raises(ValueError, match=words) as caught, locked("run folder", folder):
        pass
    assert "\n" not in str(caught.value)


def test_a_killed_process_leaves_no_lock(folder: Path, holder: subprocess.Popen) -> None:
    holder.kill()
    holder.wait()
    with locked("run folder", folder):
        pass


def test_a_lock_ends_with_its_block(folder: Path) -> None:
    for _ in range(2):
        with locked("run folder", folder):
            pass


@pytest.mark.parametrize("media", ["own", "synthetic"])
def test_a_second_preparation_touches_nothing_of_the_first(folder: Path, holder: subprocess.Popen, media: str) -> None:
    own = folder.parent / "clips"
    own.mkdir()
    write_film(own / "a.mp4", 0.2)
    live = ["shard-0123456789ab.arrow", ".shard-00.arrow.77.tmp"]
    for name in live:
        (folder / name).touch()
    config = DataConfig(media=str(own) if media == "own" else media)
    with pytest.raises(ValueError, match=rf"dataset folder '{folder}': process {holder.pid} on"):
        prepare(config, folder, lambda *_: None)
    assert names(folder) == sorted([LOCK, *live])
    assert names(folder.parent) == ["clips", "work"]


def test_a_missing_folder_of_media_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be found"):
        prepare(DataConfig(media=str(tmp_path / "missing")), tmp_path / "data", lambda *_: None)
    assert names(tmp_path) == []


def test_a_dataset_is_not_taken_over_into_a_folder_at_work(
    folder: Path, holder: subprocess.Popen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Found:
        shards = ()

    monkeypatch.setattr("mutual_forcing.datasets.adopt.prepared_dataset", lambda *_, **__: (tmp_path, Found()))
    with pytest.raises(ValueError, match=f"process {holder.pid} on"):
        adopt(DataConfig(prepared=str(tmp_path)), folder, lambda *_: None)
    assert names(folder) == [LOCK]
