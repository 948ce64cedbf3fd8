"""What a run says about its rollout pool."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from .actor_options import ray_options, require_gpus


@dataclass(frozen=True)
class RolloutsConfig:
    """The rollout pool.

    actors: its size, or `auto`: as many as keep the trainers busy. min_actors, max_actors: bounds of `auto`. balance_s: seconds on end for
    which `auto` must see a need before it follows it. max_age: optimizer steps a rollout may be old (0 = synchronous). publish_every: steps
    between two weight versions. weights: which ones make rollouts: the averaged ones or the live ones. transport: how weights travel: once
    to each node through Ray's object store, or by Ray's direct transport from the trainers' memory into the actors' (`nixl`, for GPUs on
    both sides or on neither). clips: of a request, generated together (0 = a worker's share of a step). buffer_mb: of finished rollouts
    that wait (0 = no bound). threads: of an actor. cpus, gpus: of an actor, gpus in fractions too. resource: a custom resource of the nodes
    that actors may use, one unit each. straggler: a request goes to another actor too after so many times what nearly all take. deadline_s:
    seconds after which a request is late as long as few have been served, and that an actor may take to start. max_failures: of actors one
    after the other, without a rollout between them, before the training ends.
    """

    actors: int | Literal["auto"] = 2
    min_actors: int = 1
    max_actors: int = 8
    balance_s: float = 30.0
    max_age: int = 2
    publish_every: int = 1
    weights: Literal["ema", "live"] = "ema"
    transport: Literal["object_store", "nixl"] = "object_store"
    clips: int = 0
    buffer_mb: float = 0.0
    threads: int = 1
    cpus: float = 0.0
    gpus: float = 0.0
    resource: str = ""
    straggler: float = 3.0
    deadline_s: float = 600.0
    max_failures: int = 3

    def __post_init__(self) -> None:
        lows = {"threads": 1, "max_age": 0, "publish_every": 1, "clips": 0, "max_failures": 0, "min_actors": 1}
        for name, low in lows.items():
            if getattr(self, name) < low:
                raise ValueError(f"rollouts.{name}={getattr(self, name)}: must be at least {low}")
        if self.actors != "auto" and self.actors < 1:
            raise ValueError(f"rollouts.actors={self.actors}: must be at least 1, or auto")
        if self.max_actors < self.min_actors:
            raise ValueError(f"rollouts.max_actors={self.max_actors}: must be at least rollouts.min_actors={self.min_actors}")
        for name in ("buffer_mb", "cpus", "gpus", "balance_s"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"rollouts.{name}={getattr(self, name)}: must be 0 or more")
        require_gpus("rollouts", self.gpus)
        if not 1 < self.straggler < inf or not 0 < self.deadline_s < inf:
            raise ValueError(f"rollouts.straggler={self.straggler}, rollouts.deadline_s={self.deadline_s}: must be above 1, and above 0")
        if self.publish_every > self.max_age + 1:
            raise ValueError(
                f"rollouts.publish_every={self.publish_every} with rollouts.max_age={self.max_age}: trainers would wait for rollouts that "
                f"wait for weights; set publish_every={self.max_age + 1} at most, or max_age={self.publish_every - 1}"
            )

    @property
    def size(self) -> int:
        """Of the pool at its start."""
        return self.min_actors if self.actors == "auto" else self.actors

    @property
    def most(self) -> int:
        """Of the pool at any time."""
        return self.max_actors if self.actors == "auto" else self.actors

    @property
    def direct(self) -> bool:
        """Weights do not go through the object store."""
        return self.transport != "object_store"

    @property
    def options(self) -> dict[str, Any]:
        """Ray's options of an actor."""
        return ray_options(self)
