"""Seconds of a step and of a rollout, from multiply-adds, bytes and speeds. Needs PyTorch alone.

    step = work of the network under training / its speed + work of the teacher / the speed of fp32
         + bytes of the optimizer and of the average / bandwidth + bytes between processes / link

The teacher and the rollout actors hold fp32 weights and compute in fp32 without TF32, so on a GPU their speed is another one. Nothing
overlaps: the engine asks for none.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...model.activations import FP32
from ...model.arithmetic import Arithmetic
from ...model.objective import ObjectiveConfig


@dataclass(frozen=True)
class Speeds:
    """FLOP/s of the network under training and of fp32; bytes/s of memory, between processes, and of a process's share of its host's
    memory.
    """

    trained: float
    fp32: float
    memory: float
    link: float
    host: float


@dataclass(frozen=True)
class Work:
    """Of a step in one process. flops: of the network under training, with what is computed again; taught: of the teacher, in fp32;
    moved: bytes that the optimizer and the average read and write; sent: bytes to and from other processes; away: bytes of an optimizer
    that is the host's.
    """

    flops: float
    taught: float
    moved: float
    sent: float
    away: float = 0.0

    def seconds(self, speeds: Speeds) -> float:
        return sum(self._each(speeds).values())

    def shares(self, speeds: Speeds) -> dict[str, float]:
        """What the time goes to, together 1."""
        each = self._each(speeds)
        return {name: seconds / sum(each.values()) for name, seconds in each.items()}

    def _each(self, speeds: Speeds) -> dict[str, float]:
        return {
            "training": self.flops / speeds.trained,
            "teacher": self.taught / speeds.fp32,
            "optimizer": self.moved / speeds.memory + self.away / speeds.host,
            "communication": self.sent / speeds.link,
        }


@dataclass(frozen=True)
class Step:
    """What a step is. clips: of this process, micro: of a forward; chunks, words: of a clip; every: of `execution.checkpoint_every`; fake:
    numbers of the fake score's own weights.
    """

    of: Arithmetic
    chunks: int
    words: int
    clips: int
    micro: int
    mutual: bool
    objective: ObjectiveConfig
    weights: int
    trained: int
    fake: int
    zero: int
    ranks: int
    item: int
    every: int
    offload: bool = False


def work(step: Step) -> Work:
    """Of one step in one process."""
    forward = 2 * step.of.training(step.chunks, step.words) / 3 * step.clips
    equivalents = step.objective.forward_equivalents() if step.mutual else {"fm": 3.0}
    teacher = _taught(step.objective) if step.mutual else 0.0
    again = sum(_backwards(step, part) for part in equivalents) * _recomputed(step) if step.every else 0.0
    fakes = step.objective.fake.updates if step.fake else 0
    mine = 1 / step.ranks if step.zero else 1.0
    updates = 7 * FP32 * mine * (step.trained + fakes * step.fake)  # AdamW reads 4 numbers and writes 3
    average, flops = 3 * FP32 * step.weights, forward * (sum(equivalents.values()) - teacher + again)
    moved, away = (average, updates) if step.offload else (average + updates, 0.0)
    return Work(flops, forward * teacher, moved, _sent(step, fakes), away)


def _backwards(step: Step, part: str) -> int:
    return step.objective.fake.updates if part == "fake" else 1


def _recomputed(step: Step) -> float:
    """Share of the layers that a backward computes again."""
    depth = step.of.config.depth
    return (depth // step.every) / depth


def _taught(objective: ObjectiveConfig) -> float:
    """Forwards of the teacher: those of ShortCut's target and of p_real."""
    found = 0.0
    if objective.w_shortcut > 0:
        found += objective.shortcut.sub_steps * (1.0 if objective.shortcut.guidance == 1.0 else 2.0)
    if objective.w_dmd > 0:
        found += 1.0 if objective.dmd.guidance == 1.0 else 2.0
    return found


def _sent(step: Step, fakes: int) -> float:
    """A ring passes (n - 1) / n of all bytes: twice for a sum, once to gather weights or to share out a sum."""
    ring = (step.ranks - 1) / step.ranks
    micros = max(1, step.clips // max(1, step.micro))
    parts = sum(1 for part in (step.objective.w_fm, step.objective.w_shortcut, step.objective.w_dmd) if part > 0) if step.mutual else 1
    sums, gathers = {0: (1, 0), 1: (1, 1), 2: (parts * micros, 1), 3: (parts * micros, 0)}[step.zero]
    fake_sums = {0: 1, 1: 1, 2: micros, 3: micros}[step.zero]
    size = step.item
    total = 2 * size * (step.trained * sums + step.fake * fakes * fake_sums) + size * gathers * (step.trained + fakes * step.fake)
    if step.zero == 3:
        reads = 3 if step.every else 2  # forward, its repetition, backward
        total = size * (step.trained * sums + step.fake * fakes * fake_sums)  # shared out, not summed for all
        total += size * reads * (step.trained * parts * micros + step.fake * fakes * micros)  # a branch that stays out is not gathered
        total += size * step.fake * micros if step.mutual else 0  # DMD reads the fake score once, without a gradient
        total += FP32 * step.weights  # the average reads all weights
    return ring * total


@dataclass(frozen=True)
class RolloutWork:
    """Of a request of some clips. flops: in fp32; read: bytes of weights and caches."""

    flops: float
    read: float

    def seconds(self, speeds: Speeds) -> float:
        """Arithmetic or memory, whichever takes longer."""
        return max(self.flops / speeds.fp32, self.read / speeds.memory)


def rollout(of: Arithmetic, chunks: int, clips: int, objective: ObjectiveConfig) -> RolloutWork:
    """Few-step histories and exit states, as `model.sampler.roll_out` makes them."""
    moves, h = objective.few.moves, objective.history
    made = moves - min(moves - 1, round((1 - h.strength_high) * moves)) if h.source == "generated" else 0
    passes = made + (moves if objective.w_dmd > 0 else 0)
    flops = of.start() + sum(passes * of.evaluation(k) + of.commit(k) for k in range(chunks))
    read = sum((passes + 1) * of.evaluation_bytes(k, clips, FP32) for k in range(chunks))
    return RolloutWork(2.0 * clips * flops, float(read))
