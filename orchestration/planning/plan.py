"""What a run will need: one frozen `Plan`, composed of what its neighbours reckon.

RunConfig --> loads --> memory ---+
                   \\-> timing ---+--> layout --> plan --> table, JSON
data sheet, calibration -> speeds +    traffic --^
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from ...datasets.format.manifest import Manifest
from ..config import RunConfig
from .actors import actor_parts, rolls
from .assumed import LOW_MFU, Assumed, assumptions, require_number
from .calibration import Calibration
from .gpus import GPUS, Gpu
from .host import Host, host_of, store_of
from .layout import Fit, Room, Timed, hosted, search, timed, too_few
from .loads import arithmetic, counts, item_of, step
from .memory import Parts, moments
from .remarks import remarks
from .timing import Speeds, work
from .traffic import Checkpoints, Corpus, Store, checkpoints, corpus, saved

SCALE = 100_000_000  # clips of the estimate at the paper's scale


@dataclass(frozen=True)
class Wish:
    """What is asked: so many GPUs of a kind at a price an hour each, for this recipe. host: bytes of a machine's own memory, if said.

    Raises:
        ValueError: a number is outside of what a plan can be made with.
    """

    recipe: str
    gpus: int
    kind: str
    gpu: Gpu
    price: float
    host: int | None = None

    def __post_init__(self) -> None:
        require_number("--gpus", self.gpus, 1, 100_000)
        require_number("--price", self.price, 0, 1e6)


@dataclass(frozen=True)
class Plan:
    """See the module's docstring. memory: of a training process by stage of the run, as the layout has it; zero: the best of each ZeRO
    stage with as many trainers; layout: None where nothing fits, and `remedy` says what would; slow: the same at the lower MFU, None where
    one was given or measured; host: of the machine that needs most of its own. clips: of the dataset, 0 if none was
    given; read: bytes of clips that all steps read; tokens: of a clip, by stage. remarks: what a reader should know.
    """

    wish: Wish
    parameters: dict[str, int]
    memory: dict[str, dict[str, Any]]
    zero: tuple[Fit, ...]
    layout: Timed | None
    slow: Timed | None
    host: Host
    shares: dict[str, dict[str, float]]
    clips: int
    read: int
    tokens: dict[str, int]
    data_machines: int
    checkpoints: Checkpoints | None
    store: Store | None
    actor: Parts
    corpus: Corpus
    assumptions: dict[str, dict[str, Any]]
    remarks: tuple[str, ...]
    remedy: str

    @property
    def hours(self) -> float | None:
        return None if self.layout is None else self.layout.seconds / 3600

    @property
    def cost(self) -> float | None:
        return None if self.layout is None else self.cost_of(self.layout.seconds)

    @property
    def hours_high(self) -> float | None:
        return self.hours if self.slow is None else self.slow.seconds / 3600

    def cost_of(self, seconds: float) -> float:
        """US dollars of the whole layout for so long."""
        assert self.layout is not None
        return seconds / 3600 * self.layout.gpus * self.wish.price

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
            layout |= {"rollout_clips": t.clips, "rollout_clips_asked": t.asked}
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
            "hours_low": self.hours,
            "hours_high": self.hours_high,
            "cost": self.cost,
            "cost_low": self.cost,
            "cost_high": None if self.hours_high is None else self.cost_of(3600 * self.hours_high),
            "rollouts": self.rollouts,
            "host": _host(self.host),
            "checkpoints": self._checkpoints(),
            "object_store": None if self.store is None else asdict(self.store),
            "dataset_clips": self.clips,
            "s3": {"checkpoint_bytes": self.checkpoints.bytes if self.checkpoints else 0, "clip_bytes": self.read},
            "data_at_scale": asdict(self.corpus),
            "assumptions": self.assumptions,
            "remarks": list(self.remarks),
            "remedy": self.remedy,
        }

    @property
    def rollouts(self) -> dict[str, Any] | None:
        """What a rollout actor holds on its GPU, None without any."""
        return None if not self.actor else {"total": sum(self.actor.values()), "parts": self.actor}

    def _checkpoints(self) -> dict[str, Any] | None:
        c = self.checkpoints
        if c is None:
            return None
        return asdict(c) | {"in_time": c.in_time, "lost_cost": self.cost_of(c.lost_s)}


def _host(host: Host) -> dict[str, Any]:
    p = host.process
    return asdict(host) | {"process": asdict(p) | {"start": p.start, "training": p.training}, "node": host.node, "fits": not host.over}


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
    precision = "bf16" if item_of(config) == 2 else "fp32"
    whole, peak, measured = assumed.on(wish.gpu), wish.gpu.peak(precision), None
    assert whole.mfu is not None
    assert whole.network is not None
    if calibration is not None:
        calibration.require(wish.kind, wish.gpu.name, precision)
        measured = calibration.speeds(wish.gpu.bandwidth)
    trained, memory = measured or (whole.mfu * peak, wish.gpu.bandwidth)
    network = whole.network

    def speeds(trainers: int, trained: float = trained) -> Speeds:
        link = wish.gpu.link if trainers <= wish.gpu.of_node else network
        return Speeds(trained, whole.fp32 * wish.gpu.fp32, memory, link, whole.host)

    room = Room(wish.gpus, wish.gpu, wish.host)
    best, zero = search(config, room, speeds)
    slow = None
    if best is not None and measured is None and assumed.mfu is None:
        slow = timed(config, best.fit, room.gpus, wish.gpu.memory, speeds(best.fit.choice.trainers, LOW_MFU * peak), best.actors)
    count = counts(config.model, config.data.timeline, config.objective.fake.rank)
    choice = best.fit.choice if best is not None else zero[-1].choice
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
        slow=slow,
        host=hosted(config, best, room) if best is not None else host_of(config, choice, 0, wish.gpu.of_node, wish.host),
        shares={} if best is None else {s.name: work(step(config, s, choice)).shares(speeds(choice.trainers)) for s in config.stages},
        clips=manifest.clips if manifest is not None else 0,
        read=sum(s.steps * s.batch * config.data.clip_bytes for s in config.stages),
        tokens={s.name: _tokens(config, s.name) for s in config.stages},
        data_machines=ceil(per_s / assumed.clips_per_s / assumed.cpus),
        checkpoints=kept,
        store=None if best is None or not best.actors else store_of(config, choice, best.step_s),
        actor=actor_parts(config, best.clips) if best is not None and best.actors else {},
        corpus=corpus(SCALE, config.data.clip_bytes, held_out, assumed.per_source, assumed.clips_per_s, assumed.cpus),
        assumptions=_assumptions(config, wish, assumed, precision, measured, manifest),
        remarks=() if best is None or kept is None else tuple(remarks(config, wish.gpus, best, kept)),
        remedy="" if best is not None else too_few(config, room, zero, list(GPUS.items())),
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


def _assumptions(
    config: RunConfig, wish: Wish, assumed: Assumed, precision: str, measured: tuple[float, float] | None, manifest: Manifest | None
) -> dict[str, dict[str, Any]]:
    """Name -> value and where it is from."""
    made = assumptions(assumed, wish.gpu, precision)
    if measured is not None:
        made.pop("mfu_low", None)
        made["mfu"] = {"value": measured[0] / wish.gpu.peak(precision), "from": f"--calibration, of the {precision} peak"}
        made["bandwidth"] = {"value": measured[1], "from": "--calibration"}
    data = config.data
    seconds = data.timeline.seconds(data.clip_chunks)
    where = f"{manifest.clips} clips of the dataset" if manifest is not None else "the recipe's settings; --data reads a dataset's"
    clip = {"value": f"{seconds:.2f} s of {data.width} x {data.height}", "from": where}
    memory = {"value": wish.gpu.memory, "from": f"{wish.gpu.source}; GB as 10^9 bytes, the rest of the card is CUDA's and NCCL's"}
    return made | {"clip": clip, "memory": memory, "precision": {"value": precision, "from": "the recipe"}}
