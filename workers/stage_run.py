"""One stage on one rank: its networks, the loop over its steps, its checkpoints."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import compress

import torch
import torch.distributed as dist
from torch import nn

from ..datasets.ledger import Update, consumed, head_of, read_chain
from ..datasets.places.store import Store
from ..datasets.reading.loader import LatentDataset
from ..datasets.reading.order import rank_positions
from ..datasets.reading.prefetch import Ahead
from ..datasets.streamed.streamed_clips import StreamedClips
from ..model.ema import ema_decay, ema_update
from ..model.health import GradientMeter, few_health
from ..model.lora import LoraAdapter
from ..model.noise import PositionalNoise, position_seed
from ..model.sampler import roll_out
from ..model.transformer import AVTransformer
from ..model.types import AVBatch, Rollout
from .bad_step import Origin, Setup
from .checkpoint import Checkpoint, Weights
from .checkpoint_writer import CheckpointWriter, Share, State
from .engine import Engine, settled
from .logs import RankLog
from .loop_config import Process, RolloutSource, StageConfig, TrainLoopConfig
from .metrics import MetricSpool
from .node_metrics import EVERY, NodeMetrics
from .notice import MadeReady, MoreRoom, TakenBack
from .pieces import Piece, Shapes, shapes_of, whole_pieces
from .profiler import FOLDER, StageProfile
from .step_clock import StepClock, rates
from .step_guard import StepGuard
from .train_step import Metrics, Networks, flow_step, mutual_step, probe
from .watchdog import Watchdog
from .wire import Snapshot, pack_weights, require_clips

# How many ranks have heard that a machine goes away, or that more workers have room: it travels with a step's metrics, and is none.
NOTICE, ROOM = "notice", "room"
WORKERS = "system/workers"  # metric: how many train
MULTI_STEPS = 16  # of the guided clip that the few-step mode is compared with
AHEAD, AHEAD_REMOTE = (4, 1), (8, 4)  # batches that are read before their step, and threads that read them; of what lies in S3
log = logging.getLogger(__name__)


def network_of(config: TrainLoopConfig, weights: Weights | None) -> AVTransformer:
    """A network with these weights, or with the random ones of the run's seed."""
    torch.manual_seed(position_seed(config.seed, "init"))
    network = AVTransformer(config.network, config.timeline, config.execution)
    if weights is not None:
        network.load_state_dict(weights)
    return network


@dataclass(frozen=True)
class Place:
    """Where a process stands in an attempt of the training; log: what it has to say."""

    store: Store
    attempt: str
    process: Process
    log: RankLog


class StageRun:
    """One stage on one rank: its networks, and the loop over its steps. start: the weights that the stage began with."""

    def __init__(
        self,
        config: TrainLoopConfig,
        stage: StageConfig,
        dataset: LatentDataset,
        rollouts: RolloutSource,
        place: Place,
        start: Weights | None,
        resumed: Checkpoint | None,
        warnings: Sequence[str],
    ) -> None:
        self._config, self._stage, self._rollouts = config, stage, rollouts
        self._clips = dataset.stage(config.seed, stage.name, stage.batch, stage.modalities)
        self._depth = AHEAD_REMOTE if dataset.remote else AHEAD
        self._process, self._log = place.process, place.log
        self._leaves: type[MadeReady] | None = None  # why training stops after this step
        self._rank, self._world = rank, world = place.process.rank, place.process.world
        self._device = device = torch.device(place.process.device)
        self._ema = network_of(config, start).to(device).requires_grad_(False)
        local = stage.batch // world
        mutual, objective = stage.objective == "mutual", config.objective
        self._rolls = mutual and objective.needs_rollouts
        self._probed = self._probe_rollout()  # of the weights that the stage began with, before those of a checkpoint
        self._streamed = self._stream(dataset, place, resumed)
        saved = {} if resumed is None else {role: resumed.source(role) for role in resumed.manifest["roles"]}
        if saved:
            self._ema.load_state_dict(saved["ema"].weights())
        self._theta = live = network_of(config, saved["live"].weights() if saved else start)
        settled(live, config.engine, device)
        fake = self._fake_score(start) if mutual and objective.w_dmd > 0 else None
        if fake is not None and saved:
            fake.load_state_dict(saved["fake"].weights())
        if fake is not None:
            settled(fake, config.engine, device)
        groups = live.parameter_groups(stage.modalities, objective.few.lr_ratio if mutual else 1.0)
        self._live = Engine(live, groups, stage.optimizer, config.engine, local)
        self._fake = None if fake is None else Engine(fake, [(1.0, list(fake.parameters()))], stage.optimizer, config.engine, local)
        self._engines = {"live": self._live} | ({} if self._fake is None else {"fake": self._fake})
        self._first, about = 0, {"seconds": 0.0, "row": 0, "ledger": None}
        if resumed is not None:
            self._first, about = resumed.step, resumed.manifest
            for role, engine in self._engines.items():
                engine.restore(saved[role], about["updates"][role])
        frozen = network_of(config, start).to(device).requires_grad_(False) if mutual and objective.teacher == "frozen" else None
        self._networks = Networks(self._live, self._ema, self._fake, frozen)
        origin = Origin(stage.name, stage.objective, config.seed, rank, Setup(config.network, config.timeline, objective))
        self._folder = folder = place.process.folder or config.run_dir
        self._guard = StepGuard(folder, config.run_dir, origin, config.max_bad_steps, self._all_weights, about["row"])
        self._spool = MetricSpool(folder / "metrics", stage.name, self._first) if rank == 0 else None
        self._nodes = NodeMetrics(folder, rank)
        self._writer = CheckpointWriter(
            place.store, config.checkpoint, rank, world, place.attempt, self._first, head_of(about["ledger"]), self._warn
        )
        self._shapes: dict[str, Shapes] = {role: shapes_of(e.network.named_parameters()) for role, e in self._engines.items()}
        self._shapes["ema"] = shapes_of(self._ema.named_parameters())
        place.store.close()  # all of the checkpoint has been read
        self._updates: list[Update] = []
        self._profile = StageProfile(config.profile, folder / FOLDER, stage.name, rank, self._first, stage.steps)
        self._sent: list[Snapshot] = []  # the last two weights that went to the pool: the newest may have to go once more
        self._stalled = 0.0  # seconds that the checkpoint before this step took from training
        self._began, self._spent = time.monotonic(), float(about["seconds"])
        for text in warnings:
            self._warn(text)

    def train(self) -> Weights:
        """All steps that are left; returns the averaged weights for the next stage when its checkpoint is committed.

        Raises:
            MadeReady: a machine goes away before they are done, or more workers have room; a checkpoint of the steps so far is committed.
        """
        every, done = self._config.checkpoint.every, self._first
        watched = Watchdog(self._folder / "stacks", self._rank, self._config.step_deadline_s)
        still = self._streamed is None  # what is streamed may wait for other ranks, which wait for this one
        self._ahead = Ahead(self._read, done, self._stage.steps, *self._depth, patient=still)
        with watched as watchdog, self._ahead:
            if self._rolls:
                self._publish(self._first)
            while done < self._stage.steps and self._leaves is None:
                self._log.step = done
                with self._profile.around(done):
                    self._step(done)
                watchdog.beat()
                done += 1
                if done == self._stage.steps or self._leaves or (every and done % every == 0):
                    self._save(done)
        if self._streamed is not None:
            self._streamed.close()
        self._writer.finish()
        if self._spool is not None:
            self._spool.close()
        if done < self._stage.steps:
            dist.barrier()  # the first that ends takes the others with it: rank 0 must have committed
            assert self._leaves is not None, "or all steps would be done"
            why = "notice was given" if self._leaves is TakenBack else "more workers have room"
            raise self._leaves(f"{why}; checkpoint of step {done} of stage {self._stage.name!r} is committed")
        ema = {name: x.detach().to("cpu", copy=True) for name, x in self._ema.state_dict().items()}
        for engine in self._engines.values():
            engine.close()
        return ema

    def _save(self, step: int) -> None:
        """Have a checkpoint written of the state after `step` steps."""
        start = time.monotonic()
        pieces: dict[str, list[Piece]] = {role: engine.pieces() for role, engine in self._engines.items()}
        pieces["ema"] = whole_pieces(self._ema.named_parameters(), self._rank, self._world)
        updates, self._updates = self._updates, []
        state = State(
            stage=self._stage.name,
            step=step,
            steps=self._stage.steps,
            batch=self._stage.batch,
            network=self._config.architecture(),
            updates={role: engine.steps for role, engine in self._engines.items()},
            seconds=round(self._spent + start - self._began, 2),
            samples=step * self._stage.batch,
            row=self._guard.row,
            about=self._config.about,
        )
        waiting = self._rollouts.held(step, self._rank) if self._rolls and not state.final else {}
        self._writer.save(state, Share(pieces, self._shapes, updates, waiting))
        self._stalled = time.monotonic() - start

    def _warn(self, text: str) -> None:
        log.warning("%s", text)
        if self._spool is not None:
            self._spool.note(self._first, text)

    def _step(self, step: int) -> None:
        measured = self._probe() if step == 0 else {}
        clock = StepClock(self._rank == 0 and self._world > 1 and self._metered(step) and not self._profile.covers(step))
        batch = self._ahead.take(step).to(self._device)
        noise = self._noise(batch)
        clock.lap("data_wait_s")
        rate = self._stage.optimizer.rate(step, self._stage.steps)
        ages: Counter[str] = Counter()
        rollout = self._rollouts.take(step, self._rank) if self._rolls else None
        clock.lap("rollout_wait_s")
        pool = self._rollouts.figures() if self._rolls and self._rank == 0 and self._metered(step) else {}
        if self._stage.objective == "flow":
            metrics = flow_step(self._networks, batch, noise, self._config.objective, rate, self._config.engine.micro_batch)
        else:
            if rollout is not None:
                rollout = rollout.to(self._device)
                require_clips(rollout, batch.sample_ids, batch.positions, step)
                ages.update(f"age/{step - low}" for low, _ in rollout.versions)
            metrics = self._mutual(step, batch, rollout, noise, rate)
        self._average(step, skipped=bool(metrics["skipped"]))
        if self._rolls and step + 1 < self._stage.steps:
            self._publish(step + 1)
        local = {"lr": rate, "checkpoint_s": self._stalled, **clock.stop(), **{f"pool/{name}": x for name, x in pool.items()}}
        local |= rates(self._config.network, batch, self._config.objective, self._stage.objective == "mutual", self._world, local["step_s"])
        self._stalled = 0.0
        if step + 1 == self._stage.steps:
            measured = self._probe()
        heard = {NOTICE: float(self._process.notice()), ROOM: float(self._process.room())}
        values = self._record(step, metrics | measured | heard, local, ages)
        skipped = values["skipped"] + values.get("skipped_fake", 0) > 0
        if skipped:
            log.warning("step skipped: a loss or a gradient was not finite")
        versions = None if rollout is None else (rollout.version_low, rollout.version_high)
        passes = self._streamed.passes(batch.positions) if self._streamed is not None else ()
        self._updates.append(Update(step, batch.sample_ids, not values["skipped"], versions, passes))
        self._guard.see(step, metrics, skipped, batch, rollout)

    def _mutual(self, step: int, batch: AVBatch, rollout: Rollout | None, noise: PositionalNoise, rate: float) -> Metrics:
        """A dual-mode step, with its health signals at every `health_every`-th."""
        objective, micro = self._config.objective, self._config.engine.micro_batch
        if not self._metered(step):
            return mutual_step(self._networks, batch, rollout, noise, objective, rate, micro=micro)
        meter = GradientMeter({m: self._theta.branch_parameters((m,)) for m in self._stage.modalities})
        metrics = mutual_step(self._networks, batch, rollout, noise, objective, rate, meter, micro)
        meter.close()
        signals = few_health(self._ema, batch, objective, MULTI_STEPS, noise)
        return metrics | {f"health/{name}": value for name, value in signals.items()}

    def _metered(self, step: int) -> bool:
        return self._stage.health_every > 0 and step % self._stage.health_every == 0

    def _read(self, step: int) -> AVBatch:
        """This rank's clips of a step, in the stage's modalities."""
        positions = rank_positions(step, self._stage.batch, self._rank, self._world)
        return self._clips.batch(positions) if self._streamed is None else self._streamed.batch(positions)

    def _stream(self, dataset: LatentDataset, place: Place, resumed: Checkpoint | None) -> StreamedClips | None:
        """Clips that come as they are decoded, where the run has such; who makes rollouts needs them by their positions."""
        if place.process.passes is None or self._rolls:
            return None
        had = None if resumed is None else consumed(read_chain(place.store, head_of(resumed.manifest["ledger"])))
        return StreamedClips(dataset, self._stage.name, self._stage.modalities, place.process.passes, had)

    def _noise(self, batch: AVBatch, *use: str) -> PositionalNoise:
        return PositionalNoise([(self._config.seed, self._stage.name, *use, p) for p in batch.positions], self._device)

    def _probe_rollout(self) -> Rollout | None:
        """Histories of the stage's first clips, made once by the weights that it began with."""
        objective = self._config.objective
        if self._stage.objective != "mutual" or not objective.generated_history:
            return None
        batch, noise = self._probe_clips()
        return roll_out(self._ema, batch.latents, batch.controls, batch.layout, objective, noise, version=0)

    def _probe_clips(self) -> tuple[AVBatch, PositionalNoise]:
        positions = rank_positions(0, self._stage.batch, self._rank, self._world)
        batch = self._clips.batch(positions).to(self._device)
        return batch, self._noise(batch, "probe")

    def _probe(self) -> Metrics:
        """The averaged weights on the stage's first clips, with noise and histories of their own."""
        objective, mutual = self._config.objective, self._stage.objective == "mutual"
        batch, noise = self._probe_clips()
        models = replace(self._networks.models(objective.teacher if mutual else "ema"), live=self._ema)
        return probe(models, batch, self._probed, noise, objective, mutual)

    def _average(self, step: int, skipped: bool) -> None:
        """Follow the live weights; a skipped step left them as they were."""
        if not skipped:
            trained = [p.requires_grad for p in self._theta.parameters()]  # the others stand still, and are rounded under bf16
            live = self._live.each()
            ema_update(compress(self._ema.parameters(), trained), compress(live, trained), ema_decay(self._stage.ema, step))

    def _record(self, step: int, metrics: Metrics, local: dict[str, float], ages: Counter[str]) -> dict[str, float]:
        """Write a step's metrics to the spool; returns their means over the ranks."""
        names = sorted(metrics)
        mean = torch.tensor([float(metrics[n]) for n in names], dtype=torch.float64) / self._world
        dist.all_reduce(mean)
        values = dict(zip(names, mean.tolist(), strict=True))
        taken, room = values.pop(NOTICE) > 0, values.pop(ROOM) > 0
        self._leaves = TakenBack if taken else MoreRoom if room else None
        counts = (over_ranks(ages) if ages else {}) | self._nodes.of_all(step)
        if step == self._first or step % EVERY == 0:
            counts[WORKERS] = float(self._world)
        if self._spool is not None:
            told = values | local | counts
            self._spool.write(step, told)
            self._process.observer(self._stage.name, step, told)
        return values

    def _publish(self, version: int) -> None:
        """Offer weights to those who make histories: the averaged ones, which are served, or the live ones; all ranks must call it."""
        if version % self._config.publish_every and version != self._first:
            return
        with self._live.gathered() if self._config.published == "live" else nullcontext(self._ema.parameters()) as weights:
            if self._rank == 0:
                earlier = self._sent.pop(0) if len(self._sent) == 2 else None
                self._sent.append(pack_weights(version, weights, earlier, self._config.direct))
                self._rollouts.publish(self._sent[-1])

    def _fake_score(self, weights: Weights | None) -> nn.Module:
        """phi at the beginning of the stage: the same function as theta."""
        fake = self._config.objective.fake
        if fake.kind == "lora":
            return LoraAdapter(self._theta, fake.rank)
        return network_of(self._config, weights)

    def _all_weights(self, keep: bool) -> dict[str, Weights]:
        """Every network's weights by role, whole, on the ranks that `keep` them; all ranks must call it (ZeRO-3 gathers)."""
        whole = {"live": self._whole(self._live)} | ({} if self._fake is None else {"fake": self._whole(self._fake)})
        still = {"ema": self._ema} | ({} if self._networks.frozen is None else {"frozen": self._networks.frozen})
        return whole | {role: dict(network.state_dict()) for role, network in still.items()} if keep else {}

    def _whole(self, engine: Engine) -> Weights:
        names = [name for name, _ in engine.network.named_parameters()]
        with engine.gathered() as tensors:
            return {name: x.detach().cpu().clone() for name, x in zip(names, tensors, strict=True)}


def over_ranks(counts: Counter[str]) -> dict[str, float]:
    """The counts of all ranks together; every rank must call it."""
    gathered: list[Counter[str]] = [Counter()] * dist.get_world_size()
    dist.all_gather_object(gathered, counts)
    return {name: float(count) for name, count in sum(gathered, Counter()).items()}
