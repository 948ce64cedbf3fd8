"""The rollout actor itself: what it makes says of which clips and by which weights, and what is not finite does not leave it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mutual_forcing.benchmarks._pool_world import make_clips
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.workers import rollout_actor
from mutual_forcing.workers.rollout_actor import RolloutActor, RolloutActorConfig
from mutual_forcing.workers.wire import pack_weights, require_clips, rollout_from_arrays

TINY = recipe("tiny")


@pytest.fixture
def actor(tmp_path: Path) -> RolloutActor:
    make_clips(TINY, tmp_path / "data", clips=5)
    made = RolloutActor(RolloutActorConfig(tmp_path / "data", TINY.model, TINY.data.timeline, TINY.objective, 0, "mutual", 1))
    torch.manual_seed(0)
    network = AVTransformer(TINY.model, TINY.data.timeline)
    assert made.load(pack_weights(3, network.parameters())) == 3
    return made


def test_what_it_makes_says_of_which_clips_and_by_which_weights(actor: RolloutActor) -> None:
    (low, high, size), arrays = actor.generate([2, 3])
    made = rollout_from_arrays(arrays)
    assert (low, high) == (3, 3)
    assert made.versions == ((3, 3), (3, 3))
    assert size == sum(x.nbytes for x in arrays.values())
    batch = actor._clips.batch([2, 3])
    require_clips(made, batch.sample_ids, [2, 3], 1)


@pytest.mark.parametrize("part", ["history", "exit_state"])
def test_what_is_not_finite_does_not_leave_it(actor: RolloutActor, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    whole = rollout_actor.roll_out

    def spoilt(*words: Any) -> Any:
        made = whole(*words)
        assert made.exit_state is not None
        return replace(made, **{part: getattr(made, part).map(lambda x: x.index_fill(0, torch.tensor([1]), torch.nan))})

    monkeypatch.setattr(rollout_actor, "roll_out", spoilt)
    with pytest.raises(ValueError, match="rollout of positions 2-3 under version 3 is not finite"):
        actor.generate([2, 3])
