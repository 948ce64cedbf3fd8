"""What training takes its clips from while they are decoded: a dataset of Ray Data for each stage that streams, on what CPUs are left.

open_streams   in the command: stages, sources, what the ledger says they have had -> datasets -> TorchTrainer
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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..datasets.account import SourceLine, read_account
from ..datasets.encoders import clip_encoder
from ..datasets.growth import listed
from ..datasets.ledger import consumed, head_of, read_chain
from ..datasets.manifest import MANIFEST, open_manifest
from ..datasets.pipeline import draw_characters
from ..datasets.progress import Progress
from ..datasets.store import store_of
from ..datasets.streamed_clips import Passes
from ..datasets.streaming import STREAMED, StreamAccount, StreamSource, held_out_contents, stream
from ..workers.checkpoint import newest
from ..workers.loop_config import TrainLoopConfig
from .config import RunConfig
from .preflight import reserved

BATCH = 8  # clips that a worker takes from Ray Data at once
REST = "_rest"  # ends the name of a stage's dataset without the clips that it has had in the pass that it was stopped in


@dataclass(frozen=True)
class Streams:
    """Datasets by the names of their stages, and how Ray Data is to run them."""

    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    options: ray.train.DataConfig = field(default_factory=ray.train.DataConfig)


@contextmanager
def open_streams(
    config: RunConfig, loop: TrainLoopConfig, todo: Mapping[str, int], progress: Progress, warn: Callable[[str], None]
) -> Iterator[Streams]:
    """What the stages that are not finished take their clips from, for the time of the block; nothing where the run has a whole dataset. At
    the end, sources that gave no clip are told.

    Raises:
        ValueError: the dataset that was prepared first, or the ledger of a stage, cannot be read.
    """
    data = config.data
    stages = [s for s in config.stages if s.name in todo and not (s.objective == "mutual" and config.objective.needs_rollouts)]
    if not data.stream_sources or not stages:
        yield Streams()
        return
    manifest = open_manifest(loop.data / MANIFEST)
    held_out = held_out_contents(loop.data, manifest)
    account = {line.path: line for line in read_account(loop.data / manifest.account)}
    inputs = data.inputs if not data.is_synthetic else [str(draw_characters(data, store_of(loop.data), progress))]
    sources = [s for s in listed(inputs, account.values()) if not (s.name in account and account[s.name].content in held_out)]
    free = _left(config)
    most = max(1, min(data.pool.max_workers or int(free), int(free)))
    if by_position := [s.name for s in config.stages if s.name in todo and s not in stages]:
        warn(
            f"{by_position[0]}: rollouts are made of clips by their positions, so this stage trains on clips of the "
            f"{data.stream_sources} sources that were prepared first; raise data.stream_sources to have more of them"
        )
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    notes = StreamAccount.options(scheduling_strategy=here).remote(loop.data / STREAMED)  # type: ignore[attr-defined]
    with clip_encoder(manifest.video_codec or None, manifest.audio_codec or None, data.pretrained, data.encoders, progress) as encoder:
        datasets = dict[str, Dataset]()
        for stage in stages:
            last = newest(loop.checkpoints, stage.name)
            done = frozenset[str]() if last is None else consumed(read_chain(loop.checkpoints, head_of(last.manifest["ledger"])))[1]
            work = StreamSource(data, encoder, held_out, partial(_tell, notes))
            datasets[stage.name] = stream(sources, data, work, most)
            if done:
                work = StreamSource(data, encoder, held_out, partial(_tell, notes), ray.put(done))
                datasets[stage.name + REST] = stream(sources, data, work, most)
        options = ExecutionOptions(resource_limits=ExecutionResources.for_limits(cpu=free))
        try:
            yield Streams(datasets, ray.train.DataConfig(execution_options=options))
        finally:
            _told(notes, loop.data / STREAMED, warn)


def passes_of(streams: Streams, shuffle: int) -> Passes:
    """How a worker goes through them."""
    return partial(_pass, frozenset(streams.datasets), shuffle)


def _pass(known: frozenset[str], shuffle: int, stage: str, rest: bool) -> Generator[pa.Buffer, None, None]:
    shard: Any = ray.train.get_dataset_shard(stage + REST if rest and stage + REST in known else stage)
    batches: Any = iter(shard.iter_batches(batch_size=BATCH, batch_format="pyarrow", local_shuffle_buffer_size=max(BATCH, shuffle)))
    with closing(batches):  # in the middle of a pass Ray Data would go on without it, and hold its CPUs
        for batch in batches:
            for clip in batch.column("clip"):
                yield clip.as_buffer()


def _left(config: RunConfig) -> float:
    """CPUs that training and rollouts leave free."""
    pool, mutual = config.rollouts, any(s.objective == "mutual" for s in config.stages)
    taken = config.workers.count * reserved(config.workers)["CPU"] + (pool.most * pool.cpus if mutual else 0.0)
    return max(1.0, ray.cluster_resources().get("CPU", 1.0) - taken)


def _tell(notes: Any, line: SourceLine) -> None:
    notes.tell.remote(line)


def _told(notes: Any, where: Path, warn: Callable[[str], None]) -> None:
    used, refused = ray.get(notes.told.remote())
    if refused:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items()))
        warn(f"of {used + sum(refused.values())} sources that were gone through, these gave no clip: {reasons}; see {str(where)!r}")
