"""The courier on a real Ray: a task on a machine that does not share the run folder writes, and the run folder has it."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import ray
from ray.exceptions import RayError

from mutual_forcing.orchestration.away import courier, outpost
from mutual_forcing.orchestration.away.courier import Courier, Machine
from mutual_forcing.orchestration.away.outpost import Outpost, folder_for, forget, told
from mutual_forcing.workers.metrics import MetricSpool

pytestmark = pytest.mark.usefixtures("ray_cluster")


@ray.remote(num_cpus=0)
def _work(run_dir: str, training: str, cache: str, stage: str, hang: bool = False, apart: bool = True) -> str:
    """As a training process that hangs, or one that is killed: it ends without a word. apart: it does not see the driver's folder."""
    from mutual_forcing.workers.metrics import MetricSpool
    from mutual_forcing.workers.watchdog import Watchdog

    os.environ["XDG_CACHE_HOME"] = cache
    with mock.patch.object(outpost, "marker", return_value=Path("/nowhere")) if apart else nullcontext():
        folder = folder_for(Path(run_dir), training, lag=0.0)
    spool = MetricSpool(folder / "metrics", stage)
    for step in range(3):
        spool.write(step, {"loss": float(step)})
    if hang:
        with Watchdog(folder / "stacks", 0, 0.2):
            time.sleep(60)
    return str(folder)


work: Any = _work


def ends(deadline: float, is_so) -> bool:
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_so()


def test_what_is_written_elsewhere_comes_while_it_trains_and_at_its_end(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    run.mkdir()
    with Courier(run, "fit-1", pytest.fail):
        folder = Path(ray.get(work.remote(str(run), "fit-1", str(cache), "joint")))
        assert folder.parent == cache / "mutual-forcing" / "away"
        assert ends(time.monotonic() + 60, (run / "metrics" / "joint.jsonl").is_file)
        with pytest.raises(RayError):
            ray.get(work.options(max_retries=0).remote(str(run), "fit-1", str(cache), "mutual", True))
    for stage in ("joint", "mutual"):
        assert (run / "metrics" / f"{stage}.jsonl").read_bytes().count(b"\n") == 3
    assert "no step ended for" in (run / "stacks" / "rank-0.txt").read_text()
    assert not folder.exists()
    assert told(run) == []
    assert not list(run.glob(".fit-*"))


def test_a_machine_that_shares_the_folder_writes_there(tmp_path: Path) -> None:
    with Courier(tmp_path, "fit-2", pytest.fail):
        assert ray.get(work.remote(str(tmp_path), "fit-2", str(tmp_path / "cache"), "joint", False, False)) == str(tmp_path)
        assert told(tmp_path) == []
    assert (tmp_path / "metrics" / "joint.jsonl").read_bytes().count(b"\n") == 3
    assert not (tmp_path / "cache").exists()


def test_what_a_killed_driver_had_not_fetched_is_fetched_by_the_next(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "metrics").mkdir(parents=True)
    folder = Path(ray.get(work.remote(str(run), "fit-7", str(tmp_path / "cache"), "joint")))  # no driver: no marker
    lines = (folder / "metrics" / "joint.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics" / "joint.jsonl").write_bytes(lines[0])
    assert [said.training for said in told(run)] == ["fit-7"]
    with Courier(run, "fit-8", pytest.fail):
        assert (run / "metrics" / "joint.jsonl").read_bytes() == b"".join(lines)
        assert told(run) == []


def test_what_a_killed_driver_left_is_not_taken_for_its_successor(tmp_path: Path) -> None:
    (tmp_path / ".fit-3").touch()
    with Courier(tmp_path, "fit-4", pytest.fail):
        folder = ray.get(work.remote(str(tmp_path), "fit-3", str(tmp_path / "cache"), "joint", False, False))
        assert str(folder) != str(tmp_path)
    assert not (tmp_path / "metrics").exists()


def test_ranks_that_begin_at_once_remove_what_nobody_fetched_and_nothing_that_is_written_to(tmp_path: Path) -> None:
    away, long_ago = tmp_path / "mutual-forcing" / "away", time.time() - 8 * 86400
    for i in range(40):
        (away / f"fit-{i}" / "logs").mkdir(parents=True)
        os.utime(away / f"fit-{i}" / "logs", (long_ago, long_ago))
    (away / "fit-0" / "logs" / "rank-00000.jsonl").touch()  # of a training that takes longer
    for i in range(40):
        os.utime(away / f"fit-{i}", (long_ago, long_ago))
    ranks = [work.remote(str(tmp_path / "other"), "fit-5", str(tmp_path), f"stage-{i}") for i in range(4)]
    (folder,) = {Path(str(name)) for name in ray.get(ranks)}
    assert sorted(away.iterdir()) == sorted([away / "fit-0", folder])
    forget(tmp_path / "other")


def test_a_machine_that_is_silent_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(Outpost):
        """On a machine that hangs, or has much to do."""

        def __init__(self, folder: str, seconds: float) -> None:
            super().__init__(folder)
            self._seconds = seconds

        def begun(self) -> None: ...

        def news(self, have):
            time.sleep(self._seconds)
            return super().news(have)

    monkeypatch.setattr(courier, "PATIENCE", 5.0)
    said: list[str] = []
    MetricSpool(tmp_path / "b" / "metrics", "joint").write(0, {"loss": 1.0})
    (tmp_path / "run").mkdir()
    late = ray.remote(Late).options(num_cpus=0)
    actors: dict[str, Any] = {name: late.remote(str(tmp_path / name), seconds) for name, seconds in (("a", 600), ("b", 0.5))}
    ray.get([actor.begun.remote() for actor in actors.values()])
    with Courier(tmp_path / "run", "fit-6", said.append) as one:
        one._machines.update({name: Machine(name, str(tmp_path / name), actor) for name, actor in actors.items()})
    assert (tmp_path / "run" / "metrics" / "joint.jsonl").is_file()
    assert not (tmp_path / "b").exists()
    (text,) = said
    assert "machine a: what its training processes wrote since it began" in text
