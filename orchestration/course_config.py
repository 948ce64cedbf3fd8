"""What a run says about the evaluations that are made while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from .actor_options import ray_options, require_gpus


@dataclass(frozen=True)
class CourseConfig:
    """Evaluations of checkpoints while training goes on, by an actor of their own.

    every: steps of a stage between two (0 = none), a multiple of checkpoint.every; the end of a stage is evaluated too. clips: held-out
    clips that are generated again each time, with the same noise. seconds: of each (0 = as long as the data's). metrics: groups of figures,
    as `evaluate --metrics` names them. best: the figure by which the best checkpoint of a stage is chosen, which is kept; `RUN@best`
    names it. threads: of the actor. cpus, gpus: of the actor, gpus in fractions too. resource: a custom resource of the nodes that it may
    use. deadline_s: seconds after which an evaluation is given up.
    """

    every: int = 0
    clips: int = 8
    seconds: float = 0.0
    metrics: tuple[str, ...] = ("sync", "latents", "motion", "drift", "faults")
    best: str = "frechet_latent_joint"
    threads: int = 1
    cpus: float = 0.0
    gpus: float = 0.0
    resource: str = ""
    deadline_s: float = 1800.0

    def __post_init__(self) -> None:
        for name, low in (("every", 0), ("clips", 1), ("threads", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"course.{name}={getattr(self, name)}: must be at least {low}")
        for name in ("seconds", "cpus", "gpus"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"course.{name}={getattr(self, name)}: must be 0 or more")
        if self.seconds > 600:
            raise ValueError(f"course.seconds={self.seconds}: must be 600 at most")
        require_gpus("course", self.gpus)
        if not 0 < self.deadline_s < inf:
            raise ValueError(f"course.deadline_s={self.deadline_s}: must be above 0")
        if not self.metrics or not self.best:
            raise ValueError(f"course.metrics={list(self.metrics)}, course.best={self.best!r}: name at least one group, and a figure of it")

    @property
    def options(self) -> dict[str, Any]:
        """Ray's options of the actor."""
        return ray_options(self)
