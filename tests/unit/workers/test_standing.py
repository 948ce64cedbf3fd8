"""The best checkpoint of a stage: it stays, and so does what is still to be judged; what lies in the store is not trusted."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from checkpoint_material import ATTEMPT, save_checkpoint

from mutual_forcing.datasets.places.store import LocalStore, write_bytes
from mutual_forcing.workers.checkpoint import folder_of, found_in
from mutual_forcing.workers.retention import CheckpointConfig, prune
from mutual_forcing.workers.standing import Standing, best_of, read_standing, write_standing

STAGE, STEPS = "joint", 100


def steps(store: LocalStore) -> list[int]:
    return [f.step for f in found_in(store, STAGE) if f.complete]


def test_the_best_and_what_waits_stay(tmp_path: Path) -> None:
    store, config = LocalStore(tmp_path), CheckpointConfig(keep_last=1)
    write_standing(store, STAGE, Standing(20, "sync_gap", judged=20, path=folder_of(STAGE, 20, ATTEMPT), step=20, value=0.3))
    for step in range(10, 100, 10):
        save_checkpoint(store, STAGE, step, STEPS, {}, {"ema": {"w": torch.zeros(2)}})  # which keeps two
    assert steps(store) == [20, 60, 80, 90], "the last two; the best; of those that wait the two newest"
    assert best_of(store, [STAGE]).step == 20
    write_standing(store, STAGE, Standing(20, "sync_gap", judged=80, trying=folder_of(STAGE, 60, ATTEMPT)))
    prune(store, config, STAGE, STEPS, ATTEMPT, 90)
    assert steps(store) == [60, 90], "the one that is being judged"
    write_standing(store, STAGE, Standing(0, "sync_gap"))
    prune(store, config, STAGE, STEPS, ATTEMPT, 90)
    assert steps(store) == [90]


GOOD = asdict(Standing(20, "sync_gap", "8 clips", 20, "", f"{STAGE}/00000020-{ATTEMPT}", 20, 0.3))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 10**5,
        b"{}",
        json.dumps(GOOD | {"path": "../../etc"}).encode(),
        json.dumps(GOOD | {"trying": 3}).encode(),
        json.dumps(GOOD | {"way": 8}).encode(),
        json.dumps(GOOD | {"step": -1}).encode(),
        json.dumps(GOOD | {"every": True}).encode(),
        json.dumps(GOOD | {"value": "low"}).encode(),
        json.dumps(GOOD | {"more": 1}).encode(),
        json.dumps(GOOD).replace("0.3", "NaN").encode(),
        json.dumps(GOOD).encode() + b" " * 2**17,
    ],
)
def test_a_standing_that_is_none_counts_as_none(tmp_path: Path, content: bytes) -> None:
    store = LocalStore(tmp_path)
    write_bytes(store, f"{STAGE}/best.json", content)
    assert read_standing(store, STAGE) is None
    with pytest.raises(ValueError, match="none was evaluated"):
        best_of(store, [STAGE])


def test_a_standing_comes_back(tmp_path: Path) -> None:
    store, standing = LocalStore(tmp_path), Standing(**GOOD)
    assert read_standing(store, STAGE) is None
    write_standing(store, STAGE, standing)
    assert read_standing(store, STAGE) == standing
    assert read_standing(store, STAGE) != replace(standing, judged=3)
