"""A step that was not finite, as one file: all that it takes to compute it again on another machine.

The file is safetensors. Its metadata hold a JSON header and one hash over the header and every tensor, because safetensors itself
notices no flipped bit. Nothing is unpickled, and no memory is taken that the file does not fill.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..datasets.places.storage import atomic_path, make_folder
from ..model.objective import ObjectiveConfig
from ..model.timeline import Layout, Timeline
from ..model.trunk import TransformerConfig
from ..model.types import AV, MODALITIES, AVBatch, Controls, Rollout
from .checkpoint import Weights
from .wire import rollout_from_arrays, rollout_to_arrays

FOLDER = "bad-steps"
FORMAT = 1
KIND = "mutual-forcing bad step"
MAX_HEADER = 16 * 2**20  # bytes: the list of the tensors and the JSON header; 10,000 tensors take about 1 MiB
ROLES = ("live", "ema", "fake", "frozen")
REMEDY = "train again to have it written again"


@dataclass(frozen=True)
class Setup:
    """What the networks and the losses are made from."""

    model: TransformerConfig
    timeline: Timeline
    objective: ObjectiveConfig


@dataclass(frozen=True)
class Origin:
    """Where a step stands: which stage of which kind, and whose share of the batch."""

    stage: str
    kind: Literal["flow", "mutual"]
    seed: int
    rank: int
    setup: Setup


@dataclass(frozen=True)
class Header:
    """What a file tells besides its tensors. bad: this rank's metrics that were not finite; `grad_norm` where only a gradient was."""

    origin: Origin
    step: int
    bad: tuple[str, ...]
    positions: tuple[int, ...]
    sample_ids: tuple[str, ...]
    chunks: int
    chunks_B: tuple[int, ...] | None = None


@dataclass(frozen=True)
class BadStep:
    """A skipped step of one rank. weights by role: `live` and `ema`, and where the stage has them `fake` and `frozen`.

    Skipping has left `live` and `ema` as they were before the step; `fake` has made its updates of the step.
    """

    header: Header
    batch: AVBatch
    rollout: Rollout | None
    weights: dict[str, Weights]


def bad_step_path(run_dir: Path, origin: Origin, step: int) -> Path:
    """Where a rank's file stands."""
    return run_dir / FOLDER / f"{origin.stage}-{step}-rank{origin.rank}.safetensors"


def save_bad_step(path: Path, bad: BadStep) -> None:
    """Write the file, whole or not at all.

    Raises:
        ValueError: the folder cannot be made.
        OSError, SafetensorError: it cannot be written (a full disk).
    """
    make_folder("run", path.parent)
    tensors = {name: x.detach().cpu().contiguous() for name, x in _tensors(bad).items()}
    about = json.dumps({"format": FORMAT, **asdict(bad.header)}, sort_keys=True)
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), {"kind": KIND, "about": about, "sha256": _digest(about, tensors)})


def read_bad_step(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A file's header as plain data, and its tensors, verified; `bad_step_of` puts them together.

    Raises:
        ValueError: it is missing, damaged, of another kind or of another format.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= MAX_HEADER:
            raise ValueError(f"bad step {path}: is not such a file (its header would be {length} bytes); give one from RUN/{FOLDER}")
        with safe_open(str(path), "pt") as content:
            metadata = content.metadata() or {}
        if metadata.get("kind") != KIND or not metadata.keys() >= {"about", "sha256"}:
            raise ValueError(f"bad step {path}: is a safetensors file of another kind; give one from RUN/{FOLDER}")
        tensors = load_file(str(path))
    except OSError as error:
        raise ValueError(f"bad step {path}: cannot be read ({error.strerror or error}); give a file from RUN/{FOLDER}") from error
    except SafetensorError as error:
        raise ValueError(f"bad step {path}: is cut short, damaged or no safetensors file ({error}); {REMEDY}") from error
    if _digest(metadata["about"], tensors) != metadata["sha256"]:
        raise ValueError(f"bad step {path}: damaged (its hash differs from the one it carries); {REMEDY}")
    about = json.loads(metadata["about"])
    found = about.pop("format", None) if isinstance(about, dict) else None
    if found != FORMAT:
        raise ValueError(f"bad step {path}: has format {found}, this release reads {FORMAT}; replay it with the release that trained")
    return about, tensors


def bad_step_of(header: Header, tensors: dict[str, Tensor]) -> BadStep:
    """The step of a header and the tensors that `read_bad_step` gave.

    Raises:
        ValueError: they do not belong together; the first that is missing or of another shape is named.
    """
    groups: dict[str, dict[str, Tensor]] = {"batch": {}, "controls": {}, "rollout": {}, "weights": {}}
    for name, x in tensors.items():
        group, _, rest = name.partition("/")
        if group not in groups:
            raise ValueError(f"tensor {name!r}: belongs to no part of a bad step; {REMEDY}")
        groups[group][rest] = x
    latents = _known(groups["batch"], "batch", MODALITIES)
    controls = _known(groups["controls"], "controls", _CONTROLS)
    layout = Layout(header.origin.setup.timeline, header.chunks)
    if not latents or not controls.keys() >= _NEEDED or len(header.sample_ids) != len(header.positions):
        raise ValueError(f"bad step: it lacks latents, controls or sample ids; {REMEDY}")
    batch = AVBatch(AV(**latents), Controls(**controls), layout, header.positions, header.sample_ids, header.chunks_B)
    rollout = _rollout(groups["rollout"]) if groups["rollout"] else None
    for name, x, shape in _shapes(header, batch, rollout):
        if tuple(x.shape) != shape:
            raise ValueError(f"tensor {name!r}: is {list(x.shape)}, the header tells of {list(shape)}; {REMEDY}")
    weights: dict[str, Weights] = {}
    for name, x in groups["weights"].items():
        role, _, parameter = name.partition("/")
        weights.setdefault(role, {})[parameter] = x
    _known(weights, "weights", ROLES)
    if not weights.keys() >= {"live", "ema"}:
        raise ValueError(f"bad step: it has weights of {sorted(weights)}, and needs live and ema; {REMEDY}")
    return BadStep(header, batch, rollout, weights)


_CONTROLS = tuple(field.name for field in fields(Controls))
_NEEDED = {field.name for field in fields(Controls) if field.default is MISSING}


def _tensors(bad: BadStep) -> dict[str, Tensor]:
    named = {f"batch/{m}": x for m, x in bad.batch.latents.items()}
    named |= {f"controls/{name}": x for name, x in bad.batch.controls.tensors().items()}
    if bad.rollout is not None:
        named |= {f"rollout/{name}": torch.from_numpy(x) for name, x in rollout_to_arrays(bad.rollout).items()}
    return named | {f"weights/{role}/{name}": x for role, weights in bad.weights.items() for name, x in weights.items()}


def _rollout(tensors: dict[str, Tensor]) -> Rollout:
    names = {f"{part}_{m}" for part in ("history", "exit") for m in MODALITIES} | {"exit_time", "versions", "samples"}
    _known(tensors, "rollout", tuple(names))
    exits = any(name.startswith("exit") for name in tensors)
    if not _versions(tensors.get("versions")) or "samples" not in tensors or (exits and "exit_time" not in tensors):
        raise ValueError(f"rollout: it lacks its versions or its exit times; {REMEDY}")
    return rollout_from_arrays({name: x.numpy() for name, x in tensors.items()})


def _versions(x: Tensor | None) -> bool:
    return x is not None and x.dim() == 2 and x.shape[1] == 2


def _known(found: dict[str, Any], what: str, names: tuple[str, ...]) -> dict[str, Any]:
    for name in found:
        if name not in names:
            raise ValueError(f"{what}: {name!r} is none of {', '.join(sorted(names))}; {REMEDY}")
    return found


def _shapes(header: Header, batch: AVBatch, rollout: Rollout | None) -> list[tuple[str, Tensor, tuple[int, ...]]]:
    """Every input with its name and the shape that it must have."""
    setup, clips, chunks = header.origin.setup, len(header.positions), header.chunks
    size = batch.latents.video.shape[-2:] if batch.latents.video is not None else ()
    whole = {
        "video": (clips, setup.timeline.video_latents(chunks), setup.model.video_channels, *size),
        "audio": (clips, setup.timeline.audio_latents(chunks), setup.model.audio_channels),
    }
    later = whole | {"video": (clips, whole["video"][1] - 1, *whole["video"][2:])}
    shapes = [(f"batch/{m}", x, whole[m]) for m, x in batch.latents.items()]
    shapes += [(f"controls/{name}", x, (clips, *x.shape[1:])) for name, x in batch.controls.tensors().items()]
    if rollout is not None:
        shapes += [(f"rollout/history_{m}", rollout.history.get(m), whole[m]) for m, _ in batch.latents.items()]
    if rollout is not None and rollout.exit_state is not None and rollout.exit_time_BK is not None:
        shapes += [(f"rollout/exit_{m}", rollout.exit_state.get(m), later[m]) for m, _ in batch.latents.items()]
        shapes.append(("rollout/exit_time", rollout.exit_time_BK, (clips, chunks)))
    return shapes


def _digest(about: str, tensors: dict[str, Tensor]) -> str:
    """One hash over the header and the name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(json.dumps([name, str(x.dtype), list(x.shape)]).encode())
        if x.numel():  # else there is nothing to view
            digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
