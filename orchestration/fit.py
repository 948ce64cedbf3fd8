"""Training by Ray Train: one `fit()` over all stages, started again after what another start may cure."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.exceptions import RayError
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from ..datasets.places.storage import make_folder
from ..datasets.progress import Progress
from ..workers.checkpoint import found_in, is_finished
from ..workers.loop_config import Process, TrainLoopConfig
from ..workers.notice import no_notice
from ..workers.rollout_actor import RolloutActorConfig
from ..workers.train_loop import train_stages
from .away.courier import Courier
from .away.outpost import folder_for
from .config import RunConfig
from .elastic.change import WORKERS, Change
from .elastic.events import Events
from .elastic.places import Vacancy, end_places, room_for
from .elastic.watch import ChangeWatcher
from .exporter import Exporter
from .failure_policy import Failure, Verdict, curable, decide_run, pause_s, summary, told
from .preemption import made_room, not_placed, noticed, taken_back
from .preflight import reserved
from .rollout_pool import NoRollouts, RolloutClient, start_pool
from .root_cause import causes
from .session import kept_signals
from .spool_watcher import Say, SpoolWatcher
from .stopping import Stopping, ToldToStop
from .streams import Plan, Streams, open_streams, passes_of, plan_streams

LOST = "a worker was lost"


def fit(config: RunConfig, loop: TrainLoopConfig, run_dir: Path, progress: Progress, warn: Callable[[str], None], say: Say) -> None:
    """Train, and start again after failures that another start may cure, and where more machines have come.

    Raises:
        RuntimeError: it failed for good; the causes of all failures are named.
    """
    failures: list[Failure] = []
    todo = {s.name: s.steps for s in loop.stages}
    most, window = config.workers.max_failures, config.workers.failure_window_s
    plan = plan_streams(config, loop, _unfinished(loop, todo), progress, warn)
    rollouts, size, why = None, 0, "training begins"
    events = Events(run_dir, say)
    with ExitStack() as stack:
        stack.callback(lambda: rollouts and rollouts.close())
        watcher = stack.enter_context(ChangeWatcher(events))
        while True:
            todo = _unfinished(loop, todo)
            before, size = size, _size(config, warn)
            events.show(WORKERS, size)
            if size != before and config.workers.least < config.workers.count:
                gone = why == LOST and watcher.lost()  # asked here: a worker's end is known before that of its machine
                events.tell(Change(WORKERS, before, size, "a machine was lost" if gone else why))
            if rollouts is None or size != before or (failures and not rollouts.serves()):
                if rollouts is not None:
                    watcher.look()
                    rollouts.close()
                rollouts = _rollouts(config, loop, size)
                watcher.follow(rollouts)
            try:
                return _fit_once(config, loop, run_dir, rollouts, plan, todo, progress, warn, say, len(failures), size)
            except (TrainingFailedError, RayError) as error:  # the latter: of the controller, whose process is gone
                if made_room(error) or not_placed(error):  # nobody's failure
                    why = "machines came" if made_room(error) else "machines went before it began"
                    continue
                found, taken = list(causes(error)), taken_back(error)
                why = "a machine was taken back" if taken else LOST
                cause = next((e for e in found if not curable(e)), found[0])  # a rank that fails takes the others' connections with it
                failures.append(Failure(time.monotonic(), told(cause), curable(cause), _saved(loop), taken))
                if decide_run(failures, most, window) is Verdict.STOP:
                    if len(failures) == 1 and not isinstance(cause, torch.OutOfMemoryError):
                        raise
                    raise RuntimeError(summary(failures, window)) from error
                what = "a machine of the training was taken back" if taken else "training failed"
                pause = pause_s(failures)
                after = f" in {pause:.0f} s" if pause else ""
                warn(f"{what} ({failures[-1].cause}); it goes on from its last checkpoint{after} (failure {len(failures)})")
                del found, cause  # they keep what failed alive
            time.sleep(pause)  # outside the handler: what stops it has no other cause


def _size(config: RunConfig, warn: Callable[[str], None]) -> int:
    """How many workers the next start has. A fixed number waits within Ray Train, as long as it takes."""
    workers = config.workers
    return workers.count if workers.least == workers.count else room_for(reserved(workers), config.sizes, warn)


def _unfinished(loop: TrainLoopConfig, before: dict[str, int]) -> dict[str, int]:
    """Steps of the stages that are not finished, by name; as they were `before` where that cannot be told."""
    with suppress(OSError):
        return {s.name: s.steps for s in loop.stages if not is_finished(loop.checkpoints, s.name)}
    return before


def _saved(loop: TrainLoopConfig) -> int:
    """Steps of all stages that checkpoints have; 0 where that cannot be told."""
    last: dict[str, int] = {}
    with suppress(OSError):
        for found in found_in(loop.checkpoints):
            if found.complete:
                last[found.stage] = max(found.step, last.get(found.stage, 0))
    return sum(last.values())


def _fit_once(
    config: RunConfig,
    loop: TrainLoopConfig,
    run_dir: Path,
    rollouts: RolloutClient | NoRollouts,
    plan: Plan | None,
    todo: dict[str, int],
    progress: Progress,
    warn: Callable[[str], None],
    say: Say,
    restarts: int,
    size: int,
) -> None:
    name, storage = f"fit-{time.time_ns()}", make_folder("run", run_dir / "ray")  # the same name would silently resume
    with open_streams(plan, progress, warn) as streams:
        trainer = _trainer(config, loop, run_dir, rollouts, streams, restarts, name, size)
        watch = SpoolWatcher(run_dir / "metrics", todo, progress, warn, say)
        with ExitStack() as after, Stopping(name, warn), watch, Courier(run_dir, name, warn), kept_signals(signal.SIGINT):
            if size < config.workers.count:
                after.callback(end_places, name, config.sizes, size)
            trainer.fit()
    for attempt in storage.glob("fit-*"):  # the notes of interrupted ones help nobody any more
        if attempt.name != name:
            shutil.rmtree(attempt, ignore_errors=True)


def _trainer(
    config: RunConfig,
    loop: TrainLoopConfig,
    run_dir: Path,
    rollouts: RolloutClient | NoRollouts,
    streams: Streams,
    restarts: int,
    name: str,
    size: int,
) -> TorchTrainer:
    workers = config.workers
    elastic = workers.least < workers.count
    return TorchTrainer(
        _worker,
        train_loop_config={
            "loop": loop,
            "rollouts": rollouts,
            "use_gpu": workers.use_gpu,
            "run": run_dir.name,
            "restarts": restarts,
            "training": name,
            "passes": passes_of(streams, config.data.stream_shuffle),
            "vacancy": partial(Vacancy, reserved(workers), config.sizes, size, workers.resize_every_s, name)
            if size < workers.count
            else None,
        },
        datasets=dict(streams.datasets),
        dataset_config=streams.options,
        # Objects and metrics are gathered on the CPU, whatever gradients travel by.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if workers.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=size,
            use_gpu=workers.use_gpu,
            resources_per_worker=reserved(workers),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(run_dir / "ray"),
            # `fit` decides. A fixed number waits for its machines; another one is chosen again where they do not come.
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=0 if elastic else -1, max_preemption_failures=0
            ),
            worker_runtime_env={
                "env_vars": {"OMP_NUM_THREADS": str(workers.threads), "DS_ACCELERATOR": "cuda" if workers.use_gpu else "cpu"}
            },
        ),
    )


def _worker(settings: dict[str, Any]) -> None:
    context, device, loop = ray.train.get_context(), torch.device("cpu"), settings["loop"]
    if settings["use_gpu"]:
        device = get_device()
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(device.index)  # DeepSpeed takes the GPU of that number; rollout actors may have the first ones
    observer = Exporter(settings["run"], settings["restarts"])
    rank, vacancy = context.get_world_rank(), settings["vacancy"]
    told = ToldToStop(settings["training"]) if rank == 0 else no_notice

    def notice() -> bool:
        return noticed() or told()

    with vacancy() if vacancy is not None and rank == 0 else nullcontext(no_notice) as room:
        folder = folder_for(loop.run_dir, settings["training"])
        process = Process(rank, context.get_world_size(), str(device), observer, notice, room, settings["passes"], folder)
        train_stages(loop, settings["rollouts"], process)


def _rollouts(config: RunConfig, loop: TrainLoopConfig, size: int) -> RolloutClient | NoRollouts:
    mutual = [s for s in config.stages if s.objective == "mutual" and config.objective.needs_rollouts]
    if not mutual:
        return NoRollouts()
    (stage,) = mutual  # the configuration allows one
    actor = RolloutActorConfig(
        data=loop.data,
        network=loop.network,
        timeline=loop.timeline,
        objective=config.objective,
        seed=config.seed,
        stage=stage.name,
        threads=config.rollouts.threads,
        execution=config.execution,
        source=loop.source,
        device="cuda" if config.rollouts.gpus else "cpu",
        batch=stage.batch,
    )
    return start_pool(actor, config.rollouts, size, stage.batch, stage.steps)
