"""Kill the training at any step, start it again: the losses that follow are those of a run that was never killed, bit for bit.

The real loop over real stages, engines, checkpoints and rollouts (of the real actor, synchronous: max_age = 0), without Ray around it. The
processes die as after `kill -9`, all at once or one alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes_material import run_processes
from run_material import untrained_run
from s3_server import s3_server
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from mutual_forcing.datasets.ledger import faults, head_of, read_chain
from mutual_forcing.datasets.places import store as store_module
from mutual_forcing.datasets.places.store import store_of
from mutual_forcing.datasets.reading.loader import LatentDataset
from mutual_forcing.model.types import Rollout
from mutual_forcing.orchestration.config import RunConfig, with_settings
from mutual_forcing.orchestration.run_record import loop_config
from mutual_forcing.workers import checkpoint_writer, stage_run
from mutual_forcing.workers.checkpoint import finished, found_in, newest
from mutual_forcing.workers.loop_config import Process, TrainLoopConfig
from mutual_forcing.workers.rollout_actor import RolloutActor, RolloutActorConfig
from mutual_forcing.workers.train_loop import train_stages
from mutual_forcing.workers.wire import Snapshot, rollout_from_arrays

pytestmark = pytest.mark.timeout(600)

SETTINGS = ["workers.count=2", "stages.joint.steps=5", "stages.mutual.steps=5", "stages.mutual.health_every=2", "checkpoint.every=2"]
STAGES = {"joint": 5, "mutual": 5}
OF_TIME = ("_s", "mfu")
OF_MACHINES = ("share/", "system/", "pool/")


class Rollouts:
    """The actor in this process: what it makes is a function of the positions and the weights."""

    def __init__(self, config: TrainLoopConfig, world: int) -> None:
        c = RolloutActorConfig(config.data, config.network, config.timeline, config.objective, config.seed, "mutual", 1)
        self._actor, self._world = RolloutActor(c), world
        self._local = next(s.batch for s in config.stages if s.name == "mutual") // world
        self._latest: list[Any] = [None]
        self.first = -1

    def join(self, rank: int, first: int, saved: Any) -> None:
        self.first = first

    def held(self, first: int, rank: int) -> dict[int, Any]:
        return {}

    def figures(self) -> dict[str, float]:
        return {}

    def publish(self, snapshot: Snapshot) -> None:
        self._latest = [snapshot]

    def take(self, step: int, rank: int) -> Rollout:
        dist.broadcast_object_list(self._latest)
        assert self._latest[0].version == step
        self._actor.load(self._latest[0])
        start = (step * self._world + rank) * self._local
        _, arrays = self._actor.generate(list(range(start, start + self._local)))
        return rollout_from_arrays(arrays)


def stages_of(config: RunConfig) -> RunConfig:
    return replace(config, stages=tuple(s for s in config.stages if s.name in STAGES))


def worker(
    rank: int,
    folder: str,
    world: int,
    settings: list[str],
    dies_at: tuple[str, int] | None,
    dying: int | None,
    patient: bool,
    heard_after: int | None,
    more: bool = False,
) -> None:
    """One process of a training; it dies in the named step, if it is the one to die. patient: not before its checkpoint is written.
    heard_after: steps after which the last rank, and no other, hears that its machine is taken back, or, with `more`, that more workers
    have room.
    """
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    run = Path(folder)
    store = run / f"store-{random.SystemRandom().random()}" if world == 1 else run / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    config = loop_config(stages_of(with_settings(config_of(run), settings)), run)
    if dies_at is not None and dying in (None, rank):
        step_of = stage_run.StageRun._step

        def step(self: Any, step: int) -> None:
            if (self._stage.name, step) == dies_at:
                if patient and self._writer._thread is not None:
                    self._writer._thread.join()
                    dist.barrier()
                os._exit(9)
            step_of(self, step)

        stage_run.StageRun._step = step  # type: ignore[method-assign]
    asked = count(1)
    notice = lambda: rank == world - 1 and heard_after is not None and next(asked) >= heard_after  # noqa: E731
    process = Process(rank, world, room=notice) if more else Process(rank, world, notice=notice)
    train_stages(config, Rollouts(config, world), process)
    dist.destroy_process_group()


def config_of(run: Path) -> RunConfig:
    from mutual_forcing.orchestration.run_record import open_run

    return open_run(run)


def trained(
    run: Path,
    world: int = 2,
    settings: list[str] = SETTINGS,
    dies_at: tuple[str, int] | None = None,
    dying: int | None = None,
    patient: bool = False,
    heard_after: int | None = None,
    more: bool = False,
) -> None:
    (run / "rendezvous").unlink(missing_ok=True)
    run_processes(worker, (str(run), world, settings, dies_at, dying, patient, heard_after, more), world)


def figures(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Every metric of every step that is no time, by stage."""
    made = {}
    for stage in STAGES:
        lines = [json.loads(line) for line in (run / "metrics" / f"{stage}.jsonl").read_text().splitlines()]
        rows = [(line["step"], line["metrics"]) for line in lines if line["metrics"]]
        assert [step for step, _ in rows] == list(range(STAGES[stage]))
        made[stage] = [{k: v for k, v in row.items() if not k.endswith(OF_TIME) and not k.startswith(OF_MACHINES)} for _, row in rows]
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with data and nothing trained."""
    folder = tmp_path_factory.mktemp("resume") / "data"
    untrained_run(folder)
    shutil.rmtree(folder / "checkpoints")
    return folder


@pytest.fixture
def run_of(data: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        shutil.copytree(data, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture(scope="module")
def never_killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    run = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(data, run)
    trained(run)
    assert_every_clip_once(run)
    return figures(run)


def assert_every_clip_once(run: Path, settings: Sequence[str] = SETTINGS) -> None:
    """What the ledger of each stage tells, against the order of training."""
    config = loop_config(stages_of(with_settings(config_of(run), list(settings))), run)
    dataset = LatentDataset(config.data, config.network.text)
    for stage in config.stages:
        last = finished(config.checkpoints, stage.name)
        assert last is not None
        updates = read_chain(config.checkpoints, head_of(last.manifest["ledger"]))
        count = stage.steps * stage.batch
        order = dataset.stage(config.seed, stage.name, stage.batch, stage.modalities)
        assert list(faults(updates, stage.steps, stage.batch, order.ids, (order.at(p)[0] for p in range(count)))) == []


@pytest.mark.parametrize(
    ("stage", "step"),
    [("mutual", 3), *(pytest.param(*at, marks=pytest.mark.slow) for at in (("joint", 0), ("joint", 3), ("mutual", 0), ("mutual", 2)))],
)
def test_after_a_kill_the_losses_are_those_of_a_run_that_was_never_killed(
    run_of: Callable[[str], Path], never_killed: dict[str, list[dict[str, Any]]], stage: str, step: int
) -> None:
    """The second attempt is traced, which changes nothing either."""
    run = run_of("run")
    with pytest.raises(ProcessExitedException):
        trained(run, dies_at=(stage, step))
    trained(run, settings=[*SETTINGS, "profile.steps=1"])
    assert figures(run) == never_killed
    assert_every_clip_once(run)
    traces = {file.name for file in (run / "profile").iterdir()}
    assert traces >= {f"mutual-rank{rank}.json.gz" for rank in range(2)}
    for rank in range(2):
        lines = [json.loads(line) for line in (run / "logs" / f"rank-{rank:05d}.jsonl").read_text().splitlines()]
        assert {line["rank"] for line in lines} == {rank}
        assert sum(line["message"].startswith("attempt ") for line in lines) == 2
        resumed = sum("goes on from checkpoint" in line["message"] for line in lines if line["stage"] == stage)
        assert resumed == (step >= 2) or step == 2, "at 2 the checkpoint of two updates may still be on its way"


@pytest.mark.slow
def test_a_rank_that_hears_of_its_end_has_all_of_them_save_and_stop(
    run_of: Callable[[str], Path], never_killed: dict[str, list[dict[str, Any]]]
) -> None:
    """Some seconds of the default tests: nothing else there sees that notice leads to a checkpoint before the machine is gone."""
    run, settings = run_of("run"), [*SETTINGS, "checkpoint.every=0"]
    with pytest.raises(ProcessRaisedException, match=r"TakenBack.* checkpoint of step 2 of stage 'mutual' is committed"):
        trained(run, settings=settings, heard_after=STAGES["joint"] + 2)
    last = newest(loop_config(config_of(run), run).checkpoints, "mutual")
    assert last is not None
    assert last.step == 2
    trained(run, settings=settings, heard_after=3)  # too late to be of use: after the last step
    assert figures(run) == never_killed
    assert_every_clip_once(run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_over_and_over_at_random_steps_one_rank_alone(
    run_of: Callable[[str], Path], never_killed: dict[str, list[dict[str, Any]]], seed: int
) -> None:
    """Up to ten kills, fewer where the stages are finished before: at any step that is still to be done, of any rank, and whatever the
    checkpoint's threads were doing.
    """
    run, dice = run_of("run"), random.Random(seed)
    store, kills = loop_config(config_of(run), run).checkpoints, 0
    while kills < 10:
        done = {stage: last.step if (last := newest(store, stage)) else 0 for stage in STAGES}
        stage = next((stage for stage, steps in STAGES.items() if done[stage] < steps), None)
        if stage is None:
            break
        with pytest.raises(ProcessExitedException):
            trained(run, dies_at=(stage, dice.randrange(done[stage], STAGES[stage])), dying=dice.randrange(2))
        kills += 1
    trained(run)
    assert kills >= 5
    assert figures(run) == never_killed
    assert_every_clip_once(run)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "stage"), [(2, 1, 1), (1, 2, 2), (2, 1, 3)])
def test_another_number_of_workers_and_another_zero_stage_take_up_the_same_batches(
    run_of: Callable[[str], Path], never_killed: dict[str, list[dict[str, Any]]], before: int, after: int, stage: int
) -> None:
    run = run_of("run")
    with pytest.raises(ProcessExitedException):
        trained(run, before, dies_at=("mutual", 3))
    trained(run, after, [*SETTINGS, f"engine.zero_stage={stage}"])
    assert_the_same_but_for_rounding(run, never_killed)


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "stage"), [((1, 2, 4), 2), ((2, 4, 1), 3)])
def test_a_training_that_grows_and_shrinks_between_two_steps_loses_none(
    run_of: Callable[[str], Path], never_killed: dict[str, list[dict[str, Any]]], sizes: tuple[int, ...], stage: int
) -> None:
    """Of the mutual stage, two steps with the first number of workers, one with the second, the rest with the third; no checkpoint was
    planned.
    """
    run, settings = run_of("run"), [*SETTINGS, "checkpoint.every=0", f"engine.zero_stage={stage}"]
    for world, after, step in ((sizes[0], STAGES["joint"] + 2, 2), (sizes[1], 1, 3)):
        with pytest.raises(ProcessRaisedException, match=rf"MoreRoom: more workers .* checkpoint of step {step} of stage 'mutual' is"):
            trained(run, world, settings, heard_after=after, more=True)
    trained(run, sizes[2], settings)
    assert_the_same_but_for_rounding(run, never_killed)
    lines = [json.loads(line) for line in (run / "metrics" / "mutual.jsonl").read_text().splitlines()]
    assert [line["metrics"].get("system/workers") for line in lines] == [sizes[0], None, sizes[1], sizes[2], None]


def assert_the_same_but_for_rounding(run: Path, never_killed: dict[str, list[dict[str, Any]]]) -> None:
    assert_every_clip_once(run)
    made = figures(run)
    for name, rows in never_killed.items():
        for a, b in zip(made[name], rows, strict=True):
            shared = [k for k in a if k in b and k.startswith(("loss", "dmd", "probe"))]  # norms by part are each rank's own
            assert "loss" in shared
            assert [a[k] for k in shared] == pytest.approx([b[k] for k in shared], rel=2e-3, abs=2e-4), shared


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(
    run_of: Callable[[str], Path], never_killed: dict[str, list[dict[str, Any]]]
) -> None:
    run = run_of("run")
    with pytest.raises(ProcessExitedException):
        trained(run, dies_at=("mutual", 4), patient=True)
    store = loop_config(config_of(run), run).checkpoints
    last = newest(store, "mutual")
    assert last is not None
    assert [f.step for f in found_in(store, "mutual") if f.complete] == [2, 4]
    file = next(Path(store.uri, last.path).glob("fake.*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    trained(run)
    assert figures(run) == never_killed
    notes = [json.loads(line) for line in (run / "metrics" / "mutual.jsonl").read_text().splitlines() if '"note"' in line]
    assert [file.name in note["note"] and "damaged" in note["note"] for note in notes] == [True]
    assert_every_clip_once(run)


def worker_in_an_outage(rank: int, folder: str, settings: list[str], down: Any, up: Any, ends: bool) -> None:
    """One of two processes, which lose S3 from step 1 to step 3 of the mutual stage; ends: or from its last step on, until told."""
    store_module.ATTEMPTS = 1
    checkpoint_writer.PAUSE = 0.1
    step_of, finish = stage_run.StageRun._step, checkpoint_writer.CheckpointWriter.finish

    def step(self: Any, step: int) -> None:
        if self._stage.name == "mutual" and step == (4 if ends else 1):
            if ends:
                self._writer._thread.join()
            down.wait()  # the main process takes the store away between the two
            down.wait()
        if self._stage.name == "mutual" and step == 3 and not ends:
            self._writer._thread.join()
            assert self._writer._error is not None, "the outage was met"
            up.wait()
            up.wait()
        step_of(self, step)

    stage_run.StageRun._step = step  # type: ignore[method-assign]
    if ends:

        def patient(self: Any) -> None:
            if self._last[0].stage == "mutual":
                self._wait()
                assert self._error is not None, "the outage was met"
                up.wait()
                up.wait()
            finish(self)

        checkpoint_writer.CheckpointWriter.finish = patient  # type: ignore[method-assign]
    worker(rank, folder, 2, settings, None if ends else ("mutual", 4), None, not ends, None)


def joined(training: Any) -> None:
    while not training.join():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("ends", [False, True])
def test_a_training_goes_through_an_outage_of_s3(
    run_of: Callable[[str], Path], never_killed: dict[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """In mid-run a checkpoint is lost, and the next one, from which a killed run goes on, accounts for both. The last is tried again."""
    run = run_of("run")
    with s3_server(monkeypatch) as s3:
        settings = [*SETTINGS, f"checkpoint.uri={s3.uri}/checkpoints"]
        context = multiprocessing.get_context("spawn")
        down, up = context.Barrier(3, timeout=120), context.Barrier(3, timeout=120)
        (run / "rendezvous").unlink(missing_ok=True)
        training = spawn(worker_in_an_outage, (str(run), settings, down, up, ends), nprocs=2, join=False)
        assert training is not None
        down.wait()
        s3.up.clear()
        down.wait()
        up.wait()
        s3.up.set()
        up.wait()
        if ends:
            joined(training)
        else:
            with pytest.raises(ProcessExitedException):
                joined(training)
            steps = [f.step for f in found_in(store_of(f"{s3.uri}/checkpoints"), "mutual") if f.complete]
            assert steps == [4], "that of step 2 was lost"
            trained(run, settings=settings)
            notes = [line for line in (run / "metrics" / "mutual.jsonl").read_text().splitlines() if "could not be written" in line]
            assert len(notes) == 1
        assert figures(run) == never_killed
        assert_every_clip_once(run, settings)
