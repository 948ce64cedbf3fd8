"""What can be done with the checkpoints of a run: list, verify, prune, export, and audit their ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safetensors.torch import save_file

from ..datasets.format.manifest import MANIFEST
from ..datasets.ledger import Update, consumed, faults, head_of, read_chain
from ..datasets.places.lock import locked
from ..datasets.places.storage import local_path, make_folder, sha256_file, write_json
from ..datasets.places.store import LocalStore, Store, below, is_remote, store_of
from ..datasets.reading.loader import LatentDataset
from ..model.types import MODALITIES
from ..workers.checkpoint import Checkpoint, Found, found_in, newest
from ..workers.loop_config import StageConfig
from ..workers.retention import CheckpointConfig, abandoned, kept_for_course, remove
from ..workers.standing import best_of, read_standing
from .config import RunConfig, from_tree
from .model_record import controls_of, dataset_of, record_of_run
from .restore import remote_record
from .run_folder import RUN
from .run_record import loop_config, open_run

FORMAT, WEIGHTS = "mutual-forcing weights 2", "weights.json"


def store_of_run(run: str) -> Store:
    """The checkpoints of a run folder (here or in S3), or of the folder or prefix that holds them.

    Raises:
        ValueError: it is neither.
    """
    if is_remote(run):
        with store_of(run) as store:
            record = remote_record(store)
        return store if record is None else store_of(from_tree(record["config"]).checkpoint_uri or below(run, "checkpoints"))
    path = local_path("run", run)
    if (path / RUN).is_file():
        return loop_config(open_run(path), path).checkpoints
    if not path.is_dir():
        raise ValueError(f"run {run!r}: does not exist; give a run folder, or the folder of its checkpoints")
    return LocalStore(path)


def listed(run: str) -> list[dict[str, Any]]:
    """A record of each: path (with its store), stage, step, complete, bytes, best."""
    store = store_of_run(run)
    return _records(store, found_in(store))


def verified(run: str) -> list[dict[str, Any]]:
    """The same with `damage`: what is wrong with a complete one, or empty."""
    store, records = store_of_run(run), []
    every = found_in(store)
    for found, record in zip(every, _records(store, every), strict=True):
        damage = ""
        if found.complete:
            try:
                Checkpoint(store, found.path).verify()
            except (ValueError, OSError) as error:
                damage = str(error)
        records.append(record | {"damage": damage})
    return records


def pruned(run: str, keep_last: int, keep_every: int, dry_run: bool) -> list[str]:
    """Remove what is not kept, and what was never committed unless something was added to it within the last hour; their paths.

    Raises:
        ValueError: a command is working in the run folder. Of a run in S3, or a folder of checkpoints alone, nobody can tell.
    """
    config, store = CheckpointConfig(keep_last=keep_last, keep_every=keep_every), store_of_run(run)
    path = None if is_remote(run) else local_path("run", run)
    if path is not None and (path / RUN).is_file():
        with locked("run folder", path):
            return _pruned(store, config, dry_run)
    return _pruned(store, config, dry_run)


def _pruned(store: Store, config: CheckpointConfig, dry_run: bool) -> list[str]:
    every = found_in(store)
    gone: list[Found] = []
    for stage in sorted({f.stage for f in every}):
        of_stage = [f for f in every if f.stage == stage]
        last = newest(store, stage)
        steps = last.manifest["steps"] if last is not None else -1
        keeps = config.keeps(of_stage, steps) | kept_for_course(store, stage, of_stage, steps)
        gone += [f for f in of_stage if f.path not in keeps and (f.complete or abandoned(store, f))]
    for found in gone if not dry_run else ():
        remove(store, found)
    return [f"{store.uri}/{f.path}" for f in gone]


def exported(run: str, out: str, stage: str, step: int, role: str, branch: str, best: bool = False) -> dict[str, Any]:
    """Write the weights of one network as safetensors, a file a branch, and weights.json with what they are; returns the latter. Of a run
    folder here it tells the model too (`ModelRecord`): codecs, clock, licences, all that clips need.

    best: of the checkpoint that evaluations found best.

    Raises:
        ValueError: there is no such checkpoint, role or branch, or the folder holds files.
    """
    store, folder = store_of_run(run), make_folder("--out", local_path("--out", out))
    if any(folder.iterdir()):
        raise ValueError(f"--out={out!r}: is not empty; choose another folder")
    if branch not in (*MODALITIES, "both"):
        raise ValueError(f"--branch={branch!r}: choose video, audio or both")
    checkpoint = _best(store, stage) if best else _chosen(store, stage, step)
    weights = checkpoint.weights(role)
    files = {}
    for name in MODALITIES if branch == "both" else (branch,):
        prefix = f"branches.{name}."
        own = {key.removeprefix(prefix): x.contiguous() for key, x in weights.items() if key.startswith(prefix)}
        if not own:
            raise ValueError(f"--weights={role!r}: has no {name} branch of its own (an adapter is no network); export ema or live")
        path = folder / f"{name}.safetensors"
        save_file(own, str(path), metadata={"format": "pt"})
        files[path.name] = {"sha256": sha256_file(path), "parameters": sum(x.numel() for x in own.values())}
    record = {
        "format": FORMAT,
        "weights": role,
        "stage": checkpoint.stage,
        "step": checkpoint.step,
        "samples": checkpoint.manifest["samples"],
        "network": checkpoint.manifest["network"],
        "checkpoint": checkpoint.uri,
        "files": files,
        "model": _model(run),
    }
    write_json(folder / WEIGHTS, record)
    return record | {"folder": str(folder)}


def _model(run: str) -> dict[str, Any] | None:
    path = None if is_remote(run) else local_path("run", run)
    if path is None or not (path / RUN).is_file() or not (path / "data" / MANIFEST).is_file():
        return None
    config = open_run(path)
    return record_of_run(config, path / "data", controls_of(dataset_of(path / "data"))).to_json()


def _best(store: Store, stage: str) -> Checkpoint:
    """Of a stage, or of the one that was trained last of those that have a best one."""
    if stage:
        return best_of(store, [stage])
    stages = sorted({f.stage for f in found_in(store) if f.complete})
    last = [c for c in (newest(store, name) for name in stages) if c is not None]
    return best_of(store, [c.stage for c in sorted(last, key=lambda c: c.manifest.get("time", 0.0))])


def _chosen(store: Store, stage: str, step: int) -> Checkpoint:
    complete = [f for f in found_in(store, stage) if f.complete and (step < 0 or f.step == step)]
    if not complete:
        asked = f"stage {stage!r}" if stage else "a stage"
        raise ValueError(f"no checkpoint of {asked}{f' at step {step}' if step >= 0 else ''} in {store.uri}; `checkpoint list` shows them")
    if stage:
        return Checkpoint(store, complete[-1].path)
    opened = [Checkpoint(store, f.path) for f in complete]
    return max(opened, key=lambda c: (c.manifest.get("time", 0.0), c.step))


def audited(run: str) -> list[dict[str, Any]]:
    """What the ledger of each stage tells, against the order of training: steps, clips, epochs, skipped steps, faults.

    Raises:
        ValueError: no stage has a checkpoint, or a segment of the ledger is missing or damaged.
    """
    path = local_path("run", run)
    config = open_run(path)
    loop = loop_config(config, path)
    store, dataset = loop.checkpoints, LatentDataset(loop.data, config.model.text)
    records = []
    for stage in config.stages:
        last = newest(store, stage.name)
        if last is None:
            continue
        updates = read_chain(store, head_of(last.manifest["ledger"]))
        clips = sum(len(u.clips) for u in updates)
        if any(u.passes for u in updates):
            records.append(_streamed(updates, last.step, stage, frozenset(dataset.manifest.held_out)))
            continue
        order = dataset.stage(config.seed, stage.name, stage.batch, stage.modalities)
        ids, wanted = order.ids, (order.at(p)[0] for p in range(clips))
        records.append(
            {
                "stage": stage.name,
                "steps": last.step,
                "of": stage.steps,
                "clips": clips,
                "epochs": clips / len(ids),
                "skipped": [u.step for u in updates if not u.applied],
                "faults": list(faults(updates, last.step, stage.batch, ids, wanted, _max_age(config, stage), order.order.epochs)),
            }
        )
    if not records:
        raise ValueError(f"run {run!r}: no stage has a checkpoint yet, so there is nothing to audit")
    return records


def _streamed(updates: Sequence[Update], step: int, stage: StageConfig, held_out: frozenset[str]) -> dict[str, Any]:
    """Of a stage whose clips came as they were decoded: no order tells which should have come."""
    clips = [clip for u in updates for clip in u.clips]
    found = list(faults(updates, step, stage.batch, (), epochs=False))
    found += [f"{clip}: is held out, and was trained on" for clip in sorted(held_out & set(clips))]
    found += [f"step {u.step}: the passes of its clips are not known" for u in updates if len(u.passes) != len(u.clips)]
    return {
        "stage": stage.name,
        "steps": step,
        "of": stage.steps,
        "clips": len(clips),
        "epochs": float(consumed(updates)[0]),
        "different": len(set(clips)),
        "skipped": [u.step for u in updates if not u.applied],
        "faults": found,
    }


def _max_age(config: RunConfig, stage: StageConfig) -> int | None:
    """Of the stage's rollouts, if it reads any."""
    return config.rollouts.max_age if stage.objective == "mutual" and config.objective.needs_rollouts else None


def _records(store: Store, every: Sequence[Found]) -> list[dict[str, Any]]:
    standings = {stage: read_standing(store, stage) for stage in {f.stage for f in every}}
    best = {standing.path for standing in standings.values() if standing is not None}
    return [
        {
            "path": f"{store.uri}/{f.path}",
            "stage": f.stage,
            "step": f.step,
            "complete": f.complete,
            "bytes": sum(f.files.values()),
            "best": f.path in best,
        }
        for f in every
    ]
