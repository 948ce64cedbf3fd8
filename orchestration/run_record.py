"""run.json: what a run is, in its folder, and what its workers are given of it."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..datasets.places.storage import read_json, write_json
from ..datasets.unchanged import require_unchanged
from ..model.types import MODALITIES
from ..workers.loop_config import TrainLoopConfig
from .config import RunConfig, from_tree
from .machine import git_state, machine, versions
from .restore import MOVED
from .run_folder import RUN


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
        publish_every=config.rollouts.publish_every,
        published=config.rollouts.weights,
        direct=config.rollouts.direct,
    )


def require_both(config: RunConfig, stage: str) -> None:
    """Raises ValueError unless both modalities have been trained when this stage ends: clips need both."""
    trained = set(config.init.folders())
    for each in config.stages:
        trained |= set(each.modalities)
        if each.name == stage:
            break
    if lacking := [name for name in MODALITIES if name not in trained]:
        known = [s.name for s in config.stages]
        later = f"give a later one of {', '.join(known)}" if stage != known[-1] else "train a stage of both"
        raise ValueError(f"stage {stage!r}: its {lacking[0]} branch is as random as at the start, and clips need both; {later}")


def open_run(run_dir: Path) -> RunConfig:
    """The configuration of an existing run.

    Raises:
        ValueError: the folder holds no run.
    """
    tree = read_record(run_dir)["config"]
    try:
        return from_tree(tree)
    except ValueError as error:  # of a release that names its fields otherwise
        raise ValueError(f"run {str(run_dir)!r}: {RUN}: {error}; open it with the release that wrote it, or train the run again") from error


def read_record(run_dir: Path) -> dict[str, Any]:
    """The run's own record."""
    record = read_json(run_dir / RUN, f"run {str(run_dir)!r} (make it with `mutual-forcing train RECIPE`)")
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise ValueError(f"run {str(run_dir)!r}: its {RUN} holds no configuration; remove the folder and train the run again")
    return record


def claim(config: RunConfig, run_dir: Path, commands: list[str]) -> dict[str, Any]:
    """The run's record; a folder with a run of other settings or data is refused. Other settings of the samples have them made again."""
    if (run_dir / RUN).is_file():
        record = read_record(run_dir)
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
