"""The trainers' side of the rollout pool: a `RolloutSource` that speaks to the coordinator actor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..datasets.reading.order import rank_positions
from ..model.types import Rollout
from ..workers.rollout_actor import RolloutActor
from ..workers.wire import Snapshot, rollout_from_arrays
from .coordinator import Coordinator
from .elastic.change import Change
from .pool_attempt import PoolPlan
from .rollout_buffer import consumers_of, per_step_of, requests_of
from .rollout_crew import RayActors
from .rollouts_config import RolloutsConfig

Arrays = Mapping[str, np.ndarray]
T = TypeVar("T")
ANSWER = 30.0  # seconds


class RolloutClient:
    """Publishes snapshots through the object store and takes rollouts; one instance travels to every train worker. clips: of a request;
    steps: of the stage.
    """

    def __init__(self, coordinator: Any, clips: int, batch: int, steps: int) -> None:
        self._coordinator, self._clips, self._batch, self._steps = coordinator, clips, batch, steps
        self._attempt, self._world = 0, 1
        self._ahead: dict[tuple[int, int], Future[Rollout]] = {}  # (step, rank) -> what comes while the trainer computes
        self._given: float | None = None  # when the last rollout was
        self._published: Any = None  # the answer to the last publication
        self._snapshot: Snapshot | None = None
        self._keeper: threading.Thread | None = None

    def join(self, rank: int, first: int, saved: Mapping[int, Arrays]) -> None:
        """Begin an attempt of the mutual stage at step `first`: all ranks call it together. Earlier attempts are over with it. saved:
        rollouts that a checkpoint kept, by the position of their first clip.
        """
        number: list[int] = [0]
        if rank == 0:
            kept = {p // self._clips: arrays for p, arrays in saved.items() if p % self._clips == 0 and _clips_of(arrays) == self._clips}
            given = {i: (int(a["versions"].min()), int(a["versions"].max()), _bytes(a), [ray.put(dict(a))]) for i, a in kept.items()}
            number = [ray.get(self._coordinator.begin.remote(first, given))]
        dist.broadcast_object_list(number)
        self.enter(number[0], dist.get_world_size())

    def enter(self, attempt: int, world: int) -> None:
        """Take part in an attempt that has begun, as one of `world` ranks."""
        self._attempt, self._world = attempt, world
        self._ahead, self._given = {}, None

    def publish(self, snapshot: Snapshot) -> None:
        """Put once; through the object store a node fetches it once, and its actors read the same buffer."""
        if self._keeper is None or not self._keeper.is_alive():
            self._keeper = threading.Thread(target=self._keep, args=(self._attempt,), daemon=True, name="weights")
            self._keeper.start()
        self._heard()
        self._published = self._coordinator.publish.remote(self._attempt, snapshot.version, [_put(snapshot)])
        self._snapshot = snapshot  # after that: the keeper must not publish it first

    def _keep(self, attempt: int) -> None:
        """Publish weights once more where they got lost. In a thread of its own: this rank may be waiting for others that wait for them."""
        with suppress(RayError, ValueError):  # a coordinator that is gone, or has another attempt, is told of by `take`
            while ray.get(self._coordinator.missing.remote(attempt)):
                snapshot = self._snapshot
                if snapshot is None:
                    continue
                try:
                    reference = _put(snapshot)
                except Exception as error:  # noqa: BLE001  whatever it is, those who wait for the weights have to hear of it
                    ray.get(self._coordinator.give_up.remote(attempt, f"weights could not be published once more ({error})"))
                    return
                with suppress(ValueError):  # a newer one was published meanwhile
                    ray.get(self._coordinator.publish.remote(attempt, snapshot.version, [reference]))

    def take(self, step: int, rank: int) -> Rollout:
        """Blocks until the rollout is there; raises what stopped the pool. The next step's comes while the trainer computes."""
        trained_s = None if self._given is None else time.monotonic() - self._given
        made = self._ahead.pop((step, rank), None) or self._ask(step, rank)
        if not made.done():
            self._heard()  # who waits for weights that did not arrive waits for ever
        rollout, had = made.result(), list(self._requests(step, rank))
        if step + 1 < self._steps:
            self._ahead[step + 1, rank] = self._ask(step + 1, rank, had, trained_s)
        else:  # nothing depends on the answer any more
            self._coordinator.take.remote(self._attempt, [], rank, had, trained_s)
        self._given = time.monotonic()
        return rollout

    def _ask(self, step: int, rank: int, *had: Any) -> Future[Rollout]:
        """A step's rollout, read in a thread of its own. had: what the coordinator is told of the step before."""
        attempt = self._attempt
        return _beside(lambda: self._made(attempt, step, rank, *had))

    def _made(self, attempt: int, step: int, rank: int, *had: Any) -> Rollout:
        found: dict[int, Arrays] = {}
        while open_ := [i for i in self._requests(step, rank) if i not in found]:
            made = ray.get(self._coordinator.take.remote(attempt, open_, rank, *had))
            had = ()
            for request, (number, _), arrays in zip(open_, made, _fetched([payload for _, payload in made]), strict=True):
                if arrays is None:  # its node is gone
                    ray.get(self._coordinator.lost.remote(attempt, request, number))
                else:
                    found[request] = arrays
        positions, first = rank_positions(step, self._batch, rank, self._world), min(found) * self._clips
        whole = rollout_from_arrays(*(found[i] for i in sorted(found)))
        return whole.clips(slice(positions.start - first, positions.stop - first))

    def _requests(self, step: int, rank: int) -> range:
        return requests_of(rank_positions(step, self._batch, rank, self._world), self._clips)

    def _heard(self) -> None:
        """Raise what became of the last publication, if it failed."""
        if self._published is not None:
            ray.get(self._published)
            self._published = None

    def held(self, first: int, rank: int) -> dict[int, Arrays]:
        """This rank's share of the finished rollouts of steps from `first` on, by the position of their first clip."""
        try:
            kept = ray.get(self._coordinator.held.remote(self._attempt, first, rank, self._world))
        except RayActorError:  # a coordinator that is gone must not cost the checkpoint too
            return {}
        found = _fetched([payload for *_, (payload,) in kept])  # what is lost is made again, as it would have been without the checkpoint
        return {request * self._clips: arrays for (request, *_), arrays in zip(kept, found, strict=True) if arrays is not None}

    def figures(self) -> dict[str, float]:
        """What the pool does; nothing where it is gone, which `take` tells."""
        try:
            return ray.get(self._coordinator.status.remote())
        except RayActorError:
            return {}

    def changes(self, since: int) -> tuple[int, list[Change], int]:
        """What became of the pool's actors, from change number `since` on, after the number of the next one; and how many there are.

        Raises:
            RayError: the coordinator is gone, or silent.
        """
        return ray.get(self._coordinator.changes.remote(since), timeout=ANSWER)

    def serves(self) -> bool:
        """Whether the coordinator is there."""
        try:
            ray.get(self._coordinator.status.remote(), timeout=ANSWER)
        except (RayError, GetTimeoutError):
            return False
        return True

    def close(self) -> None:
        """End the coordinator, and its actors with it."""
        if ray.is_initialized():  # or it would begin a cluster
            with suppress(RayError, ValueError):
                ray.kill(self._coordinator)


def start_pool(actor: Any, config: RolloutsConfig, ranks: int, batch: int, steps: int, kind: type = RolloutActor) -> RolloutClient:
    """Start the coordinator, on this machine; it starts actors, of class `kind` and made with `actor`, with the first published version.

    Raises:
        ValueError: requests do not fit a step or the ranks.
    """
    local = batch // ranks
    clips = config.clips or local
    plan = PoolPlan(clips, per_step_of(batch, clips), consumers_of(local, clips), steps)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # on no machine that a cloud takes back
    options = {"num_cpus": 0, "max_concurrency": 2 * ranks + 8, "scheduling_strategy": here}
    remote: Any = ray.remote(Coordinator).options(**options)
    return RolloutClient(remote.remote(RayActors(kind, actor, config.options), config, plan), clips, batch, steps)


@dataclass(frozen=True)
class NoRollouts:
    """The source of a run whose objective reads none."""

    def join(self, rank: int, first: int, saved: Mapping[int, Arrays]) -> None:
        pass

    def publish(self, snapshot: Any) -> None:
        raise AssertionError("no stage of this run publishes weights")

    def take(self, step: int, rank: int) -> Any:
        raise AssertionError("no stage of this run takes rollouts")

    def held(self, first: int, rank: int) -> dict[int, Arrays]:
        return {}

    def figures(self) -> dict[str, float]:
        return {}

    def changes(self, since: int) -> tuple[int, list[Change], int]:
        return since, [], 0

    def serves(self) -> bool:
        return True

    def close(self) -> None:
        pass


def _beside(work: Callable[[], T]) -> Future[T]:
    """Have it done in a thread that no process waits for at its end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  whoever asks for the result is told
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="rollouts").start()
    return future


def _put(snapshot: Snapshot) -> ray.ObjectRef:
    """For the object store, or to be read where it is: then its memory must not go before the reference."""
    return ray.put(snapshot, _tensor_transport="nixl") if isinstance(snapshot.data, torch.Tensor) else ray.put(snapshot)


def _fetched(payloads: Sequence[ray.ObjectRef]) -> list[Arrays | None]:
    """What the payloads hold, None where a node took one with it: together, because each `get` alone asks the owner."""
    try:
        return list(ray.get(list(payloads)))
    except ObjectLostError:
        if len(payloads) == 1:
            return [None]
        return [arrays for payload in payloads for arrays in _fetched([payload])]


def _clips_of(arrays: Arrays) -> int:
    return next(len(x) for name, x in sorted(arrays.items()) if name.startswith("history_"))


def _bytes(arrays: Arrays) -> int:
    return sum(x.nbytes for x in arrays.values())
