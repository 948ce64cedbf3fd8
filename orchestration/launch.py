"""Start, run and shut down: data -> one `fit()` over all stages -> samples -> report, all in one run folder."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from ..datasets.lock import locked
from ..datasets.manifest import MANIFEST, read_manifest
from ..datasets.pipeline import prepare, require_unchanged
from ..datasets.progress import Progress
from ..datasets.storage import make_folder, read_json, write_json
from ..datasets.store import is_remote
from ..datasets.transfer import DataSource
from ..model.types import MODALITIES
from ..workers.checkpoint import found_in, is_finished, stage_record
from ..workers.checkpoint_writer import one_line
from ..workers.loop_config import Process, TrainLoopConfig
from ..workers.rollout_actor import RolloutActorConfig
from ..workers.train_loop import train_stages
from .config import RunConfig, from_tree
from .exporter import Exporter
from .failure_policy import Failure, Verdict, curable, decide_run, summary
from .machine import git_state, machine, versions
from .mirror import mirrored
from .preemption import noticed, taken_back
from .preflight import WORKER_CPU, examine, short_of
from .report import build_report
from .restore import MOVED, restore
from .rollout_pool import NoRollouts, RolloutClient, start_pool
from .root_cause import causes
from .run_folder import NOTE, RUN, require_ours, shown_files
from .samples import make_samples, open_generator
from .session import kept_signals, ray_session, uninterrupted
from .spool_watcher import Say, SpoolWatcher
from .tracking import Tracker
from .tracking_calls import redacted


def loop_config(config: RunConfig, run_dir: Path) -> TrainLoopConfig:
    """What the workers get."""
    return TrainLoopConfig(
        data=run_dir / "data",
        run_dir=run_dir,
        network=config.model,
        timeline=config.data.timeline,
        engine=config.engine,
        objective=config.objective,
        stages=config.stages,
        max_bad_steps=config.workers.max_bad_steps,
        seed=config.seed,
        threads=config.workers.threads,
        init=config.init.absolute(),
        execution=config.execution,
        checkpoint=replace(config.checkpoint, uri=config.checkpoint_uri),
        step_deadline_s=config.workers.step_deadline_s,
        profile=config.profile,
    )


def open_run(run_dir: Path) -> RunConfig:
    """The configuration of an existing run.

    Raises:
        ValueError: the folder holds no run.
    """
    tree = _record(run_dir)["config"]
    try:
        return from_tree(tree)
    except ValueError as error:  # of a release that names its fields otherwise
        raise ValueError(f"run {str(run_dir)!r}: {RUN}: {error}; train the run again") from error


def _record(run_dir: Path) -> dict[str, Any]:
    """The run's own record."""
    record = read_json(run_dir / RUN, f"run {str(run_dir)!r} (make it with `mutual-forcing train RECIPE`)")
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise ValueError(f"run {str(run_dir)!r}: its {RUN} holds no configuration; remove the folder and train the run again")
    return record


def train(
    config: RunConfig, run_dir: Path, commands: list[str], progress: Progress, warn: Callable[[str], None], say: Say = lambda _: None
) -> bool:
    """The whole main job in `run_dir`; returns whether there was anything to do. What an earlier, interrupted call finished is reused.

    Raises:
        ValueError: bad input, or the folder holds a run of another configuration, or of data that have changed.
    """
    if restore(config.remote, config.settings(), run_dir, progress):
        warn(f"the run in {config.remote.uri} was brought to {str(run_dir)!r}, and goes on here; let no other machine work on it")
    preflight(config, run_dir, warn)  # before minutes of preparing data, and before a mistyped folder claims the run folder
    make_folder("run", run_dir)
    require_ours(run_dir)
    with locked("run folder", run_dir):
        record = _claim(config, run_dir, commands)
        with mirrored(config.remote, run_dir, not is_remote(config.data.prepared), warn):
            return _train(config, run_dir, record, progress, warn, say)


def preflight(config: RunConfig, run_dir: Path, warn: Callable[[str], None]) -> None:
    """See that the run can start.

    Raises:
        ValueError: it cannot; all problems are named.
    """
    findings = examine(config, run_dir)
    problems = [f.text for f in findings if f.kind == "problem"]
    for finding in findings:
        if finding.kind == "warning":
            warn(finding.text)
    if len(problems) == 1:
        raise ValueError(problems[0])
    if problems:
        raise ValueError(f"{len(problems)} problems: " + " ".join(f"({i}) {text}." for i, text in enumerate(problems, 1)))


def _train(config: RunConfig, run_dir: Path, record: dict[str, Any], progress: Progress, warn: Callable[[str], None], say: Say) -> bool:
    begin = time.monotonic()
    loop = loop_config(config, run_dir)
    todo = [s.name for s in config.stages if not is_finished(loop.checkpoints, s.name)]
    done = not todo and record.get("finished") and (run_dir / "report.html").is_file()
    if done and record.get("tracked", True):
        return False
    for name in MODALITIES:
        if todo and (width := config.model.branch(name).caption_features):
            warn(f"model.{name}.caption_features={width}: prepared clips hold no such features yet, so the {name} branch reads no captions")

    known: set[str] = set()

    def finished(stage: str) -> bool:
        """It stays so; and a store that is away is no reason to stop anything here."""
        with suppress(OSError):
            if stage not in known and is_finished(loop.checkpoints, stage):
                known.add(stage)
        return stage in known

    tracker = Tracker(run_dir, config.name, [s.name for s in config.stages], finished, warn)
    spent, status = record["total_seconds"], "FAILED"

    def keep() -> None:
        """Write the record as it is now: an interrupted run continues from it."""
        run_id = tracker.run_id or record.get("mlflow", {}).get("run_id")  # the store may be away now, and was not before
        record["mlflow"] = {"tracking_uri": redacted(tracker.uri), "run_id": run_id}
        record["tracked"] = tracker.complete
        record["stages"] = [stage_record(loop.checkpoints, s.name) for s in config.stages if finished(s.name)]
        record["total_seconds"] = round(spent + time.monotonic() - begin, 1)
        record["finished"] = status == "FINISHED"
        write_json(run_dir / RUN, record)

    try:
        tracker.open(asdict(config), {"config_hash": config.settings(), "mlflow.note.content": NOTE})
        if done:  # and trained, but the store was away
            for file in shown_files(run_dir):
                tracker.artifact(*file)
            status = "FINISHED"
            return False
        keep()
        if todo or not (loop.data / MANIFEST).is_file():
            with ray_session():
                for text in short_of(config, ray.cluster_resources()):
                    warn(f"{text}; training waits until nodes that have them join the cluster")
                source = DataSource(config.data_uri, _dataset(config, loop.data, record, progress))
                keep()
                if todo:
                    tracker.follow()
                    about = {"config": asdict(config), "settings": config.settings(), "mlflow_run_id": tracker.run_id, **_code(record)}
                    _fit(config, replace(loop, about=json.loads(json.dumps(about)), source=source), run_dir, progress, warn, say)
        shutil.rmtree(run_dir / "samples", ignore_errors=True)  # those of other settings
        make_samples(open_generator(loop, config), run_dir, progress)
        keep()
        build_report(run_dir, progress)
        for file in shown_files(run_dir):
            tracker.artifact(*file)
        status = "FINISHED"
        return True
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with uninterrupted():
            tracker.finish(status)
            keep()


def _dataset(config: RunConfig, data: Path, record: dict[str, Any], progress: Progress) -> str:
    """Have the run's dataset in its folder; what it holds, which is the same as long as the run goes on."""
    if MOVED in record and (data / MANIFEST).is_file():  # what it was made of is on another machine, or has other times here
        contents = read_manifest(data, progress=progress).contents()
    else:
        contents = prepare(config.data, data, progress).contents()
    if record.setdefault("dataset", contents) != contents:
        raise ValueError(f"run {str(data.parent)!r}: its data hold other clips than when it was begun; start another run with --out")
    return contents


def _code(record: dict[str, Any]) -> dict[str, Any]:
    """What the run was begun with: commit and versions."""
    return {name: record[name] for name in ("git_commit", "git_dirty", "versions") if name in record}


def _fit(config: RunConfig, loop: TrainLoopConfig, run_dir: Path, progress: Progress, warn: Callable[[str], None], say: Say) -> None:
    """Train, and start again after failures that another start may cure.

    Raises:
        RuntimeError: it failed for good; the causes of all failures are named.
    """
    failures: list[Failure] = []
    most, window = config.workers.max_failures, config.workers.failure_window_s
    while True:
        try:
            return _fit_once(config, loop, run_dir, progress, warn, say, len(failures))
        except TrainingFailedError as error:
            found, taken = list(causes(error)), taken_back(error)
            cause = next((e for e in found if not curable(e)), found[0])  # a rank that fails takes the others' connections with it
            failures.append(Failure(time.monotonic(), one_line(cause)[:300], curable(cause), _saved(loop), taken))
            if decide_run(failures, most, window) is Verdict.STOP:
                if len(failures) == 1:
                    raise
                raise RuntimeError(summary(failures, window)) from error
            what = "a machine of the training was taken back" if taken else "training failed"
            warn(f"{what} ({failures[-1].cause}); it goes on from its last checkpoint (failure {len(failures)})")


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
    progress: Progress,
    warn: Callable[[str], None],
    say: Say,
    restarts: int,
) -> None:
    workers, name = config.workers, f"fit-{time.time_ns()}"  # the same name would silently resume
    storage = make_folder("run", run_dir / "ray")
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "loop": loop,
            "rollouts": _rollouts(config, loop),
            "use_gpu": workers.use_gpu,
            "run": run_dir.name,
            "restarts": restarts,
        },
        # Objects and metrics are gathered on the CPU, whatever gradients travel by.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if workers.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": WORKER_CPU} | ({"GPU": 1} if workers.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0),  # `_fit` decides
            worker_runtime_env={
                "env_vars": {"OMP_NUM_THREADS": str(workers.threads), "DS_ACCELERATOR": "cuda" if workers.use_gpu else "cpu"}
            },
        ),
    )
    todo = {s.name: s.steps for s in loop.stages if not is_finished(loop.checkpoints, s.name)}
    with SpoolWatcher(run_dir / "metrics", todo, progress, warn, say), kept_signals(signal.SIGINT):
        trainer.fit()
    for attempt in storage.glob("fit-*"):  # the notes of interrupted ones help nobody any more
        if attempt.name != name:
            shutil.rmtree(attempt, ignore_errors=True)


def _worker(settings: dict[str, Any]) -> None:
    context, device = ray.train.get_context(), torch.device("cpu")
    if settings["use_gpu"]:
        device = get_device()
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(device.index)  # DeepSpeed takes the GPU of that number; rollout actors may have the first ones
    observer = Exporter(settings["run"], settings["restarts"])
    process = Process(context.get_world_rank(), context.get_world_size(), str(device), observer, noticed)
    train_stages(settings["loop"], settings["rollouts"], process)


def _rollouts(config: RunConfig, loop: TrainLoopConfig) -> RolloutClient | NoRollouts:
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
    )
    ranks = config.workers.count
    return start_pool(
        actor, config.rollouts.actors, ranks, stage.batch // ranks, stage.steps, config.rollouts.max_age, config.rollouts.max_failures
    )


def _claim(config: RunConfig, run_dir: Path, commands: list[str]) -> dict[str, Any]:
    """The run's record; a folder with a run of other settings or data is refused. Other settings of the samples have them made again."""
    if (run_dir / RUN).is_file():
        record = _record(run_dir)
        if record.get("settings") != config.settings():
            raise ValueError(f"run folder {str(run_dir)!r}: holds a run of another configuration; choose another with --out, or remove it")
        if (where := open_run(run_dir).checkpoint_uri) != config.checkpoint_uri:
            raise ValueError(
                f"checkpoint.uri={config.checkpoint_uri!r}: the checkpoints of the run in {str(run_dir)!r} are in "
                f"{where or str(run_dir / 'checkpoints')!r}; give it back, or choose another run folder with --out"
            )
        if MOVED not in record or config.data.prepared:
            require_unchanged(config.data, run_dir / "data")
        if record["config"] != json.loads(json.dumps(asdict(config))):  # of what may differ: the record says how it goes on
            again = record["config"].get("samples") != asdict(config.samples)
            record |= {"config": asdict(config)} | ({"finished": False} if again else {})
            write_json(run_dir / RUN, record)
        return record
    record = {
        "name": config.name,
        "recipe": config.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **git_state(),
        "settings": config.settings(),
        "config": asdict(config),
        "versions": versions(),
        "machine": machine(),
        "commands": commands,
        "stages": [],
        "total_seconds": 0.0,
    }
    write_json(run_dir / RUN, record)
    return record


def command_line() -> str:
    """The command that started this process, as a user would type it."""
    return shlex.join(["mutual-forcing", *sys.argv[1:]])
