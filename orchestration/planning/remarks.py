"""What a plan tells its reader besides figures: how to run it so, what stands idle, what to change."""

from __future__ import annotations

from ..config import RunConfig
from .layout import Timed
from .loads import chosen
from .traffic import Checkpoints
from .words import counted


def remarks(config: RunConfig, gpus: int, best: Timed, checkpoints: Checkpoints) -> list[str]:
    """One line each; the last are the settings of such a run."""
    told = list(_of_rollouts(config, best))
    if idle := gpus - best.gpus:
        batches = ", ".join(str(s.batch) for s in config.stages)
        told.append(
            f"{idle} of {counted(gpus, 'GPU')} {'has' if idle == 1 else 'have'} nothing to do: trainers must divide the batches {batches}; "
            f"rent {best.gpus}, or change them"
        )
    if not checkpoints.in_time:
        told.append(
            "a checkpoint comes too late for the two minutes of a spot machine, which then costs the steps since the last one: lower "
            "checkpoint.every, choose a smaller model, or keep trainers on machines that stay or give longer notice"
        )
    settings = _settings(config, best)
    return [*told, "to run it so: " + " ".join(f"--set {setting}" for setting in settings)] if settings else told


def _of_rollouts(config: RunConfig, best: Timed) -> list[str]:
    told = []
    if best.clips < best.asked:
        told.append(
            f"rollouts.clips={best.clips}: a rollout GPU has no room for the {best.asked} clips of a request "
            f"({'the recipe' if config.rollouts.clips else 'a share of a step'})"
        )
    if best.actors < best.wanted:
        trainers = counted(best.fit.choice.trainers, "trainer")
        told.append(f"{trainers} would need {counted(best.wanted, 'rollout GPU')}; with {best.actors}, training waits for rollouts")
    return told


def _settings(config: RunConfig, best: Timed) -> list[str]:
    """What must be set for it; nothing where the recipe says so already."""
    c = best.fit.choice
    if chosen(config) == c and config.workers.use_gpu and best.clips == best.asked:
        return []
    settings = [
        "workers.use_gpu=true",
        f"workers.count={c.trainers}",
        f"engine.zero_stage={c.zero}",
        f"engine.micro_batch={c.micro}",
        f"execution.checkpoint_every={c.every}",
        f"engine.offload={'optimizer' if c.offload else 'none'}",
    ]
    if best.actors:
        settings += [f"rollouts.actors={best.actors}", "rollouts.gpus=1"]
    if best.clips < best.asked:
        settings.append(f"rollouts.clips={best.clips}")
    return settings
