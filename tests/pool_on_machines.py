"""Run in a process of its own, as a driver: a rollout pool whose actors are on a machine that is lost while it keeps finished rollouts.

Says as JSON how long the longest step took after that, and what the pool did.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import ray
import torch.distributed as dist
from cluster_material import Machines
from number_actor import NumberPlan
from pool_material import Trainers, number_pool

from mutual_forcing.orchestration.rollouts_config import RolloutsConfig

RANKS, BATCH, STEPS, AGE = 2, 8, 12, 2


def main(folder: Path, seed: int) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    with Machines(1) as machines:
        first = machines.add_with("rollouts")
        ray.init(address=machines.environment["RAY_ADDRESS"], log_to_driver=False)
        config = RolloutsConfig(actors=4, max_age=AGE, resource="rollouts", deadline_s=60.0, max_failures=1, clips=2)
        client = number_pool(NumberPlan(folder, 0.02), config, RANKS, BATCH, STEPS)
        trainers = Trainers(client, RANKS, BATCH, STEPS, AGE)
        trainers.begin()
        trainers.run(until=4)
        while client.figures()["ready"] < AGE * BATCH // 2:  # with that machine they go
            time.sleep(0.01)
        machines.add_with("rollouts")
        killer = threading.Timer(0.005 * seed, machines.lose, (first,))
        killer.start()
        began = time.monotonic()
        trainers.run()
        took = time.monotonic() - began
        killer.join()
        trainers.assert_right()
        figures = client.figures()
        print(json.dumps({"seconds": took, "made_again": figures["served"] - STEPS * BATCH // 2} | figures))
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
