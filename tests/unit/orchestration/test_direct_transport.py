"""Weights that actors read in the trainers' memory: the whole pool on this transport makes what it makes through the object store."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import ray

from mutual_forcing.benchmarks._pool_world import demo, make_clips
from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.preflight import examine
from mutual_forcing.orchestration.recipes import recipe

NIXL = find_spec("nixl") is not None


@ray.remote(num_cpus=0)
class Trainer:
    """Rank 0 of a training that computes nothing: what its pool made, as bytes."""

    def make(self, folder: str, transport: Any, steps: int) -> list[bytes]:
        import torch

        from mutual_forcing.model.transformer import AVTransformer
        from mutual_forcing.orchestration.rollout_pool import start_pool
        from mutual_forcing.orchestration.rollouts_config import RolloutsConfig
        from mutual_forcing.workers.rollout_actor import RolloutActorConfig
        from mutual_forcing.workers.wire import pack_weights

        run = demo()
        config = RolloutsConfig(actors=2, max_age=0, transport=transport, deadline_s=60.0)
        actor = RolloutActorConfig(Path(folder), run.model, run.data.timeline, run.objective, 0, "mutual", 1)
        client = start_pool(actor, config, 1, 2, steps)
        client.enter(ray.get(client._coordinator.begin.remote(0)), 1)
        torch.manual_seed(0)
        network = AVTransformer(run.model, run.data.timeline).requires_grad_(False)
        made, sent = list[bytes](), list[Any]()
        for step in range(steps):
            for parameter in network.parameters():
                parameter.add_(0.01)
            sent.append(pack_weights(step, network.parameters(), sent.pop(0) if len(sent) == 2 else None, config.direct))
            client.publish(sent[-1])
            rollout = client.take(step, 0)
            assert rollout.version_low == step
            made.append(b"".join(x.numpy().tobytes() for _, x in rollout.history.items()))
        return made


@pytest.mark.slow
@pytest.mark.skipif(not NIXL, reason="needs the extra `direct`")
@pytest.mark.usefixtures("ray_cluster")
def test_it_makes_what_the_object_store_makes(tmp_path: Path) -> None:
    make_clips(demo(), tmp_path / "data")
    kind: Any = Trainer
    stored, direct = (ray.get(kind.remote().make.remote(str(tmp_path / "data"), way, 5), timeout=200) for way in ("object_store", "nixl"))
    assert stored == direct
    assert len(set(stored)) == 5, "each version makes something else"


@pytest.mark.parametrize("gpus", [0.0, 0.5])
def test_preflight_says_what_it_lacks(tmp_path: Path, gpus: float) -> None:
    config = with_settings(recipe("demo"), ["rollouts.transport=nixl", f"rollouts.gpus={gpus}"])
    told = [f.text for f in examine(config, tmp_path / "run") if f.kind == "problem" and "rollouts.transport" in f.text]
    assert any("from GPU to GPU or from CPU to CPU" in text for text in told) == bool(gpus)
    assert any("mutual-forcing[direct]" in text for text in told) != NIXL
