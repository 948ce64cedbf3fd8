"""Every choice of the objectives, as typed fields (method 4 and 5). A recipe is a set of values of these; there is one loop.

Guidance scales follow `uncond + g * (cond - uncond)`: g = 1 is the conditional prediction alone. Code that writes
`cond + g * (cond - uncond)` calls the same strength g - 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from .path import PathConfig


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"objective.{name}={value!r}: must be {' or '.join(str(a) for a in allowed)}")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"objective.{name}={value}: a share lies between 0 and 1")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"objective.{name}={value}: must be at least {least:g}")


FewSampler = Literal["ode", "renoise"]
TimeLaw = Literal["uniform", "logit_normal"]
Teacher = Literal["ema", "live", "frozen"]
HistorySource = Literal["generated", "real"]
FakeKind = Literal["full", "lora"]


@dataclass(frozen=True)
class DropConfig:
    """Text that is taken away in flow matching, for guidance (method 4). all: share of clips that lose all text. caption: share that lose
    the caption alone. transcript: share that lose the transcript alone.
    """

    all: float = 0.10
    caption: float = 0.05
    transcript: float = 0.05

    def __post_init__(self) -> None:
        for name in ("all", "caption", "transcript"):
            _share(f"drop.{name}", getattr(self, name))
        if self.all + self.caption + self.transcript > 1:
            raise ValueError("objective.drop: all + caption + transcript: shares of clips must not exceed 1 together")


@dataclass(frozen=True)
class FewConfig:
    """The few-step mode that is trained and rolled out. moves: evaluations a chunk. sampler: `ode` moves along the grid; `renoise` predicts
    the clean chunk at every move and noises it again to the next time, so each of its moves is a jump to 0 (method 5.3).

    lr_ratio: learning rate, over the other weights', of the part of the time embedder that tells FEW from MULTI. It starts at zero: if it
    learnt no faster than the weights that both modes share, those would take up the guided targets, MULTI would drift with them, and the
    targets with MULTI.
    """

    moves: int = 4
    sampler: FewSampler = "ode"
    lr_ratio: float = 20.0

    def __post_init__(self) -> None:
        _at_least("few.moves", self.moves, 1)
        _one_of("few.sampler", self.sampler, get_args(FewSampler))
        if not self.lr_ratio > 0:
            raise ValueError(f"objective.few.lr_ratio={self.lr_ratio}: must be above 0")


@dataclass(frozen=True)
class HistoryConfig:
    """The past K under which the distilled stage trains: the central dial of the method (method 5.1, "The trap").

    source: `generated` by the few-step mode on its own outputs, or `real` (teacher forcing).
    strength_low, strength_high: a generated chunk starts from the real one noised to a level drawn from this range for each clip and
    snapped to the FEW grid; 1 = pure noise, which teaches a model with weak controls to ignore its past.
    real_share: clips that keep their true history in flow matching and ShortCut.
    context_noise: flow matching noises each clip's history by up to this level, so that a model does not copy its past's flaws.
    """

    source: HistorySource = "generated"
    strength_low: float = 0.25
    strength_high: float = 0.25
    real_share: float = 0.0
    context_noise: float = 0.0

    def __post_init__(self) -> None:
        _one_of("history.source", self.source, get_args(HistorySource))
        if not 0 < self.strength_low <= self.strength_high <= 1:
            raise ValueError(
                f"objective.history.strength_low={self.strength_low}, strength_high={self.strength_high}: need 0 < low <= high <= 1"
            )
        _share("history.real_share", self.real_share)
        _at_least("history.context_noise", self.context_noise, 0)


@dataclass(frozen=True)
class ShortcutConfig:
    """L_sc (method 5.2). weight: within the distillation (paper: 2/3); sub_steps: guided MULTI Euler steps of the target;
    guidance: their scale (paper: 5); to_zero_share: intervals that end at 0 instead of at the next grid time; fine_share: intervals of the
    grid with twice the moves, so that sampling with more of them gains something.
    """

    weight: float = 2 / 3
    sub_steps: int = 2
    guidance: float = 5.0
    to_zero_share: float = 0.25
    fine_share: float = 0.0

    def __post_init__(self) -> None:
        _at_least("shortcut.weight", self.weight, 0)
        _at_least("shortcut.sub_steps", self.sub_steps, 1)
        _share("shortcut.to_zero_share", self.to_zero_share)
        _share("shortcut.fine_share", self.fine_share)


@dataclass(frozen=True)
class DmdConfig:
    """L_dmd (method 5.3). weight: within the distillation (paper: 1/3); guidance: scale of p_real; epsilon: added to the scale of the
    direction; exit_last_share: with `ode`, exit states of the last move at least this often; time_low, time_high: range of s.
    """

    weight: float = 1 / 3
    guidance: float = 5.0
    epsilon: float = 1e-3
    exit_last_share: float = 0.5
    time_low: float = 0.02
    time_high: float = 0.98

    def __post_init__(self) -> None:
        _at_least("dmd.weight", self.weight, 0)
        _share("dmd.exit_last_share", self.exit_last_share)
        if not self.epsilon > 0:
            raise ValueError(f"objective.dmd.epsilon={self.epsilon}: must be above 0, or a perfect clip divides by zero")
        if not 0 < self.time_low < self.time_high < 1:
            raise ValueError(f"objective.dmd.time_low={self.time_low}, time_high={self.time_high}: need 0 < low < high < 1")


@dataclass(frozen=True)
class FakeConfig:
    """The fake-score model (method 5.4). kind: `full`, a copy with its own weights, or `lora`, an adapter over the live
    weights under stop-gradient; updates: for each update of theta; lr_ratio: its learning rate over theta's; rank: of the adapter.
    """

    kind: FakeKind = "full"
    updates: int = 5
    lr_ratio: float = 1.0
    rank: int = 16

    def __post_init__(self) -> None:
        _one_of("fake.kind", self.kind, get_args(FakeKind))
        _at_least("fake.updates", self.updates, 1)
        _at_least("fake.rank", self.rank, 1)
        if not self.lr_ratio > 0:
            raise ValueError(f"objective.fake.lr_ratio={self.lr_ratio}: must be above 0")


@dataclass(frozen=True)
class ObjectiveConfig:
    """theta minimises w_fm L_fm + w_distil (shortcut.weight L_sc + dmd.weight L_dmd). A part of weight 0 is not computed.

    time_sampling: raw time of flow matching. video_weight, audio_weight: of that modality in every loss. w_fm: weight of flow matching.
    w_distil: weight of the distillation. teacher: whose MULTI mode makes the ShortCut
    target and p_real: the averaged weights, the live ones, or the `frozen` weights that the stage started from (an outside teacher).
    """

    time_sampling: TimeLaw = "uniform"
    path: PathConfig = PathConfig()
    video_weight: float = 1.0
    audio_weight: float = 1.0
    w_fm: float = 1.0
    w_distil: float = 1.0
    teacher: Teacher = "ema"
    drop: DropConfig = DropConfig()
    few: FewConfig = FewConfig()
    history: HistoryConfig = HistoryConfig()
    shortcut: ShortcutConfig = ShortcutConfig()
    dmd: DmdConfig = DmdConfig()
    fake: FakeConfig = field(default_factory=FakeConfig)

    def __post_init__(self) -> None:
        _one_of("time_sampling", self.time_sampling, get_args(TimeLaw))
        _one_of("teacher", self.teacher, get_args(Teacher))
        for name in ("video_weight", "audio_weight", "w_fm", "w_distil"):
            _at_least(name, getattr(self, name), 0)
        if self.w_fm == 0 and self.w_shortcut == 0 and self.w_dmd == 0:
            raise ValueError("objective: w_fm, shortcut.weight and dmd.weight (or w_distil) are all 0: nothing would be learnt")

    @property
    def w_shortcut(self) -> float:
        """Weight of L_sc in the sum."""
        return self.w_distil * self.shortcut.weight

    @property
    def w_dmd(self) -> float:
        """Weight of L_dmd in the sum."""
        return self.w_distil * self.dmd.weight

    def forward_equivalents(self) -> dict[str, float]:
        """Arithmetic of each part of the dual-mode step in forward passes of the network; a backward counts as two.

        With the paper's 2 guided sub-steps and 5 fake updates: 3, 7, 6, 15; a teacher that reads the past once does less.
        """
        teacher = {part: 1.0 if scale == 1.0 else 2.0 for part, scale in (("sc", self.shortcut.guidance), ("dmd", self.dmd.guidance))}
        cost = {
            "fm": 3.0 if self.w_fm > 0 else 0.0,
            "sc": 3.0 + self.shortcut.sub_steps * teacher["sc"] if self.w_shortcut > 0 else 0.0,
            "dmd": 3.0 + teacher["dmd"] + 1.0 if self.w_dmd > 0 else 0.0,
            "fake": 3.0 * self.fake.updates if self.w_dmd > 0 else 0.0,
        }
        return {part: forwards for part, forwards in cost.items() if forwards}

    @property
    def needs_rollouts(self) -> bool:
        """Whether the dual-mode step reads anything that the few-step mode has generated: histories, or exit states."""
        return self.w_dmd > 0 or self.generated_history

    @property
    def generated_history(self) -> bool:
        """Whether flow matching and ShortCut see generated pasts."""
        return self.history.source == "generated" and self.history.real_share < 1 and (self.w_fm > 0 or self.w_shortcut > 0)


def _with(objective: ObjectiveConfig, *, history: dict[str, Any], weights: tuple[float, float, float], **rest: Any) -> ObjectiveConfig:
    """Another past, and the weights of flow matching, ShortCut and DMD."""
    w_fm, w_sc, w_dmd = weights
    return replace(
        objective,
        w_fm=w_fm,
        history=replace(objective.history, **history),
        shortcut=replace(objective.shortcut, weight=w_sc),
        dmd=replace(objective.dmd, weight=w_dmd),
        **rest,
    )


def variants(base: ObjectiveConfig) -> dict[str, ObjectiveConfig]:
    """The recipes of the paper's ablation and their relatives, as changes of `base`, which is the recipe `mutual`.

    Without ShortCut the few-step mode renoises: every move that is sampled is then a jump to 0, which is all that DMD trains. DMD alone
    (method 5, "Baselines") keeps its start as teacher, since nothing else holds its MULTI mode in place, and learns at one rate, since
    it has no MULTI mode to protect. Its teacher is causal, as everything here is; that of the published Self-Forcing is bidirectional.
    """
    weights = (base.w_fm, base.shortcut.weight, base.dmd.weight)
    renoise = replace(base.few, sampler="renoise")
    alone = replace(renoise, lr_ratio=1.0)
    pure = {"source": "generated", "strength_low": 1.0, "strength_high": 1.0, "real_share": 0.0}
    return {
        "mutual": base,
        "mutual-paper": _with(base, history=pure, weights=weights),
        "mutual-no-dmd": _with(base, history={}, weights=(base.w_fm, base.shortcut.weight, 0.0)),
        "mutual-no-sc": _with(base, history={}, weights=(base.w_fm, 0.0, base.dmd.weight), few=renoise),
        "mutual-true-history": _with(base, history={"source": "real"}, weights=weights),
        "sc-tf": _with(base, history={"source": "real"}, weights=(1.0, 1.0, 0.0)),
        "dmd-tf": _with(base, history={"source": "real"}, weights=(0.0, 0.0, 1.0), teacher="frozen", few=alone),
        "dmd-sf": _with(base, history=pure, weights=(0.0, 0.0, 1.0), teacher="frozen", few=alone),
    }
