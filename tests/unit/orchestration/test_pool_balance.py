"""The size of a pool that follows the trainers' need, in virtual time: noise does not hold it back, and does not blow it up."""

from __future__ import annotations

import random
from math import ceil

import pytest

from mutual_forcing.orchestration.pool_balance import Balance
from mutual_forcing.orchestration.rollouts_config import RolloutsConfig

TRAIN_S, LOOK = 1.0, 0.1


class World:
    """A step of TRAIN_S with `per_step` requests, of which `need` actors make as many as it takes. noise: of a request."""

    def __init__(self, per_step: int, start: int, noise: float) -> None:
        self.balance = Balance(RolloutsConfig(actors="auto", min_actors=1, max_actors=2000, balance_s=30.0), per_step)
        self.balance.size_now, self._per_step, self._noise = start, per_step, noise
        self._dice, self._now, self._step = random.Random(0), 0.0, 0
        self.balance.begin(0)

    def goes_on(self, seconds: float, need: float) -> int:
        end = self._now + seconds
        while self._now < end:
            for _ in range(self._per_step):
                self.balance.made(need * TRAIN_S / self._per_step * max(0.1, self._dice.gauss(1, self._noise)))
            seconds = TRAIN_S * self._dice.gauss(1, 0.03)
            after = self._now + seconds
            while self._now < after:
                self._now += LOOK
                self.balance.size(self._now)
            self._step += 1
            for waited in (0.0, 0.3):  # one rank was given its rollouts earlier, and waits for the other
                self.balance.trained(self._step, seconds + waited)
        return self.balance.size_now


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.25])
@pytest.mark.parametrize(("per_step", "need", "start"), [(16, 6.4, 2), (64, 24.5, 8), (256, 48.5, 16), (1024, 100.5, 32)])
def test_it_comes_to_what_is_needed_and_stays_there(per_step: int, need: float, start: int, noise: float) -> None:
    world = World(per_step, start, noise)
    for _ in range(5):
        found = world.goes_on(120, need)
        assert 0.85 * need <= found <= ceil(1.15 * need)
    assert world.goes_on(120, need / 3) <= ceil(1.15 * need / 3), "and shrinks when less is needed"


def test_a_need_of_a_moment_changes_nothing() -> None:
    world = World(64, 8, 0.0)
    assert world.goes_on(60, 7.5) == 8
    assert world.goes_on(20, 40) == 8
    assert world.goes_on(60, 7.5) == 8
