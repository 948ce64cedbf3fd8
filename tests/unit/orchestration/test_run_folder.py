"""One process at a time works in a run folder, and only where nothing else is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mutual_forcing.orchestration.launch import train
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.run_folder import locked, require_ours

HOLD = """
import sys, time
from pathlib import Path
from mutual_forcing.orchestration.run_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that works in the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_told_who_works_there(tmp_path: Path, holder: subprocess.Popen) -> None:
    with pytest.raises(ValueError, match=rf"process {holder.pid} on \S+ is working in it; .*--out") as caught, locked(tmp_path):
        pass
    assert "\n" not in str(caught.value)


def test_a_training_claims_no_folder_in_which_another_works(tmp_path: Path, holder: subprocess.Popen) -> None:
    with pytest.raises(ValueError, match=f"process {holder.pid} on"):
        train(recipe("tiny"), tmp_path, [], lambda *_: None, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_killed_process_leaves_no_lock(tmp_path: Path, holder: subprocess.Popen) -> None:
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        pass


def test_a_lock_ends_with_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            pass


def test_a_lock_alone_is_no_content(tmp_path: Path) -> None:
    with locked(tmp_path):
        require_ours(tmp_path)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match="not empty and holds no run"):
        require_ours(tmp_path)
    (tmp_path / "run.json").touch()
    require_ours(tmp_path)
