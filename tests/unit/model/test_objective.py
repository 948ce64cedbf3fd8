"""The choices of the objectives: what cannot be is refused by field and value, and a recipe changes what its name says alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest

from mutual_forcing.model.objective import (
    DmdConfig,
    DropConfig,
    FakeConfig,
    FewConfig,
    HistoryConfig,
    ObjectiveConfig,
    ShortcutConfig,
    variants,
)
from mutual_forcing.model.path import PathConfig

NAN = float("nan")
SECTIONS: dict[str, Any] = {
    "path": PathConfig,
    "drop": DropConfig,
    "few": FewConfig,
    "history": HistoryConfig,
    "shortcut": ShortcutConfig,
    "dmd": DmdConfig,
    "fake": FakeConfig,
}
# A base that differs from the defaults everywhere a recipe may touch, so that a recipe that resets a field is caught.
BASE = ObjectiveConfig(
    time_sampling="logit_normal",
    path=PathConfig(3.0, 0.7),
    video_weight=1.3,
    audio_weight=0.6,
    w_fm=0.7,
    w_distil=0.9,
    teacher="live",
    drop=DropConfig(0.3, 0.2, 0.1),
    few=FewConfig(moves=3),
    history=HistoryConfig(strength_low=0.3, strength_high=0.5, real_share=0.4, context_noise=0.2),
    shortcut=ShortcutConfig(weight=0.4, sub_steps=3, guidance=2.0, to_zero_share=0.1, fine_share=0.2),
    dmd=DmdConfig(weight=0.2, guidance=3.0, epsilon=1e-2, exit_last_share=0.7, time_low=0.1, time_high=0.8),
    fake=FakeConfig(updates=2, lr_ratio=0.5, rank=8),
)


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def objective(changes: dict[str, Any]) -> ObjectiveConfig:
    """The defaults with some fields, given by their paths, set to other values."""
    sections: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for path, value in changes.items():
        section, _, name = path.rpartition(".")
        (sections.setdefault(section, {}) if section else top)[name] = value
    return ObjectiveConfig(**top, **{name: SECTIONS[name](**fields) for name, fields in sections.items()})


SHARES = (
    "drop.all",
    "drop.caption",
    "drop.transcript",
    "history.real_share",
    "shortcut.to_zero_share",
    "shortcut.fine_share",
    "dmd.exit_last_share",
)
WEIGHTS = ("video_weight", "audio_weight", "w_fm", "w_distil", "shortcut.weight", "dmd.weight", "history.context_noise")
COUNTS = ("few.moves", "shortcut.sub_steps", "fake.updates", "fake.rank")
CHOICES = {
    "time_sampling": "normal",
    "teacher": "self",
    "few.sampler": "heun",
    "history.source": "false",
    "fake.kind": "half",
}
REFUSED: list[tuple[str, Any]] = [
    *((path, value) for path in SHARES for value in (-0.1, 1.1, NAN)),
    *((path, value) for path in WEIGHTS for value in (-1.0, NAN)),
    *((path, value) for path in COUNTS for value in (0, -1)),
    *((path, value) for path in ("dmd.epsilon", "fake.lr_ratio", "few.lr_ratio") for value in (0.0, -1.0, NAN)),
    *CHOICES.items(),
]


@pytest.mark.parametrize(("path", "value"), REFUSED)
def test_an_impossible_value_is_refused_with_its_field(path: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"objective\.{re.escape(path)}={re.escape(repr(value))}: "):
        objective({path: value})


@pytest.mark.parametrize("path", CHOICES)
def test_a_refused_choice_names_the_choices(path: str) -> None:
    allowed = {
        "time_sampling": "uniform or logit_normal",
        "teacher": "ema or live or frozen",
        "few.sampler": "ode or renoise",
        "history.source": "generated or real",
        "fake.kind": "full or lora",
    }[path]
    with pytest.raises(ValueError, match=f"must be {allowed}$"):
        objective({path: "?"})
    for choice in allowed.split(" or "):
        assert dict(leaves(asdict(objective({path: choice}))))[path] == choice


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.6, 0.2), (0.5, 1.1), (NAN, 0.5), (0.2, NAN)])
def test_an_impossible_range_of_strengths_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=rf"objective\.history\.strength_low={low}, strength_high={high}: "):
        objective({"history.strength_low": low, "history.strength_high": high})


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.6, 0.2), (0.5, 0.5), (0.5, 1.0), (NAN, 0.5), (0.2, NAN)])
def test_an_impossible_range_of_score_times_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=rf"objective\.dmd\.time_low={low}, time_high={high}: "):
        objective({"dmd.time_low": low, "dmd.time_high": high})


def test_text_cannot_be_dropped_from_more_clips_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"objective\.drop: all \+ caption \+ transcript: .*must not exceed 1"):
        objective({"drop.all": 0.6, "drop.caption": 0.3, "drop.transcript": 0.2})
    assert objective({"drop.all": 0.5, "drop.caption": 0.25, "drop.transcript": 0.25}).drop.all == 0.5


@pytest.mark.parametrize("changes", [{"w_fm": 0.0, "w_distil": 0.0}, {"w_fm": 0.0, "shortcut.weight": 0.0, "dmd.weight": 0.0}])
def test_an_objective_without_any_part_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"w_fm, shortcut\.weight and dmd\.weight .* all 0"):
        objective(changes)


def test_every_field_is_checked() -> None:
    """A new field needs a check and a line above. Guidance may be any number: below 1 it weakens the text."""
    ranges = {"history.strength_low", "history.strength_high", "dmd.time_low", "dmd.time_high"}
    free = {"shortcut.guidance", "dmd.guidance"}
    fields = {path for path, _ in leaves(asdict(ObjectiveConfig())) if not path.startswith("path.")}
    assert fields == {path for path, _ in REFUSED} | ranges | free


# --- recipes --------------------------------------------------------------------------------------------------------------

PURE = {"history.strength_low": 1.0, "history.strength_high": 1.0, "history.real_share": 0.0}
TRUE = {"history.source": "real"}
DMD_ALONE = {"w_fm": 0.0, "shortcut.weight": 0.0, "dmd.weight": 1.0, "teacher": "frozen", "few.sampler": "renoise", "few.lr_ratio": 1.0}
CHANGES: dict[str, dict[str, Any]] = {
    "mutual": {},
    "mutual-paper": PURE,
    "mutual-no-dmd": {"dmd.weight": 0.0},
    "mutual-no-sc": {"shortcut.weight": 0.0, "few.sampler": "renoise"},
    "mutual-true-history": TRUE,
    "sc-tf": TRUE | {"w_fm": 1.0, "shortcut.weight": 1.0, "dmd.weight": 0.0},
    "dmd-tf": TRUE | DMD_ALONE,
    "dmd-sf": PURE | DMD_ALONE,
}


def test_the_recipes_are_those_of_the_ablation() -> None:
    assert list(variants(BASE)) == list(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_changes_what_its_name_says_alone(name: str) -> None:
    base, made = dict(leaves(asdict(BASE))), dict(leaves(asdict(variants(BASE)[name])))
    assert {path: value for path, value in made.items() if value != base[path]} == CHANGES[name]


@pytest.mark.parametrize("name", ["mutual-paper", "dmd-sf"])
def test_self_forcing_turns_a_base_of_true_history_around(name: str) -> None:
    true = replace(BASE, history=replace(BASE.history, source="real"))
    assert variants(true)[name].history.source == "generated"


@pytest.mark.parametrize(
    ("name", "generated_history", "needs_rollouts"),
    [
        ("mutual", True, True),
        ("mutual-paper", True, True),
        ("mutual-no-dmd", True, True),
        ("mutual-no-sc", True, True),
        ("mutual-true-history", False, True),
        ("sc-tf", False, False),
        ("dmd-tf", False, True),
        ("dmd-sf", False, True),
    ],
)
def test_a_recipe_asks_for_rollouts_where_it_reads_them(name: str, generated_history: bool, needs_rollouts: bool) -> None:
    made = variants(BASE)[name]
    assert (made.generated_history, made.needs_rollouts) == (generated_history, needs_rollouts)


def test_clips_that_all_keep_their_past_need_no_rollouts() -> None:
    assert not objective({"history.real_share": 1.0, "dmd.weight": 0.0}).needs_rollouts
    assert not objective({"w_distil": 0.0, "history.source": "real"}).needs_rollouts


def test_the_weights_in_the_sum_are_products() -> None:
    assert (BASE.w_shortcut, BASE.w_dmd) == (0.9 * 0.4, 0.9 * 0.2)
