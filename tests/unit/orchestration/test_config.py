"""The run's configuration: settings reach every part of it, and what it does not know or cannot be is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml

from mutual_forcing.orchestration.config import RunConfig, SamplesConfig, from_tree, with_settings
from mutual_forcing.orchestration.recipes import RECIPES, recipe


@pytest.fixture
def tiny() -> RunConfig:
    return recipe("tiny")


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every `--set` path of a configuration with its value."""
    for key, value in tree.items():
        if key == "stages":
            for stage in value:
                yield from leaves(stage, f"stages.{stage['name']}.")
        elif isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def test_a_setting_is_data_and_runs_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(ValueError, match=r"--set seed: .* is not a YAML value"):
        with_settings(
            recipe("tiny"), ["seed=!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [" + str(made) + "]]"]
        )
    assert not made.exists()


@pytest.mark.parametrize("uri", ["s3://me:secret-one@bucket/a", "https://me:secret-one@host/a"])
def test_an_address_with_a_password_is_no_setting(uri: str) -> None:
    for name in ("remote.uri", "checkpoint.uri", "data.media", "data.prepared", "init.video"):
        with pytest.raises(ValueError, match=name) as refused:
            with_settings(recipe("tiny"), [f"{name}={uri}"])
        assert "secret-one" not in str(refused.value)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_survives_the_trip_through_json(name: str) -> None:
    config = recipe(name)
    assert from_tree(asdict(config)) == config
    again = from_tree(json.loads(json.dumps(asdict(config))))
    assert again == config
    assert again.settings() == config.settings()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_setting_every_value_to_what_it_is_changes_nothing(name: str) -> None:
    config = recipe(name)
    assignments = [f"{key}={json.dumps(value)}" for key, value in leaves(asdict(config))]
    assert len(assignments) > 100
    assert with_settings(config, assignments) == config


def test_settings_reach_sections_and_stages(tiny: RunConfig) -> None:
    changed = with_settings(
        tiny,
        [
            "seed=7",
            "rollouts.max_age=0",
            "objective.path.shift_video=3",
            "stages.joint.steps=11",
            "stages.joint.optimizer.lr=2e-4",
            "stages.pretrain-video.modalities=[audio]",
        ],
    )
    stages = {s.name: s for s in changed.stages}
    joint = stages["joint"]
    assert (changed.seed, changed.rollouts.max_age, changed.objective.path.shift_video) == (7, 0, 3.0)
    assert (joint.steps, joint.optimizer.lr, stages["pretrain-video"].modalities) == (11, 2e-4, ("audio",))
    untouched = {s.name: s for s in tiny.stages if s.name not in ("joint", "pretrain-video")}
    assert {s.name: s for s in changed.stages if s.name in untouched} == untouched


def test_the_last_of_two_settings_wins(tiny: RunConfig) -> None:
    assert with_settings(tiny, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("rollouts.max_aeg=0", r"--set rollouts\.max_aeg: unknown key 'max_aeg'; did you mean 'max_age'\?"),
        ("rolouts.max_age=0", r"unknown key 'rolouts'; did you mean 'rollouts'\?"),
        ("stages.joint.optimizer.lrr=1", r"unknown key 'lrr'; did you mean 'lr'\?"),
        ("zzz=0", r"--set zzz: unknown key 'zzz'; known here: checkpoint, course, data, engine"),
        ("stages.jiont.steps=3", r"there is no stage 'jiont'; the stages are \['pretrain-video'"),
        ("seed", r"--set 'seed': write section\.key=value, for example"),
        ("seed.deep=1", r"--set seed\.deep: seed is a value, not a section"),
        ("rollouts=1", r"--set rollouts: is a section with the fields \['actors'"),
        ("stages.joint=1", r"name a stage and its field, for example --set stages\.joint\.steps=100"),
        ("seed=[1", r"--set seed: '\[1' is not a YAML value"),
    ],
)
def test_a_setting_that_names_nothing_is_refused(tiny: RunConfig, assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        with_settings(tiny, [assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("workers.count=many", r"workers\.count='many': .*integer"),
        ("workers.count=1.5", r"workers\.count=1\.5: .*integer"),
        ("workers.count=null", r"workers\.count=None: .*integer"),
        ("stages.joint.batch=few", r"stages\.joint\.batch='few': .*integer"),
        ("stages.joint.optimizer.lr=fast", r"stages\.joint\.optimizer\.lr='fast': .*number"),
        ("stages.joint.modalities=video", r"stages\.joint\.modalities='video': .*tuple"),
        ("engine.precision=fp16", r"engine\.precision='fp16': .*'fp32' or 'bf16'"),
        ("stages=[]", r"stages=\[\]: at least one stage"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(tiny: RunConfig, assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        with_settings(tiny, [assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("workers.count=0", r"workers\.count=0"),
        ("rollouts.max_age=-1", r"rollouts\.max_age=-1: must be at least 0"),
        ("engine.zero_stage=4", r"engine\.zero_stage=4"),
        ("data.held_out_share=1", r"data\.held_out_share=1(\.0)?: a share between 0 and 1"),
        ("data.width=40", r"data\.width=40, data\.height=32: must be multiples of 16"),
        ("model.video_channels=7", r"model\.video_channels=7: must equal data\.video_codec\.channels=32"),
        ("model.audio_channels=7", r"model\.audio_channels=7: must equal data\.audio_codec\.channels=128"),
        ("model.head_dim=12", r"model\.head_dim=12: must be a positive multiple of 8"),
        ("objective.drop.all=0.95", r"objective\.drop: .*shares of clips must not exceed 1"),
        ("stages.joint.steps=0", r"stage 'joint': steps=0"),
        ("stages.joint.modalities=[vidoe]", r"stage 'joint': modalities=.*vidoe.*video"),
        ("stages.joint.modalities=[]", r"stage 'joint': modalities=\(\)"),
        ("stages.mutual.modalities=[video]", r"stage 'mutual': the mutual objective trains both"),
        ("stages.joint.name=mutual", r"each with its own name"),
        ("name='../evil'", r"name='\.\./evil'.*lower-case"),
    ],
)
def test_a_value_that_its_section_refuses_is_named(tiny: RunConfig, assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        with_settings(tiny, [assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "field", "remedy"),
    [
        ("workers.count=3", "workers.count=3", "does not divide stages.pretrain-video.batch=4; change one of them"),
        ("workers.threads=0", "workers.threads=0", "must be at least 1"),
        ("workers.max_failures=-1", "workers.max_failures=-1", "must be at least 0"),
        ("rollouts.actors=0", "rollouts.actors=0", "must be at least 1"),
        ("rollouts.max_failures=-1", "rollouts.max_failures=-1", "must be at least 0"),
        ("samples.clips=0", "samples.clips=0", "must be at least 1"),
        ("samples.shown=-1", "samples.shown=-1", "must be at least 1"),
        ("samples.multi_steps=0", "samples.multi_steps=0", "must be at least 1"),
        ("samples.multi_guidance=.nan", "samples.multi_guidance=nan", "must be a number from 0"),
        ("samples.multi_guidance=.inf", "samples.multi_guidance=inf", "must be a number from 0"),
        ("stages.joint.optimizer.lr=-1", "optimizer.lr=-1.0", "must be positive"),
        ("stages.joint.optimizer.lr=.nan", "optimizer.lr=nan", "must be positive"),
        ("stages.joint.optimizer.beta2=1", "optimizer.beta2=1.0", "below 1"),
        ("stages.joint.optimizer.clip=-1", "optimizer.clip=-1.0", "must be 0 (off) or more"),
        ("stages.joint.optimizer.weight_decay=.inf", "optimizer.weight_decay=inf", "must be 0 (off) or more"),
        ("stages.joint.optimizer.warmup=1.5", "optimizer.warmup=1.5", "a share from 0 to 1"),
        ("stages.joint.optimizer.decay=-0.1", "optimizer.decay=-0.1", "a share from 0 to 1"),
        ("stages.joint.optimizer.final_lr_share=2", "optimizer.final_lr_share=2.0", "a share from 0 to 1"),
        ("stages.joint.ema=2", "stage 'joint': ema=2.0", "below 1, for example 0.999"),
        ("stages.joint.ema=1", "stage 'joint': ema=1.0", "below 1, for example 0.999"),
        ("stages.joint.objective=mutual", "stages=['joint', 'mutual']", "start the second from a new run"),
        ("seed=-1", "seed=-1", "choose one from 0"),
        ("data.seed=-1", "data.seed=-1", "choose one from 0"),
        ("data.clip_chunks=9", "data.clip_chunks=9: a clip takes 4.54 s, but only 2.6 s are drawn (data.synthetic_seconds)", "lower it"),
        ("data.synthetic_count=1", "data.synthetic_count=1", "drawn from 2 to 99999"),
        ("data.synthetic_seconds=-1", "data.synthetic_seconds=-1.0", "drawn from 1 to 600"),
        ("data.synthetic_seconds=.inf", "data.synthetic_seconds=inf", "drawn from 1 to 600"),
        ("data.width=16", "data.width=16", "drawn from 32 to 2048"),
        ("data.height=-32", "data.height=-32", "must be positive multiples"),
        ("data.timeline.fps=4", "data.timeline.fps=4", "drawn from 8 to 120"),
        ("data.held_out_share=.nan", "data.held_out_share=nan", "a share between 0 and 1"),
        ("data.filters.min_luma=.nan", "data.filters.min_luma=nan", "must be a finite number"),
        ("model.head_dim=0", "model.head_dim=0", "must be a positive multiple of 8"),
        ("model.word_lookahead_s=-1", "model.word_lookahead_s=-1.0", "must be 0 or more seconds"),
        ("model.text.max_words=0", "model.text.max_words=0", "must be at least 1"),
        ("model.rope.time_share=1.5", "model.rope.time_share=1.5", "a share from 0 to 1"),
        ("model.rope.time_wavelengths=[0, 20]", "model.rope.time_wavelengths=[0.0, 20.0]", "need 0 < shortest <= longest"),
        ("objective.shortcut.guidance=.inf", "guidance=inf", "must be"),
    ],
)
def test_a_value_that_would_fail_late_is_refused_at_once(tiny: RunConfig, assignment: str, field: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=re.escape(field)) as caught:
        with_settings(tiny, [assignment])
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_clip_longer_than_what_is_read_of_a_source_is_refused(tiny: RunConfig) -> None:
    with pytest.raises(
        ValueError, match=r"data\.clip_chunks=30000: a clip takes 15000\.04 s, but only 14400 s of a source are read; lower it"
    ):
        with_settings(tiny, ["data.media=clips", "data.clip_chunks=30000"])


def test_half_precision_is_refused_until_its_averages_are_right(tiny: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"engine\.precision='bf16' with engine\.zero_stage=0: .*; use stage 1, 2 or 3"):
        with_settings(tiny, ["engine.precision=bf16", "engine.zero_stage=0"])


@pytest.mark.parametrize(
    "path", [(), ("rollouts",), ("objective", "history"), ("stages", 2), ("stages", 2, "optimizer"), ("objective", "path")]
)
def test_an_unknown_field_of_a_stored_configuration_is_refused_wherever_it_stands(tiny: RunConfig, path: tuple) -> None:
    tree = json.loads(json.dumps(asdict(tiny)))
    node = tree
    for key in path:
        node = node[key]
    node["surprise"] = 1
    with pytest.raises(ValueError, match="surprise: unknown field; "):
        from_tree(tree)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["execution.attention=flex"], r"execution\.attention='flex': .*set it to 'dense'"),
        (["execution.checkpoint_every=1", "objective.fake.kind=lora"], r"execution\.checkpoint_every=1 with objective\.fake\.kind='lora'"),
        (["execution.compile=true", "objective.fake.kind=lora"], r"execution\.compile=true with objective\.fake\.kind='lora'"),
        (["execution.compile=true", "engine.zero_stage=3"], r"execution\.compile=true with engine\.zero_stage=3"),
        (
            ["engine.offload=optimizer", "workers.use_gpu=true", "engine.zero_stage=0"],
            r"engine\.offload='optimizer' with engine\.zero_stage=0",
        ),
    ],
)
def test_ways_of_computing_that_do_not_go_together_are_refused(tiny: RunConfig, settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_settings(tiny, settings)
    for setting in settings:
        if not setting.endswith(("flex", "optimizer")):
            with_settings(tiny, [setting])  # each alone is fine


def test_what_only_a_gpu_does_is_refused_on_a_cpu(tiny: RunConfig) -> None:
    for setting, message in [
        ("execution.attention=flex", r"execution\.attention='flex'"),
        ("engine.offload=optimizer", r"engine\.offload='optimizer': moves the optimizer from a GPU"),
    ]:
        with pytest.raises(ValueError, match=message):
            with_settings(tiny, [setting])
        with_settings(tiny, [setting, "workers.use_gpu=true"])


def test_a_share_of_a_gpu_is_a_single_workers(tiny: RunConfig) -> None:
    assert with_settings(tiny, ["workers.count=1", "workers.gpus=0.5"]).workers.gpus == 0.5
    for settings in (["workers.gpus=0.5"], ["workers.count=1", "workers.gpus=0"], ["workers.count=1", "workers.gpus=1.5"]):
        with pytest.raises(ValueError, match=r"workers\.gpus=.*: must be 1, or a share of a GPU \(0\.5\) for a single worker"):
            with_settings(tiny, settings)


def test_an_actor_has_a_share_of_one_gpu_or_whole_ones(tiny: RunConfig) -> None:
    for fits in ("0", "0.25", "1", "2"):
        with_settings(tiny, [f"rollouts.gpus={fits}"])
    with pytest.raises(ValueError, match=r"rollouts\.gpus=1\.5: must be a share of one GPU, or whole ones"):
        with_settings(tiny, ["rollouts.gpus=1.5"])


def test_settings_are_those_of_the_weights_alone(tiny: RunConfig) -> None:
    assert replace(tiny, samples=SamplesConfig(clips=1)).settings() == tiny.settings()
    assert with_settings(tiny, ["execution.checkpoint_every=1", "execution.compile=true"]).settings() == tiny.settings()
    divided = [
        "workers.count=1",
        "workers.threads=2",
        "engine.zero_stage=2",
        "engine.micro_batch=1",
        "rollouts.actors=1",
        "checkpoint.every=7",
        "profile.steps=2",
    ]
    assert with_settings(tiny, divided).settings() == tiny.settings(), "a run may go on with other processes"
    for assignment in ("seed=1", "stages.joint.steps=7", "objective.shortcut.guidance=2", "model.depth=3"):
        assert with_settings(tiny, [assignment]).settings() != tiny.settings()


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="recipe 'huge': unknown; choose from demo, tiny, paper, mutual"):
        recipe("huge")


def test_every_choice_can_be_written_behind_set() -> None:
    """`--set` reads YAML: a choice named `true`, `off` or `1` would arrive as something else."""

    def choices(kind: Any) -> Iterator[Any]:
        if is_dataclass(kind):
            for hint in get_type_hints(kind).values():
                yield from choices(hint)
        elif get_origin(kind) is Literal:
            yield from get_args(kind)
        else:
            for inner in get_args(kind):
                yield from choices(inner)

    found = list(choices(RunConfig))
    assert {"ode", "ema", "generated"} <= set(found)
    assert all(yaml.safe_load(str(choice)) == choice for choice in found)


def test_a_trace_of_a_stage_that_is_not_there_is_refused(tiny: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"profile\.stages=\['jont'\]: there is no such stage; the stages are \['pretrain-video'"):
        with_settings(tiny, ["profile.stages=[jont]"])
