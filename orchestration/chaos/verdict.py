"""Is every clip and every update of a run accounted for? From what the run left, and nothing that `chaos` saw.

ledger of each stage (every clip of every epoch once)  --+
metrics of each stage (every step once, in order)      --+--> clean, or what is wrong
accounts of its datasets (every source and clip once)  --+
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...datasets.format.manifest import MANIFEST
from ...datasets.progress import silent
from ...datasets.reading.members import members_of
from ...workers.checkpoint import newest
from ..checkpoints import audited
from ..data.verbs import audited as data_audited
from ..run_record import loop_config, open_run
from ..spool_reader import step_of

T = TypeVar("T")
COUNTED = ("sources", "used", "clips", "left_out", "shards")
TRIES, PAUSE = 3, 2.0  # a run that goes on writes and removes checkpoints meanwhile


def judge(run_dir: str, with_data: bool) -> dict[str, Any]:
    """The account of a run, where its folder is. clean: nothing is wrong; faults: what is, in words; stages, data: what was counted;
    not_audited: why its datasets were not read (empty: they were). with_data: read all of them too, of a mix each, where its shards are.
    """
    faults, stages, data = list[str](), list[dict[str, Any]](), None
    try:
        stages = _tried(lambda: audited(run_dir))
        faults += [f"{stage['stage']}: {fault}" for stage in stages for fault in stage["faults"]]
        faults += _tried(lambda: _of_metrics(run_dir))
    except (ValueError, OSError) as error:
        faults.append(f"the ledger cannot be read: {error}")
    not_audited, folder = "" if with_data else "--no-data-audit", Path(run_dir) / "data"
    if with_data and not (folder / MANIFEST).is_file():
        not_audited = f"{folder} has no {MANIFEST}"
    elif with_data:
        try:
            data, wrong = _of_data(folder)
            faults += wrong
        except (ValueError, OSError) as error:
            not_audited = f"it cannot be read: {error}"
            faults.append(f"the dataset cannot be read: {error}")
    counted = [{name: stage[name] for name in ("stage", "steps", "of", "clips", "epochs")} for stage in stages]
    return {"clean": not faults, "faults": faults, "stages": counted, "data": data, "not_audited": not_audited}


def _of_data(folder: Path) -> tuple[dict[str, int], list[str]]:
    """What was counted in all datasets of a run, and what is wrong with them. Shards that are read by ranges are audited in S3."""
    counted, faults = Counter[str](), list[str]()
    for member in members_of(folder):
        found, _ = data_audited(member.uri if member.ranged else str(member.folder), None, (), silent)
        counted.update({name: getattr(found, name) for name in COUNTED})
        own = member.folder == folder and not member.ranged
        faults += [f"dataset{'' if own else f' {member.uri or member.folder}'}: {fault}" for fault in found.faults]
    return {name: counted[name] for name in COUNTED}, faults


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
