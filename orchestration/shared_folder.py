"""Whether all machines of a cluster find the data and checkpoints of a run: tried, for no setting can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..datasets.shared import unseen
from ..datasets.store import is_remote
from .config import RunConfig


def require_shared(config: RunConfig, run_dir: Path) -> None:
    """Try it on the machines that are there now. Ray must have been started. What processes write for people (`away`) needs none.

    Raises:
        ValueError: some would not find the checkpoints, or the data.
    """
    local = local_folders(config, run_dir)
    found = unseen(sorted(set(local.values())))
    judge(local, {name: found[folder] for name, folder in local.items()}, bool(config.data_uri))


def local_folders(config: RunConfig, run_dir: Path) -> dict[str, Path]:
    """Folders of disks that processes of the training use, by the name of their setting."""
    uri = config.checkpoint_uri
    return {"--out": run_dir} | ({} if is_remote(uri) else {"checkpoint.uri": Path(uri)} if uri else {"checkpoint.uri": run_dir})


def judge(local: Mapping[str, Path], unseen_by: Mapping[str, Sequence[str]], data_elsewhere: bool) -> None:
    """unseen_by: machines that do not see a folder. Raises ValueError as `require_shared`."""
    for name, what in (("checkpoint.uri", "checkpoints"), ("--out", "" if data_elsewhere else "data")):
        if what and (machines := unseen_by.get(name)):
            shown = name if local[name] != local["--out"] else "--out"
            remedy = "checkpoint.uri=s3://BUCKET/FOLDER" if what == "checkpoints" and data_elsewhere else "remote.uri=s3://BUCKET/FOLDER"
            raise ValueError(
                f"{shown}={str(local[name])!r}: {', '.join(machines)} of the cluster at RAY_ADDRESS would not find the {what} there; "
                f"share the folder with all machines, or set {remedy}"
            )
