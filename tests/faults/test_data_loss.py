"""Processes of Ray Data are killed while they prepare a dataset: the job goes on, and makes what it would have made."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest
from command_material import Running, command
from s3_server import Fault, s3_server

from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, write_corpus
from mutual_forcing.datasets.format.account import SOURCES
from mutual_forcing.datasets.format.clip_table import CLIPS, read_clips
from mutual_forcing.datasets.format.manifest import MANIFEST, SHEET
from mutual_forcing.datasets.places.store import store_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def words(folder: Path) -> list[str]:
    return ["data", "prepare", "synthetic", "--recipe", "tiny", "--out", str(folder / "data"), "--set", "data.synthetic_count=24"]


def kill_a_task(running: Running, name: str) -> bool:
    """SIGKILL to a process that is just running a task with this in its name, if there is one."""
    for pid in running.processes():
        try:
            if (process := psutil.Process(pid)).name().startswith("ray::") and name in process.name():
                process.kill()
                return True
        except psutil.NoSuchProcess:
            pass  # it has ended between the list and the question
    return False


def test_lost_data_tasks_are_done_again(tmp_path: Path) -> None:
    whole, lost = tmp_path / "whole", tmp_path / "data"
    answer = command(*words(tmp_path))
    assert answer.code == 0, answer.error
    lost.rename(whole)
    with Running(*words(tmp_path)) as running:
        for task in ("Look", "MakePart"):
            running.until(lambda task=task: kill_a_task(running, task), 200)
        answer = running.wait(300)
    assert answer.code == 0, answer.error
    assert made(lost) == made(whole)


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("seed", range(4))
def test_a_command_that_is_killed_goes_on_and_makes_the_same(tmp_path: Path, seed: int) -> None:
    """Five times at moments drawn at random: the driver alone, which cannot clean up, with what it started."""
    dice, whole = random.Random(seed), tmp_path / "whole"
    answer = command(*words(tmp_path))
    assert answer.code == 0, answer.error
    (tmp_path / "data").rename(whole)
    for _ in range(5):
        with Running(*words(tmp_path)) as running:
            begun, wait = time.monotonic(), dice.uniform(6, 20)
            running.until(
                lambda begun=begun, wait=wait: time.monotonic() > begun + wait or (tmp_path / "data" / "manifest.json").is_file(), 60
            )
            running.kill()
    answer = command(*words(tmp_path))
    assert answer.code == 0, answer.error
    assert made(tmp_path / "data") == made(whole)


@pytest.mark.parametrize("seed", range(2))
def test_a_command_that_is_killed_on_its_way_into_a_store_makes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """S3 also refuses some of its requests; what is left when the last command ends is the dataset and nothing else."""
    media, dice = tmp_path / "media", random.Random(100 + seed)
    write_corpus(SyntheticConfig(count=12, seconds=2.6, width=32, height=32, seed=seed), media)
    words = ["data", "prepare", str(media), "--recipe", "tiny", "--out"]
    answer = command(*words, str(tmp_path / "whole"))
    assert answer.code == 0, answer.error
    wanted = {row.clip_id: (row.source, row.start_s, row.chunks) for row in read_clips(tmp_path / "whole" / CLIPS)}
    with s3_server(monkeypatch) as s3:
        s3.faults += [Fault("503", "PUT", part, 2) for part in ("shard-", ".part-", "clips", "manifest")]
        store = store_of(f"{s3.uri}/mine")
        for _ in range(3):
            with Running(*words, store.uri) as running:
                begun, wait = time.monotonic(), dice.uniform(6, 25)
                running.until(lambda begun=begun, wait=wait: time.monotonic() > begun + wait or MANIFEST in store.names(), 60)
                running.kill()
        answer = command(*words, store.uri)
        assert answer.code == 0, answer.error
        assert sum("503" in kind for kind, _ in s3.met) >= 4
        rows = read_clips(store.fetch(CLIPS))
        assert {row.clip_id: (row.source, row.start_s, row.chunks) for row in rows} == wanted
        assert len(rows) == len(wanted)
        shards = {row.shard for row in rows}
        assert set(store.names()) == {MANIFEST, SOURCES, CLIPS, SHEET, *shards}
        assert command("data", "audit", store.uri, "--media", str(media)).code == 0
