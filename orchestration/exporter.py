"""Training's metrics for Prometheus, through Ray: what a worker or the driver records here, Ray's agent on its node serves over HTTP.

The agent comes with `ray[default]`; where it is not installed the records go nowhere, and training does not notice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import isfinite

from ray.util.metrics import Counter, Gauge, Histogram, Metric

PREFIX = "mutual_forcing_"
EVERY = 1.0  # seconds between two looks at the gauges
TAGS = ("run", "stage")
BOUNDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]  # seconds
GAUGES = {
    "lr": ("lr", "Learning rate"),
    "grad_norm": ("grad_norm", "Gradient norm before clipping"),
    "samples_per_s": ("samples_per_second", "Clips a second within steps, all ranks"),
    "tokens_per_s": ("tokens_per_second", "Predicted tokens a second within steps, all ranks"),
    "mfu": ("mfu", "Share of the device's peak FLOP/s"),
    "comm_s": ("communication_seconds", "Seconds of the newest metered step within collectives"),
}
"""Metric of the spool -> name and description."""
SPENT = {"step_s": "step", "data_wait_s": "data_wait", "rollout_wait_s": "rollout_wait", "checkpoint_s": "checkpoint"}


class Exporter:
    """An observer of the training loop. Gauges follow the newest step once a second, those of metered steps every one; counters miss none.

    restarts: of the training so far.
    """

    def __init__(self, run: str, restarts: int) -> None:
        self._run, self._restarts, self._looked = run, float(restarts), float("-inf")
        self._gauges = {key: _gauge(name, text) for key, (name, text) in GAUGES.items()}
        self._step = _gauge("step", "Optimizer steps of the stage that are done")
        self._begun_again = _gauge("restarts", "Restarts of the training by this command")
        self._loss = _gauge("loss", "Loss: the sum, and its parts", "part")
        self._share = _gauge("step_share", "Share of the newest metered step's time", "part")
        self._age = _gauge("rollout_age_steps", "Age of the rollouts in a step", "bound")
        self._duration = Histogram(f"{PREFIX}step_seconds", "Seconds of a step", BOUNDS, TAGS)
        self._spent = Counter(f"{PREFIX}spent_seconds", "Seconds by what training spent them on", (*TAGS, "part"))
        self._skipped = Counter(f"{PREFIX}skipped_steps", "Steps that were skipped", TAGS)

    def metrics(self) -> list[Metric]:
        """All that it exports."""
        own = [self._step, self._begun_again, self._loss, self._share, self._age, self._duration, self._spent, self._skipped]
        return [*self._gauges.values(), *own]

    def __call__(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """A step has ended."""
        finite, tags = {name: value for name, value in metrics.items() if isfinite(value)}, {"run": self._run, "stage": stage}
        self._duration.observe(finite["step_s"], tags)
        for name, part in SPENT.items():
            _add(self._spent, finite.get(name, 0.0), {**tags, "part": part})
        _add(self._skipped, float(finite.get("skipped", 0.0) > 0), tags)
        if (now := time.monotonic()) - self._looked >= EVERY or "comm_s" in finite or any(name.startswith("share/") for name in finite):
            self._looked = now
            self._look(step, finite, tags)

    def _look(self, step: int, metrics: Mapping[str, float], tags: dict[str, str]) -> None:
        self._step.set(step + 1.0, tags)
        self._begun_again.set(self._restarts, tags)
        ages = [float(name.removeprefix("age/")) for name in metrics if name.startswith("age/")]
        for bound, value in (("lowest", min(ages)), ("highest", max(ages))) if ages else ():
            self._age.set(value, {**tags, "bound": bound})
        for name, value in metrics.items():
            if name in GAUGES:
                self._gauges[name].set(value, tags)
            elif name in ("loss", "dmd") or name.startswith("loss/"):
                self._loss.set(value, {**tags, "part": "sum" if name == "loss" else name.removeprefix("loss/")})
            elif name.startswith("share/"):
                self._share.set(value, {**tags, "part": name.removeprefix("share/")})


class ChangeExporter:
    """What the driver knows: how many workers, rollout actors and nodes there are, and how often that has changed."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._size = Gauge(f"{PREFIX}size", "Workers, rollout actors and nodes", ("run", "kind"))
        self._changes = Counter(f"{PREFIX}changes", "Changes of workers, rollout actors and nodes", ("run", "kind"))

    def metrics(self) -> list[Metric]:
        """All that it exports."""
        return [self._size, self._changes]

    def show(self, kind: str, count: int) -> None:
        """There are so many now."""
        self._size.set(float(count), {"run": self._run, "kind": kind})

    def changed(self, kind: str, count: int) -> None:
        """There are so many after a change."""
        self.show(kind, count)
        self._changes.inc(1.0, {"run": self._run, "kind": kind})


def _gauge(name: str, text: str, *tags: str) -> Gauge:
    return Gauge(f"{PREFIX}{name}", text, (*TAGS, *tags))


def _add(counter: Counter, amount: float, tags: dict[str, str]) -> None:
    if amount > 0:  # Ray refuses to count nothing
        counter.inc(amount, tags)
