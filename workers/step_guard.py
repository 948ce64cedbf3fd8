"""Counts skipped steps in a row. When they are too many, every rank that is to blame saves its step for replay, and all ranks stop."""

from __future__ import annotations

import math
import shlex
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
from safetensors import SafetensorError

from ..model.types import AVBatch, Rollout
from .bad_step import BadStep, Header, Origin, bad_step_path, save_bad_step
from .checkpoint import Weights
from .train_step import Metrics

T = TypeVar("T")

SHOWN = 8  # sample ids in the message; the file has all of them


@dataclass(frozen=True)
class Blame:
    """What one rank tells the others. saved: its file; failed: why there is none. Both None: it was not asked to save."""

    rank: int
    bad: tuple[str, ...]
    sample_ids: tuple[str, ...]
    saved: Path | None = None
    failed: str | None = None


class StepGuard:
    """Watches one stage on one rank; every rank calls `see` after every step.

    folder, run_dir: where files of steps are written, and the run folder, where people find them; weights: the stage's weights by role.
    It is collective, so all ranks call it; it returns nothing where `keep` is False. row: steps skipped in a row so far.
    """

    def __init__(
        self,
        folder: Path,
        run_dir: Path,
        origin: Origin,
        max_bad_steps: int,
        weights: Callable[[bool], dict[str, Weights]],
        row: int = 0,
    ) -> None:
        self._folder, self._run_dir, self._origin, self._most, self._weights = folder, run_dir, origin, max_bad_steps, weights
        self.row = row

    def see(self, step: int, metrics: Metrics, skipped: bool, batch: AVBatch, rollout: Rollout | None) -> None:
        """Count a step. metrics: this rank's own; skipped: theta's step or one of the fake score's, on all ranks alike.

        Raises:
            FloatingPointError: more than `max_bad_steps` were skipped in a row; it names the parts, the clips and the files.
        """
        self.row = self.row + 1 if skipped else 0
        if self.row <= self._most:
            return
        own = offending(metrics)
        if not any(of_all(own)):  # every loss is finite: the gradients are sums over all ranks, so any of them may be to blame
            own = _not_finite(metrics, ("grad_norm",)) or ("grad_norm",)
        weights = self._weights(bool(own))
        blame = Blame(self._origin.rank, own, batch.sample_ids)
        if own:
            header = Header(self._origin, step, own, batch.positions, batch.sample_ids, batch.layout.chunks, batch.chunks_B)
            blame = self._save(blame, BadStep(header, batch, rollout, weights))
        raise FloatingPointError(self._told(step, [b for b in of_all(blame) if b.bad]))

    def _save(self, blame: Blame, bad: BadStep) -> Blame:
        """The file's fate is told and never raised: a full disk must not hide why the run stops."""
        path, failed = bad_step_path(self._run_dir, self._origin, bad.header.step), None
        try:
            save_bad_step(bad_step_path(self._folder, self._origin, bad.header.step), bad)
        except (OSError, SafetensorError, ValueError) as error:
            failed = " ".join(str(error).split())
        return Blame(blame.rank, blame.bad, blame.sample_ids, None if failed else path, failed)

    def _told(self, step: int, blames: Sequence[Blame]) -> str:
        one = next((b for b in blames if b.rank == self._origin.rank), blames[0])
        clips = ", ".join(one.sample_ids[:SHOWN]) + (f" and {len(one.sample_ids) - SHOWN} more" if len(one.sample_ids) > SHOWN else "")
        saved = next((b.saved for b in (one, *blames) if b.saved is not None), None)
        if saved is None:
            file = f"its batch could not be saved ({one.failed})"
        else:
            others = [b.saved.name for b in blames if b.saved is not None and b.saved != saved]
            beside = f" (beside it: {', '.join(others[:3])}{' and more' if len(others) > 3 else ''})" if others else ""
            apart = (
                f" (if it has not come there, it is in {self._folder} of {socket.gethostname()})" if self._folder != self._run_dir else ""
            )
            file = f"find the cause with: {shlex.join(['mutual-forcing', 'replay', str(saved)])}{beside}{apart}"
        return (
            f"stage {self._origin.stage!r}, step {step}, rank {one.rank}: {', '.join(one.bad)} not finite, {self.row} steps in a row "
            f"skipped (workers.max_bad_steps={self._most}); clips {clips}; {file}; then lower stages.{self._origin.stage}.optimizer.lr or "
            "repair the data"
        )


def offending(metrics: Metrics) -> tuple[str, ...]:
    """Names of this rank's losses, and of its gradients by part where they were measured, that are not finite."""
    return _not_finite(metrics, ("loss/", "grad/"))


def _not_finite(metrics: Metrics, prefixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(n for n in sorted(metrics) if n.startswith(prefixes) and not math.isfinite(float(metrics[n])))


def of_all(value: T) -> list[T]:
    """The values of all ranks; every rank must call it."""
    gathered: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered
