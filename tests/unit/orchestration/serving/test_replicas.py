"""How many GPUs replicas take of a cluster."""

from __future__ import annotations

import pytest

from mutual_forcing.orchestration.serving.replicas import gpus_each


@pytest.mark.parametrize(
    ("device", "count", "gpus", "each"),
    [("auto", 4, 4.0, 1), ("cuda", 2, 8.0, 1), ("auto", 3, 0.0, 0), ("cpu", 2, 8.0, 0), ("cpu", 2, 1.0, 0)],
)
def test_each_takes_a_gpu_of_the_cluster_where_it_has_some(device: str, count: int, gpus: float, each: int) -> None:
    assert gpus_each(device, count, {"CPU": 2.0} | ({"GPU": gpus} if gpus else {})) == each


def test_what_the_cluster_cannot_give_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--device=cuda: the cluster has no GPU; choose auto or cpu$"):
        gpus_each("cuda", 1, {"CPU": 2.0})
    with pytest.raises(ValueError, match=r"^--replicas=3: the cluster has 2 GPUs, and each takes one; give --replicas 2, or --device cpu$"):
        gpus_each("auto", 3, {"GPU": 2.0})
