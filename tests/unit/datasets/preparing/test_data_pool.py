"""How many processes prepare data, and on which machines."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mutual_forcing.datasets.config import PoolConfig


@pytest.mark.parametrize(
    ("pool", "there", "most"),
    [
        (PoolConfig(), {"CPU": 8.0, "data": 3.0}, 8),
        (PoolConfig(max_workers=5), {"CPU": 8.0}, 5),
        (PoolConfig(resource="data"), {"CPU": 8.0, "data": 3.0}, 3),
        (PoolConfig(resource="data"), {"CPU": 8.0}, 1),
        (PoolConfig(max_workers=64, resource="data"), {"CPU": 8.0}, 64),
        (PoolConfig(), {}, 1),
    ],
)
def test_as_many_as_there_are_places(pool: PoolConfig, there: Mapping[str, float], most: int) -> None:
    assert pool.most(there) == most


def test_ray_is_asked_for_a_cpu_and_for_the_resource_where_one_is_named() -> None:
    assert PoolConfig().options == {"num_cpus": 1}
    assert PoolConfig(resource="data").options == {"num_cpus": 1, "resources": {"data": 1}}
