"""The metrics that need no weights, by the name under which they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .av_sync import AVSync
from .condition import Drift, Faults, Motion, Seams, Sound
from .gathering import Metric
from .latent_features import LatentFeatures
from .random_features import VIEWS, RandomFeatures

BUILTIN: dict[str, Callable[[], Sequence[Metric]]] = {
    "sync": lambda: [AVSync()],
    "latents": lambda: [LatentFeatures(view) for view in VIEWS],
    "random": lambda: [RandomFeatures(view) for view in VIEWS],
    "motion": lambda: [Motion()],
    "drift": lambda: [Drift()],
    "seams": lambda: [Seams()],
    "sound": lambda: [Sound()],
    "faults": lambda: [Faults()],
}


def chosen(names: Sequence[str]) -> list[Metric]:
    """The metrics of these names; of none, all.

    Raises:
        ValueError: a name is unknown.
    """
    for name in names:
        if name not in BUILTIN:
            raise ValueError(f"--metrics: {name[:40]!r} is unknown; choose from {', '.join(BUILTIN)}")
    return [metric for name in dict.fromkeys(names or BUILTIN) for metric in BUILTIN[name]()]
