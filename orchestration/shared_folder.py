"""Whether all machines of a cluster find the data and checkpoints of a run: tried, for no setting can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..datasets.places.store import is_remote
from ..datasets.preparing.shared import unseen
from .actor_options import taken
from .config import RunConfig
from .preflight import reserved


@dataclass(frozen=True)
class Need:
    """A place on disks that training processes need on every machine. name: of its setting; what: is there; remedy: besides sharing it."""

    name: str
    path: Path
    what: str
    remedy: str


def require_shared(config: RunConfig, run_dir: Path) -> None:
    """Try it on the machines that are there now. Ray must have been started. What processes write for people (`away`) needs none.

    Raises:
        ValueError: some would not find the checkpoints, the data, or the media that are streamed.
    """
    if needs := needs_of(config, run_dir):
        media = {need.path for need in needs if need.name == "data.media"}
        judge(needs, unseen(takers(config), sorted({need.path for need in needs} - media), sorted(media)))


def takers(config: RunConfig) -> list[dict[str, float]]:
    """What processes take that read data or checkpoints: trainers, rollout actors, the examiner, and those that decode streams."""
    found = [reserved(config.workers)]
    if config.objective.needs_rollouts and any(stage.objective == "mutual" for stage in config.stages):
        found.append(taken(config.rollouts))
    if config.course.every:
        found.append(taken(config.course))
    if config.data.stream_sources:
        found.append(config.data.pool.takes)
    return found


def needs_of(config: RunConfig, run_dir: Path) -> list[Need]:
    """Places that all machines must share."""
    uri, data, found = config.checkpoint_uri, config.data, list[Need]()
    everything = "set remote.uri=s3://BUCKET/FOLDER"
    if not is_remote(uri):
        alone = "set checkpoint.uri=s3://BUCKET/FOLDER"
        found.append(
            Need(*(("checkpoint.uri", Path(uri)) if uri else ("--out", run_dir)), "checkpoints", alone if config.data_uri else everything)
        )
    if not config.data_uri:
        found.append(Need("--out", run_dir, "data", everything))
    if data.stream_sources:
        prepared = "prepare them first (data.stream_sources=0)"
        if data.is_synthetic:
            found.append(Need("--out", run_dir, "characters that are streamed", prepared))
        found += [
            Need("data.media", Path(path), "media that are streamed", f"put them into S3, or {prepared}") for path in _local(data.inputs)
        ]
    return found


def _local(inputs: Sequence[str]) -> list[str]:
    """Without those in S3, and without characters, which are drawn."""
    return [path for path in inputs if not is_remote(path) and path != "synthetic"]


def judge(needs: Sequence[Need], unseen_by: Mapping[Path, Sequence[str]]) -> None:
    """unseen_by: machines that do not see a place. Raises ValueError as `require_shared`."""
    for need in needs:
        if machines := unseen_by[need.path]:
            raise ValueError(
                f"{need.name}={str(need.path)!r}: {', '.join(machines)} of the cluster at RAY_ADDRESS would not find the {need.what} "
                f"there; share it with all machines, or {need.remedy}"
            )
