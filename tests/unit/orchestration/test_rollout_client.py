"""The trainers' end of the pool, without a cluster: what it tells the coordinator, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ray

from mutual_forcing.orchestration import rollout_pool
from mutual_forcing.orchestration.rollout_pool import RolloutClient
from mutual_forcing.workers.wire import Snapshot


class Told:
    """A coordinator whose weights are lost once, as soon as version 1 is on its way; it knows which version was published when."""

    def __init__(self) -> None:
        self.published: list[int] = []
        self.client: Any = None
        self.publish, self.missing = self, self

    def remote(self, attempt: int, version: int | None = None, _: Any = None) -> Any:
        if version is not None:
            if version == 1:
                assert self.client._snapshot.version == 0, "whoever publishes lost weights again must not publish these first"
            self.published.append(version)
        return version


def test_lost_weights_are_never_replaced_by_newer_ones_that_the_trainer_publishes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    told.client = client = RolloutClient(told, clips=2, batch=4, steps=3)
    monkeypatch.setattr(rollout_pool, "_put", lambda snapshot: snapshot)
    monkeypatch.setattr(ray, "get", lambda answer: False if answer is None else answer)
    for version in (0, 1):
        client.publish(Snapshot(version, np.zeros(1, np.uint16), ""))
    assert told.published == [0, 1]
