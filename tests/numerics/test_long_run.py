"""Two processes under ZeRO-3 stay in step: the dual mode's many collectives, in 200 steps, neither hang nor drift apart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from zero_material import BATCH, CHUNKS, NETWORK, OBJECTIVE, WORLD, clips, network, sharded, together

from mutual_forcing.datasets.reading.order import rank_positions
from mutual_forcing.model.ema import ema_decay, ema_update
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import FakeConfig
from mutual_forcing.model.types import future
from mutual_forcing.workers.engine import Engine, EngineConfig
from mutual_forcing.workers.train_step import Networks, mutual_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # 674 s at a load of about 20; not timed on an idle machine

STEPS = 200
CHOICES = replace(OBJECTIVE, fake=FakeConfig(updates=1))
TINIEST = replace(NETWORK, video_width=8, audio_width=8, depth=1, heads=1)


def worker(rank: int, folder: str) -> None:
    config = EngineConfig(zero_stage=3)
    with together(rank, folder):
        live, fake = sharded(network(TINIEST), config), sharded(network(TINIEST), config)
        ema = network(TINIEST).requires_grad_(False)
        nets, losses, skipped = Networks(live, ema, fake), [], 0.0
        for step in range(STEPS):
            batch, rollout, _ = clips(rank_positions(step % 4, BATCH, rank, WORLD))
            noise = PositionalNoise([(12, step, p) for p in batch.positions])  # so that every step makes choices of its own
            metrics = mutual_step(nets, batch, rollout, noise, CHOICES, 1e-3)
            losses.append(float(metrics["loss"]))
            skipped += float(metrics["skipped"])
            with live.gathered() as weights:
                ema_update(ema.parameters(), weights, ema_decay(0.99, step))
        made = {"live": velocity(live.network), "fake": velocity(fake.network), "ema": velocity(ema)}
        weights = {"live": copied(live), "fake": copied(fake), "ema": [p.clone() for p in ema.parameters()]}
        torch.save({"made": made, "weights": weights, "losses": losses, "skipped": skipped}, f"{folder}/end-{rank}.pt")


@torch.no_grad()
def velocity(net: nn.Module) -> list[Tensor]:
    """What this process computes with its weights, of clips that are the same on every rank."""
    batch, _, _ = clips(range(BATCH))
    t = batch.latents.map(lambda x: torch.full((BATCH, CHUNKS), 0.5))
    return [x for _, x in net(future(batch.latents), batch.latents, t, t, batch.controls, batch.layout).items()]


def copied(engine: Engine) -> list[Tensor]:
    with engine.gathered() as weights:
        return [x.clone() for x in weights]


def test_two_hundred_steps_end_with_the_same_weights_on_both_ranks(tmp_path: Path) -> None:
    """Gathered weights may be equal where a process computes with stale ones: what it computes is compared too, and its average."""
    spawn(worker, (str(tmp_path),), nprocs=WORLD)
    one, other = (torch.load(tmp_path / f"end-{rank}.pt", weights_only=True) for rank in range(WORLD))
    start = [p.detach() for p in network(TINIEST).parameters()]
    for name in ("live", "fake", "ema"):
        assert all(torch.equal(a, b) for a, b in zip(one["weights"][name], other["weights"][name], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(one["made"][name], other["made"][name], strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(one["weights"][name], start, strict=True))
    for end in (one, other):
        assert len(end["losses"]) == STEPS
        assert end["skipped"] == 0
        assert all(math.isfinite(x) for x in end["losses"])
        assert sum(end["losses"][-20:]) < 0.9 * sum(end["losses"][:20]), "it learns its four batches"
    assert one["losses"] != other["losses"], "the ranks see different clips"
