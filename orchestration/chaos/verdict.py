"""Is every clip and every update of a run accounted for? From what the run left, and nothing that `chaos` saw.

ledger of each stage (every clip of every epoch once)  --+
metrics of each stage (every step once, in order)      --+--> clean, or what is wrong
account of the dataset (every source and clip once)    --+
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...datasets.manifest import MANIFEST
from ...datasets.progress import silent
from ...workers.checkpoint import newest
from ..checkpoints import audited
from ..data_verbs import audited as data_audited
from ..run_record import loop_config, open_run
from ..spool_reader import step_of

T = TypeVar("T")
TRIES, PAUSE = 3, 2.0  # a run that goes on writes and removes checkpoints meanwhile


def judge(run_dir: str, with_data: bool) -> dict[str, Any]:
    """The account of a run, where its folder is. clean: nothing is wrong; faults: what is, in words; stages, data: what was counted.
    with_data: read all of its dataset too.
    """
    faults, stages, data = list[str](), list[dict[str, Any]](), None
    try:
        stages = _tried(lambda: audited(run_dir))
        faults += [f"{stage['stage']}: {fault}" for stage in stages for fault in stage["faults"]]
        faults += _tried(lambda: _of_metrics(run_dir))
    except (ValueError, OSError) as error:
        faults.append(f"the ledger cannot be read: {error}")
    folder = Path(run_dir) / "data"
    if with_data and (folder / MANIFEST).is_file():
        try:
            found, _ = data_audited(str(folder), None, (), silent)
            data = {name: getattr(found, name) for name in ("sources", "used", "clips", "left_out", "shards")}
            faults += [f"dataset: {fault}" for fault in found.faults]
        except (ValueError, OSError) as error:
            faults.append(f"the dataset cannot be read: {error}")
    counted = [{name: stage[name] for name in ("stage", "steps", "of", "clips", "epochs")} for stage in stages]
    return {"clean": not faults, "faults": faults, "stages": counted, "data": data}


def _tried(work: Callable[[], T]) -> T:
    for _ in range(TRIES - 1):
        try:
            return work()
        except (ValueError, OSError):
            time.sleep(PAUSE)
    return work()


def _of_metrics(run_dir: str) -> list[str]:
    """What is wrong with the metrics of the updates that checkpoints have. A checkpoint that comes meanwhile has its metrics already."""
    path = Path(run_dir)
    config, faults = open_run(path), list[str]()
    store = loop_config(config, path).checkpoints
    for stage in config.stages:
        if (last := newest(store, stage.name)) is None:
            continue
        content = (path / "metrics" / f"{stage.name}.jsonl").read_bytes()
        steps = [step for line in content.splitlines() if (step := step_of(line)) is not None]
        faults += [f"{stage.name}: {fault}" for fault in of_steps(steps, last.step)]
    return faults


def of_steps(steps: Sequence[int], committed: int) -> list[str]:
    """What is wrong with a stage's steps as its metrics have them; those of updates after the last checkpoint may be missing."""
    wrong = next((i for i, step in enumerate(steps) if step != i), None)
    if wrong is not None:
        return [f"metrics: step {wrong} is expected, and step {steps[wrong]} follows"]
    return [] if len(steps) >= committed else [f"metrics: {len(steps)} steps, and {committed} are in a checkpoint"]
