"""The plan: what JSON has, what fits, and what is said where nothing does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.orchestration.config import RunConfig
from mutual_forcing.orchestration.planning.actors import actor_parts, clips_that_fit
from mutual_forcing.orchestration.planning.assumed import LOW_MFU, Assumed
from mutual_forcing.orchestration.planning.calibration import Calibration, Measured, fitted, read_calibration, write_calibration
from mutual_forcing.orchestration.planning.gpus import GPUS, gpu
from mutual_forcing.orchestration.planning.host import LIBRARIES, process_of
from mutual_forcing.orchestration.planning.layout import counts_of_trainers
from mutual_forcing.orchestration.planning.loads import Choice, load, step
from mutual_forcing.orchestration.planning.plan import Plan, Wish, make_plan
from mutual_forcing.orchestration.planning.timing import Speeds, Work, work
from mutual_forcing.orchestration.planning.traffic import Checkpoints, Saved, checkpoints, corpus, saved
from mutual_forcing.orchestration.runs import configured

GPU = ["workers.use_gpu=true", "workers.count=1", "engine.micro_batch=0"]


STEPS = tuple(Measured(flops, 1e9 * k, flops / 2e13 + k * 1e9 / 1e12) for k, flops in ((1, 1e13), (2, 9e13)))  # of 20 TFLOP/s and 1 TB/s


def planned(recipe: str, gpus: int, kind: str, *settings: str, host: int | None = None) -> tuple[Plan, RunConfig]:
    config = configured(recipe, None, [*GPU, *settings])
    return make_plan(config, Wish(recipe, gpus, kind, gpu(kind), 3.9, host), Assumed()), config


@pytest.fixture(scope="module")
def paper() -> tuple[Plan, RunConfig]:
    return planned("paper", 64, "h200")


def test_json_has_what_a_script_reads(paper: tuple[Plan, RunConfig]) -> None:
    plan, config = paper
    made = json.loads(json.dumps(plan.to_json(config)))
    assert made.keys() >= {"memory", "zero", "hours", "cost", "layout", "assumptions"}
    assert [row["zero"] for row in made["zero"]] == [0, 1, 2, 3]
    assert all(sum(row["parts"].values()) == row["total"] for row in made["zero"])
    assert all(sum(row["parts"].values()) == row["total"] for row in made["memory"].values())
    assert all(row["from"] for row in made["assumptions"].values())
    assert made["hours"] == pytest.approx(sum(made["stage_hours"].values()))
    assert made["cost"] == pytest.approx(made["hours"] * made["layout"]["gpus"] * 3.9)


def test_the_layout_fits_and_divides_all_batches(paper: tuple[Plan, RunConfig]) -> None:
    plan, config = paper
    assert plan.layout is not None
    choice = plan.layout.fit.choice
    assert all(row["total"] <= plan.wish.gpu.memory for row in plan.memory.values())
    assert all(stage.batch % choice.trainers == 0 for stage in config.stages)
    assert plan.layout.gpus <= 64
    assert plan.layout.actors == min(plan.layout.wanted, 64 - choice.trainers)
    for stage, shares in plan.shares.items():
        assert sum(shares.values()) == pytest.approx(1), stage


def test_where_nothing_fits_it_is_said_what_would() -> None:
    plan, _ = planned("paper", 4, "a100-40")
    assert plan.layout is None
    assert plan.hours is None
    assert "fits" in plan.remedy
    assert all(fit.why for fit in plan.zero)


def test_an_unknown_gpu_lists_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"--gpu='b300': unknown; choose from a100-40, .*h200") as raised:
        gpu("b300")
    assert "\n" not in str(raised.value)
    assert all(name in str(raised.value) for name in GPUS)


def test_a_mutual_stage_wants_a_gpu_besides_the_trainers() -> None:
    with pytest.raises(ValueError, match="--gpus=1"):
        planned("demo", 1, "h100")
    config = configured("demo", None, GPU)
    assert counts_of_trainers(config, 8) == [4, 2, 1]


def test_a_recipe_without_rollouts_needs_no_gpu_for_them() -> None:
    plan, _ = planned("sc-tf", 1, "h100")
    assert plan.layout is not None
    assert (plan.layout.fit.choice.trainers, plan.layout.actors) == (1, 0)


def test_a_calibration_of_another_gpu_or_precision_is_refused() -> None:
    config, wish = configured("demo", None, GPU), Wish("demo", 4, "h100", gpu("h100"), 3.9)
    with pytest.raises(ValueError, match=r"--calibration: of 'NVIDIA H200', --gpu=h100"):
        make_plan(config, wish, Assumed(), Calibration("NVIDIA H200", "fp32", STEPS))
    with pytest.raises(ValueError, match=r"--calibration: measured in bf16, and the recipe trains in fp32; .*--precision fp32") as raised:
        make_plan(config, wish, Assumed(), Calibration(wish.gpu.name, "bf16", STEPS))
    assert "\n" not in str(raised.value)


def test_a_measured_speed_takes_the_place_of_the_assumed_one() -> None:
    config, wish = configured("demo", None, GPU), Wish("demo", 4, "h100", gpu("h100"), 3.9)
    plan = make_plan(config, wish, Assumed(), Calibration(wish.gpu.name, "fp32", STEPS))
    assert plan.assumptions["mfu"]["value"] == pytest.approx(2e13 / 67e12, rel=1e-3)
    assert plan.assumptions["bandwidth"]["value"] == pytest.approx(1e12, rel=1e-3)
    slower = make_plan(config, wish, Assumed(mfu=1e-3))
    assert plan.layout is not None
    assert slower.layout is not None
    assert slower.layout.seconds > plan.layout.seconds


def test_the_peak_is_that_of_the_precision() -> None:
    """An H100's: 67 TFLOP/s in fp32, 989 in bf16."""
    flops = {}
    for precision in ("fp32", "bf16"):
        plan, config = planned("demo", 4, "h100", f"engine.precision={precision}", "engine.zero_stage=1")
        assert plan.layout is not None
        name = config.stages[0].name
        done = work(step(config, config.stages[0], plan.layout.fit.choice)).flops
        flops[precision] = done / (plan.layout.step_s[name] * plan.shares[name]["training"])
    assert flops["fp32"] == pytest.approx(0.24 * 67e12)
    assert flops["bf16"] == pytest.approx(0.24 * 989e12)


def test_hours_are_a_range_unless_the_speed_is_known(paper: tuple[Plan, RunConfig]) -> None:
    plan, config = paper
    made = plan.to_json(config)
    assert made["hours_low"] == made["hours"]
    assert made["cost_high"] / made["cost_low"] == pytest.approx(made["hours_high"] / made["hours_low"])
    known = make_plan(config, plan.wish, Assumed(mfu=LOW_MFU, network=50e9))
    assert known.slow is None
    assert known.hours == known.hours_high
    assert plan.layout is not None
    assert plan.slow is not None
    assert plan.slow.actors == plan.layout.actors
    slow = {name: seconds for name, seconds in plan.slow.step_s.items() if name != "mutual"}
    for name, seconds in slow.items():  # training takes 24/11 of its time, all else as long
        was = plan.layout.step_s[name]
        assert seconds - was == pytest.approx(was * plan.shares[name]["training"] * (24 / 11 - 1)), name


@pytest.mark.parametrize("kind", GPUS)
def test_the_network_is_that_of_the_kind(kind: str) -> None:
    expected = {"a100-40": 6.25e9, "a100-80": 6.25e9, "h100": 50e9, "h100-nvl": 5e9, "h200": 50e9}
    assert Assumed().on(gpu(kind)).network == expected[kind]
    assert Assumed(network=1e9).on(gpu(kind)).network == 1e9


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e300, -1.0])
@pytest.mark.parametrize("name", [*vars(Assumed()), "price"])
def test_a_number_that_no_plan_can_be_made_with_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')}="):
        Wish("demo", 4, "h100", gpu("h100"), value) if name == "price" else Assumed(**{name: value})  # pyright: ignore[reportArgumentType]


def test_a_rollout_gpu_takes_as_many_clips_as_it_has_room_for() -> None:
    """`paper` with 8 trainers has 16 clips a process: 56.8 GB of weights, 25.3 of caches and 15.9 of text are more than 80 GB."""
    plan, config = planned("paper", 12, "h100")
    assert plan.layout is not None
    assert plan.layout.fit.choice.trainers == 8
    parts = {name: value / 1e9 for name, value in actor_parts(config, 16).items()}
    # fp32: 14.198 B weights; 31 layers of keys and values of 3584 over 7,107 tokens; 30 layers of 2 texts of 512 + the words + 1
    assert parts["weights"] == pytest.approx(4 * 14.198410496)
    assert parts["caches"] == pytest.approx(25.27, abs=0.01)
    assert parts["text"] == pytest.approx(16 * 4 * 30 * 2 * (512 + config.model.text.max_words + 1) * 2 * 3584 / 1e9)
    assert (plan.layout.clips, plan.layout.asked) == (8, 16)
    assert sum(plan.actor.values()) <= plan.wish.gpu.memory < sum(actor_parts(config, 16).values())
    assert plan.to_json(config)["rollouts"]["total"] == sum(plan.actor.values())
    assert any("rollouts.clips=8" in line for line in plan.remarks)
    assert "--set rollouts.clips=8" in plan.remarks[-1]


def test_a_gpu_without_room_for_one_clip_makes_no_rollouts() -> None:
    config = configured("paper", None, GPU)
    assert clips_that_fit(config, 32, 57 * 10**9) == (0, 4)
    assert clips_that_fit(config, 32, 80 * 10**9) == (4, 4)


def test_host_memory_of_the_paper_by_hand(paper: tuple[Plan, RunConfig]) -> None:
    """56.8 GB of first weights stay; where a stage goes on, a network is made beside the weights that it is given."""
    plan, _ = paper
    one, n = plan.host.process, 14_198_410_496
    assert one.start == LIBRARIES + 3 * 4 * n
    assert one.training == LIBRARIES + 2 * 4 * n  # the average that it leaves; the optimizer is the GPU's
    assert plan.host.processes == 8
    assert plan.host.store == pytest.approx(57.9e9, abs=0.1e9)  # two versions in bf16 are 56.8, and rollouts that wait
    assert plan.host.node == 8 * one.start + plan.host.store


def test_an_offloaded_optimizer_is_the_hosts() -> None:
    plan, _ = planned("paper", 64, "h100")
    assert plan.layout is not None
    assert plan.layout.fit.choice.offload
    n = 14_198_410_496
    config = configured("paper", None, GPU)
    of = process_of("mutual", load(config, config.stages[-1], plan.layout.fit.choice))
    assert of.optimizer == pytest.approx(2 * 12 * n / 32, rel=1e-3)


def test_host_memory_is_a_limit_where_it_is_given() -> None:
    plan, config = planned("paper", 64, "h200", host=500 * 10**9)
    assert plan.layout is None
    assert "--host-memory=" in plan.remedy
    needed = int(plan.remedy.split("--host-memory=")[1].split()[0])
    larger, _ = planned("paper", 64, "h200", host=needed * 10**9)
    assert larger.layout is not None
    assert larger.host.node <= needed * 10**9
    assert not plan.to_json(config)["layout"]


@settings(max_examples=50)
@given(st.floats(1e11, 1e15), st.floats(1e9, 1e13))
def test_speeds_are_found_again(speed: float, bandwidth: float) -> None:
    works = [(1e12, 1e9), (3e12, 1e9), (2e12, 8e9), (1e12, 2e10)]
    steps = [Measured(f, b, f / speed + b / bandwidth) for f, b in works]
    found, moved = fitted(steps, 1e12)
    assert 5e12 / found + 5e9 / moved == pytest.approx(5e12 / speed + 5e9 / bandwidth, rel=0.05)


def test_a_calibration_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = Calibration("cpu", "fp32", (Measured(1e12, 1e9, 2.0),))
    write_calibration(tmp_path / "c.json", made)
    assert read_calibration(tmp_path / "c.json") == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"device": "cpu", "precision": "fp32", "steps": [{"flops": -1, "bytes": 1, "seconds": 1}]}',
        '{"device": "cpu", "precision": "fp32", "steps": []}',
        '{"device": "cpu", "precision": "fp8", "steps": [{"flops": 1, "bytes": 1, "seconds": 1}]}',
        '{"device": "cpu", "steps": [{"flops": 1, "bytes": 1, "seconds": 1}]}',
        '{"device": "cpu", "precision": "fp32", "steps": [{"flops": 1, "bytes": 1, "seconds": 1}], "speed": 1}',
        "NaN",
    ],
)
def test_a_file_that_is_no_calibration_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match="--calibration=") as raised:
        read_calibration(tmp_path / "c.json")
    assert "\n" not in str(raised.value)


def test_seconds_are_the_sum_of_their_shares() -> None:
    done, speeds = Work(4e12, 1e12, 1e9, 2e9), Speeds(2e12, 1e12, 1e9, 1e9, 1e9)
    assert done.seconds(speeds) == 2 + 1 + 1 + 2
    assert done.shares(speeds) == {"training": 2 / 6, "teacher": 1 / 6, "optimizer": 1 / 6, "communication": 2 / 6}


def test_checkpoints_of_the_paper_by_hand(paper: tuple[Plan, RunConfig]) -> None:
    """V = 7.099664064e9 and A = 7.098746432e9 weights, N both. A checkpoint: 8 N of live and averaged weights, 8 of what is trained, 12 N
    of a fake score; the last of a stage has no moments.
    """
    plan, _ = paper
    assert plan.checkpoints is not None
    v, a = 7_099_664_064, 7_098_746_432
    n = v + a
    of = {name: (one.size, one.last, one.count) for name, one in plan.checkpoints.stages.items()}
    assert of == {
        "pretrain-video": (8 * n + 8 * v, 8 * n, 200),
        "pretrain-audio": (8 * n + 8 * a, 8 * n, 200),
        "joint": (16 * n, 8 * n, 200),
        "mutual": (28 * n, 12 * n, 40),
    }
    assert plan.checkpoints.size == 397_555_493_888
    assert plan.checkpoints.count == 640
    assert plan.checkpoints.bytes / 1e12 == pytest.approx(129.04, abs=0.01)  # 199 x 2 x 170.38 + 199 x 227.17 + 39 x 397.56 + 511.1 GB
    assert plan.checkpoints.bytes / 1e12 == pytest.approx((199 * 2 * 170.38 + 199 * 227.17 + 39 * 397.56 + 511.1) / 1e3, rel=1e-4)


def test_a_checkpoint_that_takes_longer_than_the_notice_is_late() -> None:
    def made(step_s: float) -> Checkpoints:
        one = saved(10**9, 10**9, 0, 500, 100)
        return checkpoints({"joint": one}, {"joint": 500}, {"joint": step_s}, 100, 8, 1e9, 1e10)

    assert made(1.0).size == 16 * 10**9
    assert made(1.0).drain_s == pytest.approx(5 + 1 + 0.2 + 2)
    assert made(1.0).lost_s == pytest.approx(100 * 1 + 2)  # the steps between two, and the upload of the one before
    assert made(1.0).in_time
    assert not made(120.0).in_time


def test_an_unfinished_interval_ends_with_a_checkpoint_too() -> None:
    assert saved(1, 1, 0, 250, 100).count == 3
    assert saved(1, 1, 0, 250, 0) == Saved(16, 8, 1)


def test_zero_3_gathers_the_fake_score_for_dmd_too() -> None:
    """Once for a micro-batch, beside its own 5 updates of 3 readings, and a gradient that is shared out in each."""
    config = configured("paper", None, GPU)
    of = step(config, config.stages[-1], Choice(32, 3, 2, 1))
    fake = work(of).sent - work(replace(of, fake=0)).sent
    micros = 128 // 32 // 2
    assert fake == pytest.approx(31 / 32 * 2 * of.fake * micros * (5 * 3 + 5 + 1))


def test_a_corpus_by_hand() -> None:
    """300 kB of latents and 600 bytes of record a clip, in shards of 128 MiB; half a clip a second and CPU."""
    made = corpus(10**6, 300_000, 0.01, 4.0, 0.5, 64)
    assert made.bytes == 300_600_000_000
    assert made.shards == 2240  # 2239.6
    assert made.objects == 4483
    assert made.node_hours == pytest.approx(10**6 / 0.5 / 64 / 3600)
    assert made.table == 120_000_000
    assert (made.datasets, made.why) == (1, "")


def test_a_corpus_of_more_sources_than_a_dataset_has_is_several() -> None:
    assert corpus(4 * 10**6, 300_000, 0.01, 4.0, 0.5, 64).datasets == 1
    made = corpus(10**8, 300_000, 0.01, 4.0, 0.5, 64)
    assert made.datasets == 25
    assert "25,000,000 sources" in made.why
    assert "at most 1,000,000" in made.why
