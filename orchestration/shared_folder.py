"""Whether all machines of a cluster see the folders that a run needs: tried, for no setting can tell."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..datasets.storage import atomic_path
from ..datasets.store import is_remote
from .config import RunConfig

PATIENCE = 120.0  # seconds for all answers: a machine starts a process for it
LAG = 5.0  # seconds after which a network's file system shows a new file


def require_shared(config: RunConfig, run_dir: Path) -> list[str]:
    """Try it on the machines that are there now; returns warnings. Ray must have been started.

    Raises:
        ValueError: some would not find the checkpoints, or the data.
    """
    local = local_folders(config, run_dir)
    found = unseen(sorted(set(local.values())))
    return judge(local, {name: found[folder] for name, folder in local.items()}, bool(config.data_uri))


def local_folders(config: RunConfig, run_dir: Path) -> dict[str, Path]:
    """Folders of disks that processes of the training use, by the name of their setting."""
    uri = config.checkpoint_uri
    return {"--out": run_dir} | ({} if is_remote(uri) else {"checkpoint.uri": Path(uri)} if uri else {"checkpoint.uri": run_dir})


def judge(local: Mapping[str, Path], unseen_by: Mapping[str, Sequence[str]], data_elsewhere: bool) -> list[str]:
    """Warnings. unseen_by: machines that do not see a folder. Raises ValueError as `require_shared`."""
    for name, what in (("checkpoint.uri", "checkpoints"), ("--out", "" if data_elsewhere else "data")):
        if what and (machines := unseen_by.get(name)):
            shown = name if local[name] != local["--out"] else "--out"
            remedy = "checkpoint.uri=s3://BUCKET/FOLDER" if what == "checkpoints" and data_elsewhere else "remote.uri=s3://BUCKET/FOLDER"
            raise ValueError(
                f"{shown}={str(local[name])!r}: {', '.join(machines)} of the cluster at RAY_ADDRESS would not find the {what} there; "
                f"share the folder with all machines, or set {remedy}"
            )
    if machines := unseen_by["--out"]:
        return [
            f"--out={str(local['--out'])!r}: {', '.join(machines)} of the cluster at RAY_ADDRESS does not see it: where rank 0 is there, "
            "the metrics, and logs, stacks and bad steps of the ranks there, stay there; share the folder with all machines"
        ]
    return []


def unseen(folders: Sequence[Path]) -> dict[Path, list[str]]:
    """Machines that do not see what is written into each folder here. One that does not answer, or has
    gone meanwhile, is not judged.
    """
    machines = {n["NodeID"]: f"{n['NodeManagerHostname']} ({n['NodeManagerAddress']})" for n in ray.nodes() if n["Alive"]}
    probes = {folder / f".shared-{secrets.token_hex(8)}": folder for folder in folders}
    missing: dict[Path, list[str]] = {folder: [] for folder in folders}
    try:
        for probe in probes:
            with atomic_path(probe) as temporary:
                temporary.touch()
        ask = ray.remote(_not_there)
        asked = {
            ask.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(list(probes)): name
            for node, name in machines.items()
        }
        for answer in ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE)[0]:
            try:
                absent = ray.get(answer)
            except RayError:
                continue  # the machine is gone, and comes back as another
            for probe in absent:
                missing[probes[probe]].append(asked[answer])
    finally:
        for probe in probes:
            probe.unlink(missing_ok=True)
    return {folder: sorted(set(names)) for folder, names in missing.items()}


def _not_there(files: list[Path]) -> list[Path]:
    end = time.monotonic() + LAG
    while (absent := [file for file in files if not file.is_file()]) and time.monotonic() < end:
        time.sleep(0.2)
    return absent
