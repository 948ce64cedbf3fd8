"""Ray Data beside actors that hold CPUs: it plans with what is left, and where nothing is left it says so and goes on when there is."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import ray
from ray.data import DataContext, ExecutionResources

from mutual_forcing.datasets.preparing import share


@ray.remote
class Holder:
    def ready(self) -> bool:
        return True


def held(cpus: int) -> Any:
    kind: Any = Holder
    holder = kind.options(num_cpus=cpus).remote()
    assert ray.get(holder.ready.remote(), timeout=60)
    return holder


def limit() -> float | None:
    return DataContext.get_current().execution_options.resource_limits.cpu


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_what_others_hold_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataContext.get_current().execution_options, "resource_limits", ExecutionResources.for_limits())
    cpus, told = int(ray.cluster_resources()["CPU"]), list[str]()
    share.leave_to_others(lambda stage, *_: told.append(stage))
    holder = held(cpus - 1)
    try:
        share.leave_to_others(lambda stage, *_: told.append(stage))
        assert limit() == 1
        assert ray.data.range(8, override_num_blocks=4).map(lambda row: {"id": row["id"] + 1}).sum("id") == sum(range(1, 9))
    finally:
        ray.kill(holder)
    assert not told


@pytest.mark.usefixtures("ray_cluster")
def test_where_nothing_is_left_it_says_so_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "PATIENCE", 0.2)
    monkeypatch.setattr(DataContext.get_current().execution_options, "resource_limits", ExecutionResources.for_limits())
    cpus, told = int(ray.cluster_resources()["CPU"]), list[str]()
    holder, heard = held(cpus), threading.Event()

    def progress(stage: str, *_: int) -> None:
        told.append(stage)
        heard.set()

    def free() -> None:
        assert heard.wait(60)
        ray.kill(holder)

    other = threading.Thread(target=free)
    other.start()
    share.leave_to_others(progress)
    other.join()
    assert f"{cpus} of {cpus} are reserved by others" in told[0]
