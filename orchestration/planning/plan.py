"""What a run will need: one frozen `Plan`, composed of what its neighbours reckon.

RunConfig --> loads --> memory ---+
                   \\-> timing ---+--> layout --> plan --> table, JSON
data sheet, calibration -> speeds +    traffic --^
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from ...datasets.manifest import Manifest
from ..config import RunConfig
from .calibration import Calibration
from .gpus import GPUS, Gpu
from .layout import Fit, Timed, rolls, search, too_few
from .loads import arithmetic, chosen, counts, item_of, step
from .memory import moments
from .timing import Speeds, work
from .traffic import Checkpoints, Corpus, Store, checkpoints, corpus, saved, store

SCALE = 100_000_000  # clips of the estimate at the paper's scale
MAX_SHOWN = 3


@dataclass(frozen=True)
class Assumed:
    """What a plan takes for granted where nothing was measured, each of them an option of the verb.

    mfu: share of the bf16 peak that training reaches; fp32: share of the fp32 peak of the teacher and the rollouts; network: bytes/s of a
    GPU to other machines; upload: bytes/s of a process to S3; copy: bytes/s from a GPU to its machine; host: of a process in its machine's
    memory; clips_per_s: that a CPU prepares;
    cpus: of a machine that prepares data; per_source: clips of a source.
    """

    mfu: float = 0.24
    fp32: float = 0.5
    network: float = 50e9
    upload: float = 0.25e9
    copy: float = 10e9
    host: float = 20e9
    clips_per_s: float = 0.5
    cpus: int = 64
    per_source: float = 4.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')}={value}: must be more than 0")
        if self.mfu > 1 or self.fp32 > 1:
            raise ValueError(f"--mfu={self.mfu}, --fp32={self.fp32}: shares of a peak lie between 0 and 1")


WHY = {
    "mfu": "`base` on an H200, FlexAttention, blocks compiled (docs/performance.md); training of `paper` was not measured",
    "fp32": "not measured",
    "network": "8 GPUs of a machine share 3200 Gbit/s",
    "upload": "not measured",
    "copy": "not measured",
    "host": "not measured: a process's share of its machine's memory, for an optimizer that is offloaded",
    "clips_per_s": "not measured with pretrained codecs; docs/scale.md says how to",
    "cpus": "a choice",
    "per_source": "a choice",
}


@dataclass(frozen=True)
class Wish:
    """What is asked: so many GPUs of a kind at a price an hour each, for this recipe."""

    recipe: str
    gpus: int
    kind: str
    gpu: Gpu
    price: float


@dataclass(frozen=True)
class Plan:
    """See the module's docstring. memory: of a training process by stage of the run, as the layout has it; zero: the best of each ZeRO
    stage with as many trainers; layout: None where nothing fits, and `remedy` says what would. clips: of the dataset, 0 if none was
    given; read: bytes of clips that all steps read; tokens: of a clip, by stage. remarks: what a reader should know.
    """

    wish: Wish
    parameters: dict[str, int]
    memory: dict[str, dict[str, Any]]
    zero: tuple[Fit, ...]
    layout: Timed | None
    shares: dict[str, dict[str, float]]
    clips: int
    read: int
    tokens: dict[str, int]
    data_machines: int
    checkpoints: Checkpoints | None
    store: Store | None
    corpus: Corpus
    assumptions: dict[str, dict[str, Any]]
    remarks: tuple[str, ...]
    remedy: str

    @property
    def hours(self) -> float | None:
        return None if self.layout is None else self.layout.seconds / 3600

    @property
    def cost(self) -> float | None:
        return None if self.layout is None or self.hours is None else self.hours * self.layout.gpus * self.wish.price

    def stage_hours(self, config: RunConfig) -> dict[str, float]:
        """Hours of each stage."""
        return {} if self.layout is None else {s.name: self.layout.step_s[s.name] * s.steps / 3600 for s in config.stages}

    def to_json(self, config: RunConfig) -> dict[str, Any]:
        """Plain data; bytes and seconds unless a key says otherwise."""
        layout = None
        if self.layout is not None:
            t = self.layout
            layout = asdict(t.fit.choice) | {"rollout_gpus": t.actors, "rollout_gpus_wanted": t.wanted, "data_machines": self.data_machines}
            layout |= {"gpus": t.gpus, "idle_gpus": self.wish.gpus - t.gpus, "step_s": t.step_s, "rollout_request_s": t.request_s}
            layout["tokens_per_s"] = {s.name: s.batch * self.tokens[s.name] / t.step_s[s.name] for s in config.stages}
        return {
            "recipe": self.wish.recipe,
            "gpu": self.wish.kind,
            "gpus": self.wish.gpus,
            "parameters": self.parameters,
            "memory": self.memory,
            "zero": [_fit(fit) for fit in self.zero],
            "layout": layout,
            "time_shares": self.shares,
            "stage_hours": self.stage_hours(config),
            "hours": self.hours,
            "cost": self.cost,
            "checkpoints": None if self.checkpoints is None else asdict(self.checkpoints) | {"in_time": self.checkpoints.in_time},
            "object_store": None if self.store is None else asdict(self.store),
            "dataset_clips": self.clips,
            "s3": {"checkpoint_bytes": self.checkpoints.bytes if self.checkpoints else 0, "clip_bytes": self.read},
            "data_at_scale": asdict(self.corpus),
            "assumptions": self.assumptions,
            "remarks": list(self.remarks),
            "remedy": self.remedy,
        }


def _fit(fit: Fit) -> dict[str, Any]:
    found = {"zero": fit.choice.zero, "fits": not fit.why, "why_not": fit.why, "total": fit.moment.total, "parts": fit.moment.parts}
    return found | {"stage": fit.stage, "moment": fit.moment.name, "micro": fit.choice.micro, "every": fit.choice.every}


def make_plan(
    config: RunConfig, wish: Wish, assumed: Assumed, calibration: Calibration | None = None, manifest: Manifest | None = None
) -> Plan:
    """The plan of a run on GPUs, whatever its own settings say of them.

    Raises:
        ValueError: the calibration is of another GPU, or no trainer would be left.
    """
    if wish.gpus < (least := 2 if rolls(config) else 1):
        also = ", and one for the rollouts of this recipe" if least == 2 else ""
        raise ValueError(f"--gpus={wish.gpus}: at least one that trains{also}; give {least} or more")
    measured = None
    if calibration is not None:
        if calibration.device != wish.gpu.name:
            raise ValueError(f"--calibration: of {calibration.device!r}, --gpu={wish.kind} is {wish.gpu.name!r}; measure that one")
        measured = calibration.speeds(wish.gpu.bandwidth)
    trained, memory = measured or (assumed.mfu * wish.gpu.bf16, wish.gpu.bandwidth)

    def speeds(trainers: int) -> Speeds:
        link = wish.gpu.link if trainers <= wish.gpu.of_node else assumed.network
        return Speeds(trained, assumed.fp32 * wish.gpu.fp32, memory, link, assumed.host)

    best, zero = search(config, wish.gpus, wish.gpu, speeds)
    count = counts(config.model, config.data.timeline, config.objective.fake.rank)
    choice = best.fit.choice if best is not None else zero[-1].choice
    clips_per_s = (calibration and calibration.clips_per_s) or assumed.clips_per_s
    per_s = max(s.batch / best.step_s[s.name] for s in config.stages) if best is not None else 0.0
    of_memory = {s.name: _moments(config, choice, s.name) for s in config.stages}
    held_out = len(manifest.held_out) / max(1, manifest.clips) if manifest is not None else config.data.held_out_share
    kept = None if best is None else _checkpoints(config, best, assumed)
    return Plan(
        wish=wish,
        parameters=count.branches,
        memory=of_memory,
        zero=tuple(zero),
        layout=best,
        shares={} if best is None else {s.name: work(step(config, s, choice)).shares(speeds(choice.trainers)) for s in config.stages},
        clips=manifest.clips if manifest is not None else 0,
        read=sum(s.steps * s.batch * config.data.clip_bytes for s in config.stages),
        tokens={s.name: _tokens(config, s.name) for s in config.stages},
        data_machines=ceil(per_s / clips_per_s / assumed.cpus),
        checkpoints=kept,
        store=None if best is None else _store(config, best),
        corpus=corpus(SCALE, config.data.clip_bytes, held_out, assumed.per_source, clips_per_s, assumed.cpus),
        assumptions=_assumptions(config, wish, assumed, calibration, measured, manifest),
        remarks=tuple(_remarks(config, wish, best, kept)),
        remedy="" if best is not None else too_few(config, wish.gpus, wish.gpu, list(GPUS.items())),
    )


def _moments(config: RunConfig, choice: Any, name: str) -> dict[str, Any]:
    from .loads import load

    stage = next(s for s in config.stages if s.name == name)
    found = moments(load(config, stage, choice))
    worst = max(found, key=lambda moment: moment.total)
    return {"total": worst.total, "moment": worst.name, "parts": worst.parts, "moments": {m.name: m.total for m in found}}


def _tokens(config: RunConfig, name: str) -> int:
    """Of a clip that a stage has the network predict."""
    stage = next(s for s in config.stages if s.name == name)
    now, _ = arithmetic(config, stage).copies(0, config.data.clip_chunks)
    return sum(now.values())


def _checkpoints(config: RunConfig, best: Timed, assumed: Assumed) -> Checkpoints:
    choice, every = best.fit.choice, config.checkpoint.every
    of = {s.name: step(config, s, choice) for s in config.stages}
    kept = {s.name: saved(of[s.name].weights, of[s.name].trained, of[s.name].fake, s.steps, every) for s in config.stages}
    steps = {s.name: s.steps for s in config.stages}
    return checkpoints(kept, steps, best.step_s, every, choice.trainers, assumed.upload, assumed.copy)


def _store(config: RunConfig, best: Timed) -> Store | None:
    mutual = next((s for s in config.stages if s.objective == "mutual"), None)
    if mutual is None or not best.actors:
        return None
    of = step(config, mutual, best.fit.choice)
    clip = 2 * config.data.clip_bytes * (2 if config.objective.w_dmd > 0 else 1)  # fp32; clip_bytes counts fp16
    return store(of.weights, clip, mutual.batch, config.rollouts.max_age, best.step_s[mutual.name], config.rollouts.publish_every)


def _assumptions(
    config: RunConfig,
    wish: Wish,
    assumed: Assumed,
    calibration: Calibration | None,
    measured: tuple[float, float] | None,
    manifest: Manifest | None,
) -> dict[str, dict[str, Any]]:
    """Name -> value and where it is from."""
    made = {name: {"value": value, "from": WHY[name]} for name, value in vars(assumed).items()}
    if measured is not None:
        speeds = f"calibration of {calibration.device if calibration else ''}: {measured[0] / wish.gpu.bf16:.3f} of the peak"
        made["mfu"] = {"value": measured[0] / wish.gpu.bf16, "from": speeds}
    if calibration is not None and calibration.clips_per_s is not None:
        made["clips_per_s"] = {"value": calibration.clips_per_s, "from": "calibration"}
    data = config.data
    seconds = data.timeline.seconds(data.clip_chunks)
    where = f"{manifest.clips} clips of the dataset" if manifest is not None else "the recipe's settings; --data reads a dataset's"
    clip = {"value": f"{seconds:.2f} s of {data.width} x {data.height}", "from": where}
    memory = {"value": wish.gpu.memory, "from": f"{wish.gpu.source}; GB as 10^9 bytes, the rest of the card is CUDA's and NCCL's"}
    return made | {"clip": clip, "memory": memory, "precision": {"value": "bf16" if item_of(config) == 2 else "fp32", "from": "the recipe"}}


def _remarks(config: RunConfig, wish: Wish, best: Timed | None, checkpoints: Checkpoints | None) -> list[str]:
    if best is None:
        return []
    told, trainers = [], best.fit.choice.trainers
    own = chosen(config)
    if own != best.fit.choice or not config.workers.use_gpu:
        c = best.fit.choice
        settings = (
            f"workers.use_gpu=true workers.count={c.trainers} engine.zero_stage={c.zero} engine.micro_batch={c.micro} "
            f"execution.checkpoint_every={c.every} engine.offload={'optimizer' if c.offload else 'none'}"
            + (f" rollouts.actors={best.actors} rollouts.gpus=1" if best.actors else "")
        )
        told.append("to run it so: " + " ".join(f"--set {setting}" for setting in settings.split()))
    if idle := wish.gpus - best.gpus:
        batches = ", ".join(str(s.batch) for s in config.stages)
        told.append(
            f"{idle} of {wish.gpus} GPUs have nothing to do: trainers must divide the batches {batches}; rent {best.gpus}, or change them"
        )
    if checkpoints is not None and not checkpoints.in_time:
        told.append(
            "a checkpoint comes too late for the two minutes of a spot machine: such a machine costs the steps since the last one; keep "
            "trainers on machines that stay, or raise --upload (faster storage)"
        )
    if best.actors < best.wanted:
        told.append(f"{trainers} trainers would need {best.wanted} rollout GPUs; with {best.actors} they wait")
    return told
