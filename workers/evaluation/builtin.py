"""Metrics by the name under which they are asked for: those that need no weights, and judges with weights from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec

from .av_sync import AVSync
from .condition import Drift, Faults, Motion, Seams, Sound
from .gathering import Metric
from .latent_features import LatentFeatures
from .random_features import VIEWS, RandomFeatures

JUDGES = ".judges"
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


def judges(entries: Sequence[str], device: str = "cpu") -> list[Metric]:
    """The judges of entries NAME=WHERE: a local folder, S3 or the hub.

    Raises:
        ValueError: an entry has another form, or the judge cannot be opened.
    """
    found: list[Metric] = []
    for entry in entries:
        name, equals, where = entry.partition("=")
        if not equals or not where:
            raise ValueError(f"--judge={entry[:200]!r}: is not NAME=WHERE; give a judge and its weights, as wer=models/whisper-large-v3")
        if find_spec(JUDGES, __package__) is None:
            raise ValueError(f"--judge={entry[:200]!r}: this installation has no judges with weights; leave it off")
        found.append(import_module(f"{JUDGES}.judges", __package__).open_judge(name, where, device))
    return found
