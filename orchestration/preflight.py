"""What a run needs, held against what is there, before it starts: every problem at once, each with a remedy.

needs_of(config)          memory by process (planning/memory), size of a checkpoint: arithmetic alone
examine(config, run_dir)  -> findings: `problem` stops the run, `warning` does not
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import ceil, floor
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import torch

from ..datasets.adopt import prepared_dataset
from ..datasets.encoding.actor_pool import PoolConfig as EncodersConfig
from ..datasets.intake.inputs import sources_of
from ..datasets.places.store import Store, is_remote, store_of
from ..datasets.places.writable import require_writable
from ..datasets.reading.members import parse_mix
from ..datasets.redaction import redacted
from ..workers.checkpoint import OtherFormat, is_finished, newest
from ..workers.pretrained import find_pretrained
from .actor_options import taken
from .config import RunConfig
from .course_config import CourseConfig
from .evaluation.examiner import best_figure
from .machine import free_memory_gb
from .planning.loads import chosen, load
from .planning.memory import Load, peak, trained
from .rollouts_config import RolloutsConfig
from .run_folder import RUN
from .session import check_ports
from .workers_config import WorkersConfig

WORKER_CPU = 0.5  # fractions: two whole CPUs for the workers would leave none for anyone else on a two-core machine, and hang
PROCESS_GB = 0.7  # of a process with PyTorch, DeepSpeed and Ray before it holds a network (docs/operations.md)
ACTOR_GB = 0.5
RAY_GB = 1.2  # Ray's own processes and the command itself
PROBE_SECONDS = 5.0
GB = 2**30
SLACK = 1e-9  # of shares: 1 - 0.9 is less than 0.1


@dataclass(frozen=True)
class Finding:
    """kind: a `problem` stops the run before it starts, a `warning` is told."""

    kind: Literal["problem", "warning"]
    text: str


@dataclass(frozen=True)
class Needs:
    """In bytes. worker, actor: of one process, the latter without its cache; device: what of a worker's is its GPU's;
    checkpoint: of one in the middle of the largest stage; weights: of the one that a finished stage leaves.
    """

    parameters: int
    worker: int
    device: int
    actor: int
    checkpoint: int
    weights: int


def needs_of(config: RunConfig, ranks: int = 0) -> Needs:
    """Memory of one training process in its heaviest stage (planning/memory.py), of one rollout actor, and the size of checkpoints. ranks:
    that train (0: the fewest that may, each of which holds the most).
    """
    choice, gpu = replace(chosen(config), trainers=ranks or config.sizes[0]), config.workers.use_gpu
    loads = [load(config, stage, choice) for stage in config.stages]
    most, n = max(peak(x).total for x in loads), loads[0].weights
    full = max(x.fake for x in loads) if config.objective.fake.kind == "full" else 0
    networks = 2 if full else 1
    host = max(_host(x) for x in loads) if gpu else 0
    actor = 4 * n if _rolls(config) else 0
    device = most if gpu else 0
    return Needs(n, most + host, device, actor, checkpoint=(12 * networks + 4) * n, weights=(4 * networks + 4) * n)


def _host(x: Load) -> int:
    """Memory of the machine's own that a process with a GPU takes: a network that is made, the weights that its stage began with, and what
    of the optimizer is offloaded.
    """
    away = sum(trained(replace(x, offload=False), n, of_it).optimizer for n, of_it in ((x.weights, x.trained), (x.fake, x.fake)) if n)
    return 4 * x.weights * (2 if x.start else 1) + (away if x.offload else 0)


def reserved(workers: WorkersConfig) -> dict[str, float]:
    """Resources of Ray's that one training process takes."""
    named = {workers.resource: 1.0} if workers.resource else {}
    return {"CPU": WORKER_CPU} | ({"GPU": workers.gpus} if workers.use_gpu else {}) | named


def short_of(config: RunConfig, have: Mapping[str, float], grown: bool = False, fewest: bool = False) -> list[str]:
    """What the processes of a run reserve and these resources of Ray's do not have, in words. grown: of a pool at its largest; fewest: of
    the smallest number of workers.
    """
    count = config.sizes[0] if fewest else config.workers.count
    workers, pool = config.workers, config.rollouts if _rolls(config) else None
    of_worker = reserved(workers)
    course, coders = config.course if config.course.every else None, encoders_of(config)
    of_actor, of_examiner, of_coder = _of_actor(pool), _of_actor(course), _of_actor(coders)
    said = []
    for kind in sorted(of_worker.keys() | of_actor.keys() | of_coder.keys() | of_examiner.keys()):
        each = [
            (count, of_worker.get(kind, 0.0), "workers"),
            ((pool.most if grown else pool.size) if pool else 0, of_actor.get(kind, 0.0), "rollout actors"),
            (1 if config.data.stream_sources else 0, 1.0 if kind == "CPU" else 0.0, "process that decodes (data.stream_sources)"),
            (coders.max_actors if coders else 0, of_coder.get(kind, 0.0), "encoders (data.encoders)"),
            (1, of_examiner.get(kind, 0.0), "evaluation (course.every)"),
        ]
        parts = [f"{count} {who} x {amount:g}" for count, amount, who in each if count * amount]
        held = [(count, amount) for count, amount, _ in each]
        others = sum(ceil(count * amount) for count, amount in held[2:])  # beside training, on GPUs of their own
        total = _gpus(*held[:2]) + others if kind == "GPU" else sum(count * amount for count, amount in held)
        there = have.get(kind, 0.0)
        if total > there:
            remedy = f"lower workers.{'min_count' if count < workers.count else 'count'}" + (
                f" or rollouts.{'max_actors' if grown else 'actors'}" if of_actor.get(kind) else ""
            )
            said.append(f"{kind}: {total:g} are reserved ({' + '.join(parts)}), {there:g} are there; {remedy}")
    return said


def awaited(config: RunConfig, have: Mapping[str, float]) -> list[str]:
    """What a cluster with these resources lacks for now, and what the run does about it."""
    if fewest := short_of(config, have, fewest=True):
        return [f"{text}; training waits until nodes that have them join the cluster" for text in fewest]
    return [f"{text}; training begins with fewer workers, and grows when nodes that have them join" for text in short_of(config, have)]


def _of_actor(pool: RolloutsConfig | CourseConfig | EncodersConfig | None) -> dict[str, float]:
    """Resources of Ray's that one actor takes."""
    return {} if pool is None else taken(pool)


def encoders_of(config: RunConfig) -> EncodersConfig | None:
    """The pool of pretrained autoencoders that works beside training, where clips are encoded as they come."""
    return config.data.encoders if config.data.stream_sources and config.data.pretrained.only(config.data.modalities).folders() else None


def cpus_left(config: RunConfig, there: float) -> float:
    """Of so many CPUs, those that training, rollouts and encoders do not reserve."""
    pool, coders = config.rollouts, encoders_of(config)
    taken = config.workers.count * reserved(config.workers)["CPU"] + (pool.most * pool.cpus if _rolls(config) else 0.0)
    taken += config.course.cpus if config.course.every else 0.0
    return there - taken - (coders.max_actors * coders.cpus if coders else 0.0)


def _gpus(workers: tuple[int, float], actors: tuple[int, float]) -> float:
    """GPUs that so many processes with so much of one each take: those that share one take it whole, and none is split between two."""
    (count, mine), (others, share) = workers, actors
    if 0 < share < 1:
        beside = floor((1 - mine) / share + SLACK) if 0 < mine < 1 else 0  # of a single worker
        return ceil(count * mine) + ceil(max(0, others - beside) / floor(1 / share + SLACK))
    return ceil(count * mine) + others * share


def _rolls(config: RunConfig) -> bool:
    return any(s.objective == "mutual" for s in config.stages) and config.objective.needs_rollouts


def examine(config: RunConfig, run_dir: Path) -> list[Finding]:
    """All that stands against a run of this configuration in this folder, as far as it can be told before it starts."""
    checks = (_network, _pool, _course, _memory, _data, _folders, _tracker)
    return list(dict.fromkeys(Finding(*told) for check in checks for told in check(config, run_dir)))  # one cause may stop several


def in_one_line(problems: Sequence[str]) -> str:
    """What an error says of all of them."""
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems: " + " ".join(f"({i}) {text}." for i, text in enumerate(problems, 1))


Told = Iterator[tuple[Literal["problem", "warning"], str]]


def _network(config: RunConfig, run_dir: Path) -> Told:
    cores = os.cpu_count() or 1
    wanted = config.workers.count * config.workers.threads
    if wanted > cores:
        remedy = max(1, cores // config.workers.count) if config.workers.threads > 1 else cores
        yield (
            "warning",
            f"workers.count={config.workers.count} x workers.threads={config.workers.threads}: {wanted} threads on {cores} cores take "
            f"turns; set workers.{'threads' if config.workers.threads > 1 else 'count'}={remedy}",
        )
    if not os.environ.get("RAY_ADDRESS"):
        here = {"CPU": max(2, cores), "GPU": torch.cuda.device_count()}
        for text in short_of(config, here, fewest=True):
            yield "problem", f"{text}, or name a larger cluster in RAY_ADDRESS"
        if not short_of(config, here, fewest=True):
            for text in short_of(config, here):
                yield "warning", f"{text}; until then fewer train"
        if config.rollouts.actors == "auto" and not short_of(config, here):
            for text in short_of(config, here, grown=True):
                yield "warning", f"rollouts.actors=auto cannot grow to rollouts.max_actors={config.rollouts.max_actors} here: {text}"
        try:
            check_ports()
        except ValueError as error:
            yield "problem", str(error)


def _pool(config: RunConfig, run_dir: Path) -> Told:
    pool = config.rollouts
    if not pool.direct or not _rolls(config):
        return
    if config.workers.use_gpu != bool(pool.gpus):
        yield (
            "problem",
            f"rollouts.transport={pool.transport} with workers.use_gpu={str(config.workers.use_gpu).lower()} and rollouts.gpus="
            f"{pool.gpus:g}: it goes from GPU to GPU or from CPU to CPU; set transport=object_store, or give GPUs to both or to neither",
        )
    if find_spec(pool.transport) is None:
        yield (
            "problem",
            f"rollouts.transport={pool.transport}: it is not installed here; pip install 'mutual-forcing[direct]', on every node",
        )


def _course(config: RunConfig, run_dir: Path) -> Told:
    if not config.course.every:
        return
    try:
        best_figure(config.course)
    except ValueError as error:
        yield "problem", str(error).replace("--metrics", "course.metrics")


def _memory(config: RunConfig, run_dir: Path) -> Told:
    free, needs = free_memory_gb(), needs_of(config)
    if os.environ.get("RAY_ADDRESS") or free is None:
        return
    if needs.device and torch.cuda.is_available() and needs.device > (size := torch.cuda.mem_get_info()[1]):
        yield (
            "problem",
            f"GPU memory: {needs.device / GB:.1f} GB are needed, a GPU has {size / GB:.1f} GB; raise engine.zero_stage "
            "or workers.count, set engine.offload=optimizer or engine.precision=bf16, or choose a smaller model",
        )
    workers, actors = config.workers.count, config.rollouts.most
    all_train = needs_of(config, workers)
    parts = {
        f"{workers} training processes": workers * (PROCESS_GB + (all_train.worker - all_train.device) / GB),
        "an evaluation": ACTOR_GB + 4 * needs.parameters / GB if config.course.every else 0.0,
        f"{actors} rollout actors": actors * (ACTOR_GB + needs.actor / GB) if needs.actor else 0.0,
        "Ray": RAY_GB,
    }
    if (total := sum(parts.values())) > free:
        listed = ", ".join(f"{name} {gb:.1f} GB" for name, gb in parts.items() if gb)
        kind: Literal["problem", "warning"] = "problem" if total > 2 * free else "warning"
        yield (
            kind,
            f"memory: {total:.1f} GB are needed ({listed}; {needs.parameters / 1e6:.1f} M parameters), {free:.1f} GB "
            "are free; lower workers.count or rollouts.actors, raise engine.zero_stage, or choose a smaller model",
        )


def _data(config: RunConfig, run_dir: Path) -> Told:
    try:
        if (run_dir / RUN).is_file():
            pass  # its data are its own, and `train` compares them
        elif config.data.prepared:
            prepared_dataset(config.data, verify=False)
            for uri, _ in parse_mix(config.data.mix):
                prepared_dataset(replace(config.data, prepared=uri), verify=False, field="data.mix", sizes=False)
        elif not config.data.is_synthetic:
            sources_of(config.data.inputs)
    except ValueError as error:
        yield "problem", str(error)
    try:
        begun = is_finished(_checkpoints(config, run_dir), config.stages[0].name)
    except OSError:  # `_folders`, which writes there, says why
        begun = True
    except ValueError as error:
        yield "problem", str(error)
        return
    try:
        if not begun:
            find_pretrained(config.init.absolute(), config.model, config.data.timeline)
    except (ValueError, OSError) as error:
        yield "problem", str(error)
    for stage in config.stages:
        try:
            last = newest(_checkpoints(config, run_dir), stage.name)
        except OtherFormat as error:
            yield "problem", str(error)
            return
        except (ValueError, OSError):
            continue  # `train` says what is damaged, and goes on from the one before
        theirs = last and last.manifest.get("about", {}).get("settings")
        if last and theirs and theirs != config.settings():
            yield "problem", f"checkpoint {last.uri}: of a run with other settings; choose another checkpoint.uri or --out"
            return


def _folders(config: RunConfig, run_dir: Path) -> Told:
    uri = config.checkpoint_uri
    places = {"--out": str(run_dir), "remote.uri": config.remote.uri, "checkpoint.uri": uri}
    for name, place in places.items():
        if not place:
            continue
        try:
            require_writable(name, place)
        except ValueError as error:
            yield "problem", str(error)
            return
    local = Path(uri) if uri and "://" not in uri else run_dir if not uri else None
    if local is not None:
        needs = needs_of(config)
        total = needs.checkpoint * (config.checkpoint.keep_last + 1) + needs.weights * len(config.stages)
        free = shutil.disk_usage(_existing(local)).free
        if total > free:
            yield (
                "problem",
                f"disk: checkpoints take up to {total / 1e9:.2g} GB in {str(local)!r}, {free / 1e9:.2g} GB are free; lower "
                "checkpoint.keep_last, make room, or set checkpoint.uri",
            )
    if is_remote(uri):
        total = needs_of(config).checkpoint * config.workers.count
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if total > free:
            yield (
                "warning",
                f"disk: to go on from a checkpoint in S3, the training processes of a machine hold up to {total / 1e9:.2g} GB in "
                f"{tempfile.gettempdir()!r}, {free / 1e9:.2g} GB are free; set TMPDIR to a larger folder",
            )


def _tracker(config: RunConfig, run_dir: Path) -> Told:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    try:
        parts = urlsplit(uri)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:  # its words name what stands where a port should, which may be a part of a password
        yield "warning", f"MLFLOW_TRACKING_URI: {redacted(uri)} is no address; percent-encode what is special in user and password"
        return
    if parts.scheme in ("http", "https") and parts.hostname:
        try:
            socket.create_connection((parts.hostname, port), timeout=PROBE_SECONDS).close()
        except (OSError, ValueError) as error:
            yield (
                "warning",
                f"MLFLOW_TRACKING_URI: {parts.scheme}://{parts.hostname}:{port} does not answer ({error}); metrics stay in the "
                "run folder until it does",
            )


def _checkpoints(config: RunConfig, run_dir: Path) -> Store:
    return store_of(config.checkpoint_uri or run_dir / "checkpoints")


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return next(p for p in (path, *path.parents) if p.exists())
