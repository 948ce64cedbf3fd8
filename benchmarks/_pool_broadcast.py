"""Weights on their way to the actors of one machine, against copying as many bytes from memory to memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import ray
import torch

from ..workers.wire import Snapshot, pack_weights, unpack_weights

ACTORS = 4
MATRIX = 4 * 2**20  # numbers of a tensor


class Receiver:
    """Holds fp32 weights of a size."""

    def __init__(self, numbers: int) -> None:
        torch.set_num_threads(1)
        self._weights = [torch.zeros(min(MATRIX, numbers - start)) for start in range(0, numbers, MATRIX)]

    def load(self, snapshot: Snapshot) -> int:
        unpack_weights(snapshot, self._weights)
        return snapshot.version


def measure_broadcast(megabytes: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Pack fp32 weights as bf16, put them once, four actors check them and copy them into fp32: seconds until the last has them, after a
    round that warms up; and of four copies of the same bytes, one after the other. Rounds of both take turns.
    """
    numbers = megabytes * 10**6 // 2
    sizes = [min(MATRIX, numbers - start) for start in range(0, numbers, MATRIX)]
    weights = [torch.full((size,), 0.5) for size in sizes]  # as a network's: many, in fp32
    kind: Any = ray.remote(Receiver).options(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    actors = [kind.remote(numbers) for _ in range(ACTORS)]
    source, target = np.ones(numbers, np.uint16), np.zeros(numbers, np.uint16)
    snapshot: Snapshot | None = None
    sent, copied, parts = list[float](), list[float](), list[list[float]]()
    for version in range(rounds + 1):
        marks = [time.perf_counter()]
        snapshot = pack_weights(version, weights, snapshot)
        marks.append(time.perf_counter())
        reference = ray.put(snapshot)
        marks.append(time.perf_counter())
        assert ray.get([actor.load.remote(reference) for actor in actors]) == [version] * ACTORS
        marks.append(time.perf_counter())
        del reference
        for _ in range(ACTORS):
            np.copyto(target, source)
        sent.append(marks[-1] - marks[0])
        copied.append(time.perf_counter() - marks[-1])
        parts.append(list(np.diff(marks)))
    for actor in actors:
        ray.kill(actor)
    seconds, memcpys = median(sent[1:]), median(copied[1:])
    say(f"broadcast of {megabytes} MB to {ACTORS} actors: {seconds:.2f} s, four copies {memcpys:.2f} s")
    return {
        "megabytes": megabytes,
        "actors": ACTORS,
        "seconds": seconds,
        "seconds_rounds": sent[1:],
        "memcpys_s": memcpys,
        "over_memcpys": median(a / b for a, b in zip(sent[1:], copied[1:], strict=True)),
        "mb_s": ACTORS * megabytes / seconds,
        **dict(zip(("pack_s", "put_s", "load_s"), np.median(parts[1:], axis=0).tolist(), strict=True)),
    }
