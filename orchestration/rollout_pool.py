"""The trainers' side of the rollout pool: a `RolloutSource` that speaks to the coordinator actor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
import torch.distributed as dist

from ..model.types import Rollout
from ..workers.rollout_actor import RolloutActorConfig
from ..workers.wire import Snapshot, rollout_from_arrays
from .coordinator import Coordinator


class RolloutClient:
    """Publishes snapshots through the object store and takes rollouts; one instance travels to every train worker."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self._attempt = 0

    def join(self, rank: int, first: int) -> None:
        """Begin an attempt of the mutual stage at step `first`: all ranks call it together. Earlier attempts are over with it."""
        number = [ray.get(self._coordinator.begin.remote(first)) if rank == 0 else 0]
        dist.broadcast_object_list(number)
        self._attempt = number[0]

    def publish(self, snapshot: Snapshot) -> None:
        """Put once; the actors read the same buffer."""
        ray.get(self._coordinator.publish.remote(self._attempt, snapshot.version, [ray.put(snapshot)]))

    def take(self, step: int, rank: int) -> Rollout:
        """Blocks until the rollout is there; raises what stopped the pool."""
        (payload,) = ray.get(self._coordinator.take.remote(self._attempt, step, rank))
        return rollout_from_arrays(ray.get(payload))


def start_pool(
    actor: RolloutActorConfig, actors: int, ranks: int, local: int, steps: int, max_age: int, max_failures: int
) -> RolloutClient:
    """Start the coordinator; it starts the actors with the first published version."""
    options = {"num_cpus": 0, "max_concurrency": 2 * ranks + 8}
    remote: Any = ray.remote(Coordinator).options(**options)
    return RolloutClient(remote.remote(actor, actors, ranks, local, steps, max_age, max_failures))


@dataclass(frozen=True)
class NoRollouts:
    """The source of a run without a mutual stage."""

    def join(self, rank: int, first: int) -> None:
        pass

    def publish(self, snapshot: Any) -> None:
        raise AssertionError("no stage of this run publishes weights")

    def take(self, step: int, rank: int) -> Any:
        raise AssertionError("no stage of this run takes rollouts")
