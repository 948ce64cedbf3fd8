"""What other machines of the cluster see of this one's disks: tried, for no setting can tell."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..places.storage import atomic_path

Resources = Mapping[str, float]
PATIENCE = 120.0  # seconds for all answers: a machine starts a process for it
LAG = 5.0  # seconds after which a network's file system shows a new file


def apart(takes: Resources, folders: Sequence[Path], files: Sequence[Path] = ()) -> str:
    """Why work on these places can be done on this machine alone; empty: all machines that could do it see them. takes: what one process of
    it takes. Machines that are still to come are not asked. Where none is there yet that could do it, those of a resource of their own are
    waited for, as the user has named it; others come for what nobody knows.
    """
    if not folders and not files:
        return ""
    me = ray.get_runtime_context().get_node_id()
    able = [n["NodeID"] for n in ray.nodes() if n["Alive"] and _has(n["Resources"], takes)]
    if not able and not takes.keys() - {"CPU"}:
        return f"no machine is there that could see {str((*folders, *files)[0])!r}"
    if not set(able) - {me}:
        return ""
    found = unseen([takes], folders, files)
    return next((f"{names[0]} does not see {str(place)!r}" for place, names in found.items() if names), "")


def unseen(takes: Sequence[Resources], folders: Sequence[Path], files: Sequence[Path] = ()) -> dict[Path, list[str]]:
    """Machines that do not see what is written into each folder here, or do not see one of `files`. takes: what processes take that need
    them: a machine that has no room for any of those is not asked. One that does not answer, or has gone meanwhile, is not judged.
    """
    able = {
        n["NodeID"]: f"{n['NodeManagerHostname']} ({n['NodeManagerAddress']})"
        for n in ray.nodes()
        if n["Alive"] and any(_has(n["Resources"], each) for each in takes)
    }
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
            for node, name in able.items()
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


def _has(there: Resources, takes: Resources) -> bool:
    return all(there.get(name, 0.0) >= amount for name, amount in takes.items())


def _not_there(files: list[Path]) -> list[Path]:
    end = time.monotonic() + LAG
    while (absent := [file for file in files if not file.exists()]) and time.monotonic() < end:
        time.sleep(0.2)
    return absent
