"""What other machines of the cluster see of this one's disks: tried, for no setting can tell."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .storage import atomic_path

PATIENCE = 120.0  # seconds for all answers: a machine starts a process for it
LAG = 5.0  # seconds after which a network's file system shows a new file


def apart(folders: Sequence[Path], files: Sequence[Path] = ()) -> str:
    """Why work on these places can be done on this machine alone; empty: all machines see them. Ones that are still to come are not asked:
    where there is none besides this, and this one has no CPUs to give, nobody knows what they will see.
    """
    if not folders and not files:
        return ""
    me, alive = ray.get_runtime_context().get_node_id(), [n for n in ray.nodes() if n["Alive"]]
    if len(alive) > 1:
        found = unseen(folders, files)
        return next((f"{names[0]} does not see {str(place)!r}" for place, names in found.items() if names), "")
    gives = any(n["Resources"].get("CPU") for n in alive if n["NodeID"] == me)
    return "" if gives else f"no machine is there that could see {str((*folders, *files)[0])!r}"


def unseen(folders: Sequence[Path], files: Sequence[Path] = ()) -> dict[Path, list[str]]:
    """Machines that do not see what is written into each folder here, or do not see one of `files`. One that does not answer, or has gone
    meanwhile, is not judged.
    """
    alive = {n["NodeID"]: f"{n['NodeManagerHostname']} ({n['NodeManagerAddress']})" for n in ray.nodes() if n["Alive"]}
    written = {folder / f".shared-{secrets.token_hex(8)}": folder for folder in folders}
    probes = written | {file: file for file in files}
    missing: dict[Path, list[str]] = {place: [] for place in (*folders, *files)}
    try:
        for probe in written:
            with atomic_path(probe) as temporary:
                temporary.touch()
        ask = ray.remote(_not_there)
        asked = {
            ask.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(list(probes)): name
            for node, name in alive.items()
        }
        for answer in ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE)[0]:
            try:
                absent = ray.get(answer)
            except RayError:
                continue  # the machine is gone, and comes back as another
            for probe in absent:
                missing[probes[probe]].append(asked[answer])
    finally:
        for probe in written:
            probe.unlink(missing_ok=True)
    return {place: sorted(set(names)) for place, names in missing.items()}


def _not_there(files: list[Path]) -> list[Path]:
    end = time.monotonic() + LAG
    while (absent := [file for file in files if not file.exists()]) and time.monotonic() < end:
        time.sleep(0.2)
    return absent
