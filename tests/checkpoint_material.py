"""Checkpoints for tests, written as training writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mutual_forcing.datasets.ledger import Update
from mutual_forcing.datasets.places.store import Store, store_of
from mutual_forcing.workers.checkpoint import folder_of
from mutual_forcing.workers.checkpoint_writer import CheckpointWriter, Share, State
from mutual_forcing.workers.pieces import shapes_of, whole_pieces
from mutual_forcing.workers.retention import CheckpointConfig

ATTEMPT = "0123abcd"


def state_of(stage: str, step: int, steps: int, network: dict[str, Any], roles: tuple[str, ...]) -> State:
    return State(stage, step, steps, 4, network, dict.fromkeys(roles, step), seconds=1.25, samples=4 * step, row=0)


def save_checkpoint(
    where: Path | Store,
    stage: str,
    step: int,
    steps: int,
    network: dict[str, Any],
    weights: dict[str, dict[str, Tensor]],
    attempt: str = ATTEMPT,
    updates: list[Update] | None = None,
    about: dict[str, Any] | None = None,
) -> str:
    """A checkpoint of one process, committed; its folder in the store."""
    store = store_of(where) if isinstance(where, Path) else where
    writer = CheckpointWriter(store, CheckpointConfig(patience_s=0), 0, 1, attempt, step if updates is None else 0, None, print)
    pieces = {role: whole_pieces(w.items(), 0, 1) for role, w in weights.items()}
    shapes = {role: shapes_of(w.items()) for role, w in weights.items()}
    state = replace(state_of(stage, step, steps, network, tuple(weights)), about=about or {})
    writer.save(state, Share(pieces, shapes, updates or []))
    writer.finish()
    return folder_of(stage, step, attempt)


def save_stage(
    where: Path | Store, stage: str, steps: int, network: dict[str, Any], weights: dict[str, dict[str, Tensor]], attempt: str = ATTEMPT
) -> str:
    """The checkpoint that a finished stage leaves."""
    return save_checkpoint(where, stage, steps, steps, network, weights, attempt)
