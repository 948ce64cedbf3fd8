"""What a folder of exported weights says of its model, so that clips can be made with that folder alone: weights.json, under `model`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..datasets.format.account import SourceLine, read_account
from ..datasets.format.manifest import Manifest
from ..datasets.intake.sidecars import CONSENT, LICENCE
from ..datasets.reading.loader import LatentDataset
from ..datasets.reading.members import members_of
from ..model.objective import ObjectiveConfig
from ..model.text import TextConfig
from ..model.timeline import Timeline
from ..model.trunk import TransformerConfig
from .config import RunConfig, SamplesConfig

UNKNOWN, DRAWN = "unknown", "drawn by mutual-forcing"
CONTROLS = ("caption", "transcript")
LOOKED_AT = 64  # clips of each side of the split, for what they have


@dataclass(frozen=True)
class ModelRecord:
    """network, timeline, objective: what the weights were trained as; samples: how MULTI is sampled unless somebody says otherwise.

    width, height: of its pictures; video_codec, audio_codec: as their dataset's manifest has them, None of a modality that it lacks.
    controls: which texts its clips had. licences, consents: how many sources were used under which licence, and with which consent.
    """

    network: TransformerConfig
    timeline: Timeline
    objective: ObjectiveConfig
    samples: SamplesConfig
    width: int
    height: int
    video_codec: dict[str, Any] | None
    audio_codec: dict[str, Any] | None
    controls: tuple[str, ...] = CONTROLS
    licences: dict[str, int] = field(default_factory=dict)
    consents: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def record_of_run(config: RunConfig, data: Path, controls: tuple[str, ...]) -> ModelRecord:
    """What a run's model is. data: the run's folder of data.

    Raises:
        ValueError: a manifest is missing or damaged.
    """
    manifests = [(member.folder, member.manifest(verify=False)) for member in members_of(data)]
    first = manifests[0][1]
    return ModelRecord(
        config.model,
        config.data.timeline,
        config.objective,
        config.samples,
        first.width,
        first.height,
        first.video_codec or None,
        first.audio_codec or None,
        controls,
        _rights(manifests, LICENCE),
        _rights(manifests, CONSENT),
    )


def controls_of(dataset: LatentDataset) -> tuple[str, ...]:
    """Which texts the clips of a dataset have, by some of them."""
    places = [*dataset.held_out[:LOOKED_AT], *dataset.train[:LOOKED_AT]]
    records = [shard.row(row) for shard, row in places]
    has = {"caption": any(r.caption.strip() for r in records), "transcript": any(r.words for r in records)}
    return tuple(name for name in CONTROLS if has[name])


def dataset_of(data: Path) -> LatentDataset:
    """A run's clips, to be looked at one by one."""
    return LatentDataset(data, TextConfig())


def read_model_record(tree: Any, where: str) -> ModelRecord:
    """The inverse of `to_json`.

    Raises:
        ValueError: it is none of ours; `where` begins the line.
    """
    try:
        return TypeAdapter(ModelRecord).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "model"
        raise ValueError(f"{where}: {at}: {first['msg'].removeprefix('Value error, ')}; export the weights again") from None


def _rights(manifests: Iterable[tuple[Path, Manifest]], right: str) -> dict[str, int]:
    """Sources that were used, by what their tag `right` says; the most first."""
    counts = Counter[str]()
    for folder, manifest in manifests:
        path = folder / manifest.account
        lines: list[SourceLine] = read_account(path) if path.is_file() else []
        for line in lines:
            if line.used:
                counts[DRAWN if manifest.synthetic else dict(line.tags).get(right, UNKNOWN)] += 1
        if not lines:
            counts[UNKNOWN] += manifest.sources_used
    return dict(counts.most_common())
