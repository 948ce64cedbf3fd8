"""What training takes its clips from while they are decoded: a dataset of Ray Data for each stage that streams, on what CPUs are left.

plan_streams   once: sources, what is held out, which stages stream
open_streams   an attempt: -> datasets -> TorchTrainer
passes_of      in a worker: this rank's share of a pass, by `get_dataset_shard`
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
from ray.data import Dataset, ExecutionOptions, ExecutionResources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..datasets.encoding.encoders import clip_encoder
from ..datasets.format.account import read_account
from ..datasets.format.manifest import MANIFEST, Manifest, open_manifest
from ..datasets.intake.sources import Source
from ..datasets.pipeline import draw_characters
from ..datasets.places.store import store_of
from ..datasets.preparing.growth import listed
from ..datasets.preparing.trials import trials
from ..datasets.progress import Progress
from ..datasets.streamed.stream_account import STREAMED, StreamAccount, Told
from ..datasets.streamed.streamed_clips import Passes
from ..datasets.streamed.streaming import HeldOut, StreamSource, blocks, stream
from ..workers.loop_config import TrainLoopConfig
from .config import RunConfig
from .preflight import cpus_left

BATCH = 8  # clips that a worker takes from Ray Data at once
REST = "_rest"  # ends the name of a stage's dataset without the clips that it has had in the pass that it was stopped in
PATIENCE = 30.0  # seconds for what is told at the end


@dataclass(frozen=True)
class Plan:
    """What a run streams: its sources, for these stages."""

    config: RunConfig
    manifest: Manifest
    held_out: HeldOut
    sources: tuple[Source, ...]
    stages: tuple[str, ...]
    account: Path


@dataclass(frozen=True)
class Streams:
    """Datasets by the names of their stages, and how Ray Data is to run them. account: of what came of sources."""

    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    options: ray.train.DataConfig = field(default_factory=ray.train.DataConfig)
    account: Any = None


def plan_streams(
    config: RunConfig, loop: TrainLoopConfig, todo: Mapping[str, int], progress: Progress, warn: Callable[[str], None]
) -> Plan | None:
    """What the stages that are not finished take their clips from; None where the run has a whole dataset.

    Raises:
        ValueError: the dataset that was prepared first cannot be read, or an input cannot be listed.
        OSError: a store does not answer.
    """
    data = config.data
    stages = [s for s in config.stages if s.name in todo and not (s.objective == "mutual" and config.objective.needs_rollouts)]
    if not data.stream_sources or not stages:
        return None
    manifest = open_manifest(loop.data / MANIFEST)
    held_out = HeldOut.of(loop.data, manifest)
    account = {line.path: line for line in read_account(loop.data / manifest.account)}
    inputs = data.inputs if not data.is_synthetic else [str(draw_characters(data, store_of(loop.data), progress))]
    every = listed(inputs, account.values())
    sources = [s for s in every if not (s.name in account and account[s.name].content in held_out.contents)]
    if all(s.name in account or s.refused for s in every):
        warn(
            f"data.stream_sources={data.stream_sources}: all that can be used of data.media was prepared, and nothing is left to stream; "
            "leave the setting out, or lower it"
        )
    if by_position := [s.name for s in config.stages if s.name in todo and s not in stages]:
        warn(
            f"{by_position[0]}: rollouts are made of clips by their positions, so this stage trains on clips of the "
            f"{data.stream_sources} sources that were prepared first; raise data.stream_sources to have more of them"
        )
    return Plan(config, manifest, held_out, tuple(sources), tuple(s.name for s in stages), loop.run_dir / STREAMED)


@contextmanager
def open_streams(plan: Plan | None, progress: Progress, warn: Callable[[str], None]) -> Iterator[Streams]:
    """What an attempt takes its clips from, for the time of the block. At the end, sources that gave no clip are told."""
    if plan is None:
        yield Streams()
        return
    data, manifest = plan.config.data, plan.manifest
    free = max(1.0, cpus_left(plan.config, ray.cluster_resources().get("CPU", 1.0)))
    most = max(1, min(data.pool.max_workers or int(free), int(free)))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    account: Any = StreamAccount.options(scheduling_strategy=here).remote(plan.account)  # type: ignore[attr-defined]
    codecs = manifest.video_codec or None, manifest.audio_codec or None
    with (
        trials() as watched,
        clip_encoder(*codecs, data.pretrained.only(data.modalities), data.encoders, data.latent_dtype, progress) as encoder,
    ):
        rows, datasets = blocks(plan.sources, data.seed), dict[str, Dataset]()
        for stage in plan.stages:
            for resumed in (False, True):
                work = StreamSource(data, encoder, plan.held_out, account, stage, resumed, watched)
                datasets[stage + REST if resumed else stage] = stream(rows, work, data.clip_bytes, most, data.pool)
        options = ExecutionOptions(resource_limits=ExecutionResources.for_limits(cpu=free))
        try:
            yield Streams(datasets, ray.train.DataConfig(execution_options=options), account)
        finally:
            _tell(account, plan.account, warn)


def passes_of(streams: Streams, shuffle: int) -> Passes | None:
    """How a worker goes through them."""
    return partial(_pass, streams.account, shuffle) if streams.datasets else None


def _pass(account: Any, shuffle: int, stage: str, had: frozenset[str]) -> Generator[pa.Buffer, None, None]:
    if had and ray.train.get_context().get_world_rank() == 0:  # Ray Data begins when all ranks are there
        ray.get(account.resume.remote(stage, had))
    shard: Any = ray.train.get_dataset_shard(stage + REST if had else stage)
    batches: Any = iter(shard.iter_batches(batch_size=BATCH, batch_format="pyarrow", local_shuffle_buffer_size=max(BATCH, shuffle)))
    some = bool(had)
    with closing(batches):  # in the middle of a pass Ray Data would go on without it, and hold its CPUs
        for batch in batches:
            some = True
            for clip in batch.column("clip"):
                yield clip.as_buffer()
    told: Told | None = None if some else ray.get(account.told.remote())
    if told is not None and told.unread:
        raise OSError(f"stage {stage!r}: no clip in a whole pass; {told.unread} of its sources could not be read; do their stores answer?")


def _tell(account: Any, where: Path, warn: Callable[[str], None]) -> None:
    try:
        told: Told = ray.get(account.told.remote(), timeout=PATIENCE)
    except RayError as error:  # the attempt has failed with a cause of its own, or will be over anyway
        warn(f"what came of the sources that were streamed is not known to the end ({type(error).__name__}); see {str(where)!r}")
        return
    if told.lost:
        warn(f"{str(where)!r}: {told.lost} lines could not be written ({told.why}); make room")
    if told.refused:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(told.refused.items()))
        total = told.used + sum(told.refused.values())
        warn(f"of {total} sources that were gone through, these gave no clip, or turned out to be damaged: {reasons}; see {str(where)!r}")
