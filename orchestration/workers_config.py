"""What a run says about the processes that train."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class WorkersConfig:
    """The processes that train.

    count: how many of Ray Train's workers; min_count: with how few it goes on where machines are missing (0 = no fewer than count), until
    they come; resize_every_s: seconds that it trains at least before it stops to grow; threads: torch threads of each; use_gpu: a GPU for
    each of them, and NCCL between them; gpus: how much of it the only worker takes where rollout actors are to have the rest (a machine
    with one GPU); resource: a custom resource of the nodes that they may use, one unit each; max_failures: restarts of the training within
    `workers.failure_window_s`, or without a new checkpoint between them, before the run fails; failure_window_s: seconds within which they
    are counted; step_deadline_s: seconds after which a step counts as hung (0 = never); max_bad_steps: steps in a row that may be skipped
    because a loss or gradient is not finite.
    """

    count: int = 2
    min_count: int = 0
    resize_every_s: float = 600.0
    threads: int = 1
    use_gpu: bool = False
    gpus: float = 1.0
    resource: str = ""
    max_failures: int = 3
    failure_window_s: float = 3600.0
    step_deadline_s: float = 1800.0
    max_bad_steps: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.failure_window_s < inf or not 0 <= self.step_deadline_s < inf:
            raise ValueError(
                f"workers.failure_window_s={self.failure_window_s}, workers.step_deadline_s={self.step_deadline_s}: must be seconds, the "
                "window more than 0"
            )
        if not 0 < self.gpus <= 1 or (self.gpus < 1 and self.count > 1):
            raise ValueError(
                f"workers.gpus={self.gpus} with workers.count={self.count}: must be 1, or a share of a GPU (0.5) for a single worker; NCCL "
                "refuses two on one GPU"
            )
        for name, low in (("count", 1), ("min_count", 0), ("threads", 1), ("max_failures", 0), ("max_bad_steps", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"workers.{name}={getattr(self, name)}: must be at least {low}")
        if self.min_count > self.count:
            raise ValueError(f"workers.min_count={self.min_count}: must be at most workers.count={self.count}, or 0 for just as many")
        if not 0 <= self.resize_every_s < inf:
            raise ValueError(f"workers.resize_every_s={self.resize_every_s}: must be seconds, 0 or more")

    @property
    def least(self) -> int:
        """How many train at any time."""
        return self.min_count or self.count
