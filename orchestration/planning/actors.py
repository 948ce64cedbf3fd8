"""What a rollout actor holds on its GPU, and how many clips of a request it has room for."""

from __future__ import annotations

from ...model.activations import FP32, Activations
from ...model.arithmetic import Arithmetic
from ..config import RunConfig
from .loads import activations, arithmetic, counts
from .memory import Parts


def rolls(config: RunConfig) -> bool:
    """Whether rollout actors have something to do."""
    return any(s.objective == "mutual" for s in config.stages) and config.objective.needs_rollouts


def actor_parts(config: RunConfig, clips: int) -> Parts:
    """Bytes by part while it generates so many clips: it computes in fp32, one chunk after the other, without a gradient.

    caches: keys and values of a full window, of the sink and of a layer that is read; text: those of captions and words, of every layer.
    """
    mutual = next(s for s in config.stages if s.objective == "mutual")
    of, words = arithmetic(config, mutual), config.model.text.max_words
    whole = activations(of, config.data.clip_chunks, words, FP32)
    text = of.config.depth * sum(_text(of, m, words) for m in of.modalities)
    return {
        "weights": FP32 * counts(config.model, config.data.timeline, config.objective.fake.rank).total,
        "caches": whole.cache(clips),
        "text": FP32 * clips * text,
        "activations": Activations(of, 1, words, FP32).transient(clips),
    }


def _text(of: Arithmetic, m: str, words: int) -> int:
    """Numbers of the keys and values of a clip's text in one layer of a branch; a caption of tokens has them twice as wide."""
    features = of.branch(m)[3].caption_features
    return (of.caption + words + 1) * (2 if features else 4) * of.inner


def clips_that_fit(config: RunConfig, trainers: int, memory: int) -> tuple[int, int]:
    """Clips of a request: as many as a GPU has room for, of those that the pool may ask for together (0: not even one), and as asked."""
    mutual = next(s for s in config.stages if s.objective == "mutual")
    local = mutual.batch // trainers
    asked = config.rollouts.clips or local
    fair = (n for n in range(asked, 0, -1) if asked % n == 0 and (local % n == 0 or n % local == 0))
    return next((n for n in fair if sum(actor_parts(config, n).values()) <= memory), 0), asked
