"""Machines that are asked before a run: all have one time, and the silent ones are named."""

from __future__ import annotations

import time

import pytest
import ray

from mutual_forcing.orchestration.jobs import probe
from mutual_forcing.orchestration.jobs.probe import INSTALL_S, NODE_S, Asked, answers_of, look, patience_of


@ray.remote(num_cpus=0)
def says(seconds: float) -> dict:
    time.sleep(seconds)
    return {"problems": [], "differing": {}}


@ray.remote(num_cpus=0)
def fails() -> dict:
    raise OSError("no room")


def test_the_silent_are_named_after_one_time_for_all(ray_cluster: str) -> None:
    ray.get(says.remote(0))
    begun = time.monotonic()
    waiting = {"quick": says.remote(0), "broken": fails.remote()} | {f"silent {i}": says.remote(600) for i in range(3)}
    found, silent = answers_of(waiting, 6.0)
    assert silent == ["silent 0", "silent 1", "silent 2"]
    assert found["quick"]["problems"] == []
    assert "no room" in found["broken"]["problems"][0]
    assert time.monotonic() - begun < 15, "6 s for all, not for each"
    for name in silent:
        ray.cancel(waiting[name], force=True)


def test_one_that_does_not_answer_is_a_problem_of_the_run(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_myself", lambda *_: time.sleep(5))
    (problem,) = look(Asked("tiny", [], None, None, "/nowhere", {}, 0.1)).problems
    (node,) = [n for n in ray.nodes() if n["Alive"]]
    assert problem.startswith(f"1 machines did not answer within 0 s ({node['NodeManagerAddress']} ({node['NodeID'][:8]}))")


def test_installing_has_its_own_time() -> None:
    assert (patience_of(False), patience_of(True)) == (NODE_S, NODE_S + INSTALL_S)
