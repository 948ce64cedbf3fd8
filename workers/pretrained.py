"""Pretrained weights from files: a stage of another run, or the folder of a Wan network, becomes a branch of a new network.

    init.video, init.audio -> folder -> what it is, by its content -> the same settings? the same tensors? -> one parameter after the other

A folder is a stranger's. Only safetensors and JSON are read, nothing is unpickled, and no file outside the folder is named by one in it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..datasets.places.storage import local_path
from ..datasets.places.store import store_of
from ..model.blocks import BranchConfig
from ..model.pretrained import Copy, check, fill, same_names
from ..model.timeline import Timeline
from ..model.transformer import AVTransformer
from ..model.trunk import TransformerConfig
from ..model.types import MODALITIES
from ..model.wan import wan_shape
from ..model.weights import SafetensorsSource, open_weights, read_json, refuse_pickles
from .checkpoint import COMMIT, MANIFEST, finished
from .pieces import Source

WAN_CONFIG = "config.json"
WAN_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class InitConfig:
    """Where the first stage's weights come from, by branch: a stage of another run (RUN/checkpoints/STAGE, its averaged weights), for
    the video also the transformer folder of a Wan network as diffusers writes it.

    video, audio: of that branch: a folder; empty: random weights.
    """

    video: str = ""
    audio: str = ""

    def folders(self) -> dict[str, str]:
        """The folder of each branch that has one."""
        return {name: folder for name in MODALITIES if (folder := getattr(self, name))}

    def absolute(self) -> InitConfig:
        """The same folders from wherever they are read.

        Raises:
            ValueError: one is a URL.
        """
        return InitConfig(**{name: str(local_path(f"init.{name}", folder)) for name, folder in self.folders().items()})


@dataclass(frozen=True)
class Pretrained:
    """The weights of one branch, found and checked by their names and shapes, not yet read."""

    modality: str
    folder: Path
    copies: list[Copy]
    source: SafetensorsSource | Source

    def fill(self, network: AVTransformer) -> None:
        """Write them into their branch of the network.

        Raises:
            ValueError: a value is not finite.
        """
        with _named(self.modality, self.folder):
            fill(network.branches[self.modality], self.copies, self.source)


def initialise(network: AVTransformer, init: InitConfig) -> None:
    """Replace the branches that `init` names with pretrained ones.

    Raises:
        ValueError: a folder is missing, damaged, of another network, or of a kind that is not read; one line names field and remedy.
    """
    for pretrained in find_pretrained(init, network.config, network.timeline):
        pretrained.fill(network)


def find_pretrained(init: InitConfig, config: TransformerConfig, timeline: Timeline) -> list[Pretrained]:
    """The weights that `init` names, checked against the network that is to be made of them, without reading them.

    Raises:
        ValueError: as `initialise`, for all but values that are not finite.
    """
    found = []
    for modality, name in init.folders().items():
        folder = Path(name)
        with _named(modality, folder):
            copies, source = _opener(modality, folder)(modality, folder, config, timeline)
            found.append(Pretrained(modality, folder, copies, source))
    return found


_Opened = tuple[list[Copy], SafetensorsSource | Source]
_Opener = Callable[[str, Path, TransformerConfig, Timeline], _Opened]


def _opener(modality: str, folder: Path) -> _Opener:
    """What a folder is, by its content."""
    if not folder.is_dir():
        raise ValueError(f"{'is a file' if folder.exists() else 'does not exist'}; give the folder RUN/checkpoints/STAGE of another run")
    if any(folder.glob(f"*/{COMMIT}")):
        return _stage
    if (folder / COMMIT).is_file() or (folder / MANIFEST).is_file():
        raise ValueError("is one checkpoint of a stage; give the folder of the stage, RUN/checkpoints/STAGE")
    refuse_pickles(folder)
    if (folder / WAN_CONFIG).is_file():
        if modality == "audio":
            raise ValueError("is a network of another project, and only video networks can be imported; give a stage of another run")
        return _wan
    inner = next((name for name in ("transformer", "checkpoints") if (folder / name).is_dir()), None)
    hint = f"give a folder below its {inner}/" if inner == "checkpoints" else f"give its {inner}/" if inner else "see docs/pretrained.md"
    raise ValueError(f"holds neither a stage of another run nor {WAN_CONFIG} (a Wan network); {hint}")


def _stage(modality: str, folder: Path, config: TransformerConfig, timeline: Timeline) -> _Opened:
    """A stage's averaged weights. Clock, window and bounds of the text may differ: they are no part of a branch."""
    last = finished(store_of(folder.parent), folder.name)
    if last is None:
        raise ValueError("is a stage that is not finished; train it to its end first")
    mine = _settings(config)
    own = [f"model.{modality}_channels", f"model.{modality}_width", *(["model.patch"] if modality == "video" else [])]
    fields = [*own, *(f"model.{name}" for name in ("depth", "heads", "head_dim", "ffn_ratio", "rope", modality))]
    theirs = last.manifest["network"] if isinstance(last.manifest["network"], dict) else {}
    before_options = {f"model.{modality}": _plain(BranchConfig())}  # a release that had none of them
    _same_settings({name: (before_options | theirs).get(name) for name in fields}, {name: mine[name] for name in fields})
    with torch.device("meta"):
        branch = config.build(modality)
    prefix = f"branches.{modality}."
    last.verify()
    copies, source = same_names(branch, prefix), last.source("ema").below(prefix)
    check(copies, source.shapes)
    if not bool(source.read(f"{prefix}out.weight").any()):
        raise ValueError(f"its {modality} branch was never trained; give a stage that trained it")
    return copies, source


def _wan(modality: str, folder: Path, config: TransformerConfig, timeline: Timeline) -> _Opened:
    """The transformer folder of a diffusers pipeline, in one file or in several."""
    shape = wan_shape(read_json(folder / WAN_CONFIG))
    _same_settings(_settings(shape.adapted(config, timeline)), _settings(config))
    source = open_weights(folder, WAN_FILE)
    copies = shape.copies()
    check(copies, source.shapes)
    return copies, source


def _same_settings(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Name every setting that must change, ready for the command line."""
    apart = [(a, b) for a, b in zip(_leaves(theirs), _leaves(mine), strict=False) if a != b]
    if len(list(_leaves(theirs))) != len(list(_leaves(mine))):
        raise ValueError("was made by another release, which has other settings; train it again")
    if apart:
        (name, value), (_, here) = apart[0]
        words = (f"{name}={json.dumps(value, separators=(',', ':'))}" for (name, value), _ in apart)
        remedy = " ".join(f"--set {shlex.quote(word)}" for word in words)
        raise ValueError(f"is a network with {name}={value!r}, this run has {name}={here!r}; give it what it needs: {remedy}")


def _settings(config: TransformerConfig) -> dict[str, Any]:
    return {f"model.{name}": value for name, value in _plain(config).items()}


def _plain(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config)))


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in sorted(tree.items()):
            yield from _leaves(value, f"{name}.{key}" if name else key)
    else:
        yield name, tree


@contextmanager
def _named(modality: str, folder: Path) -> Iterator[None]:
    """Errors with the field and the folder before them."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"init.{modality}={str(folder)!r}: {error}") from error
