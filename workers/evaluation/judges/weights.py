"""Where a judge's weights are, and how they are read: the one place for it.

    a folder, s3://BUCKET/FOLDER, hf://OWNER/NAME@COMMIT -> a local folder -> safetensors --------+-> the same names? shapes? all finite?
                                                                           -> a published pickle -+-> network

A folder is a stranger's. Safetensors are preferred. A pickle is read only under a name that a judge asks for, by PyTorch's restricted
reader, which builds tensors and calls nothing. No code of a folder is run. Networks that transformers has are made by its own classes, by
name: what a folder says about classes or code is not looked at.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....datasets.encoding.pretrained_folder import local_folder
from ....model.codecs.folder import CONFIG, needs
from ....model.pretrained import Copy, as_it_is, check
from ....model.weights import SafetensorsSource, open_weights, read_json

WEIGHTS = "model.safetensors"
MAX_PICKLE = 2**30  # bytes of a published pickle: the largest that a judge reads has 55 MB
MAX_NUMBER = 2**20  # of any size in a config: beyond it no network here has one
MAX_DEPTH = 512  # layers
COUNTERS = ("num_batches_tracked",)  # how often a batch norm was trained: no part of what it computes
TABLES = ("position_ids", "relative_position_index", "token_type_ids")  # of whole numbers, which transformers makes itself


@dataclass(frozen=True)
class Weights:
    """A judge's weights: where a user says that they are, their local folder, and on what the judge computes."""

    judge: str
    where: str
    folder: Path
    device: str = "cpu"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors with the judge and its folder before them."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"judge {self.judge!r}, where={self.where!r}: {error}") from error


def find_weights(judge: str, where: str, pickles: Sequence[str] = (), device: str = "cpu", cache: Path | None = None) -> Weights:
    """The weights of a judge on this machine; a remote folder is copied into the cache first. pickles: names of files that are copied too.

    Raises:
        ValueError: there is no such folder, or it cannot be copied (see `local_folder`); the device is not here.
    """
    folder = local_folder(f"judge {judge!r}, where", where, cache=cache, also=pickles)
    weights = Weights(judge, where, folder, device)
    with weights.named():
        if not folder.is_dir():
            raise ValueError(f"{'is a file' if folder.exists() else 'does not exist'}; give the folder that holds the weights")
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without this kind of device
            raise ValueError(f"device={device!r} is not here ({str(error).partition(chr(10))[0]}); cpu is") from error
    return weights


def read_tensors(folder: Path, name: str, pickled: str) -> Mapping[str, Tensor]:
    """The tensors of the file `name` (safetensors), or where there is none, of the published pickle `pickled`.

    Raises:
        ValueError: neither is there, or what is there is damaged, too large, or no flat dictionary of floating point tensors.
    """
    if (folder / name).is_file():
        source = SafetensorsSource([folder / name])
        return {key: source.read(key) for key in source.shapes}
    path = folder / pickled
    if not path.is_file():
        raise ValueError(f"holds neither {pickled}, as it was published, nor {name} with the same tensors; get it there")
    _check_size(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError, AttributeError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{pickled} is damaged, or holds more than tensors ({type(error).__name__}: {reason}); get it again") from error
    if not isinstance(content, Mapping) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise ValueError(f"{pickled} is no dictionary of tensors by name; give the state dict as it was published")
    kept = {key: value for key, value in content.items() if not key.endswith(COUNTERS)}
    if wrong := next((key for key, value in kept.items() if not value.is_floating_point()), None):
        raise ValueError(f"{pickled}: tensor {wrong!r} is {kept[wrong].dtype}; only floating point numbers are read")
    return kept


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor], device: str) -> None:
    """Give a network exactly these tensors, by their names, and put it into evaluation mode on the device, in float32.

    Raises:
        ValueError: a tensor is missing, left over, of another shape, or not finite.
    """
    own = {name: tuple(x.shape) for name, x in network.state_dict().items() if not name.endswith(COUNTERS)}
    check([Copy(name, ((name, shape),), as_it_is) for name, shape in own.items()], {name: tuple(x.shape) for name, x in tensors.items()})
    for name, x in tensors.items():
        if not bool(x.isfinite().all()):
            raise ValueError(f"tensor {name!r}: not all values are finite; get the weights again")
    counters = {name: x for name, x in network.state_dict().items() if name.endswith(COUNTERS)}
    network.load_state_dict({name: x.float() for name, x in tensors.items()} | counters)
    network.eval().requires_grad_(False).to(device)


def transformers_network(weights: Weights, model_type: str, classes: Callable[[], tuple[Any, Any]]) -> tuple[Any, dict[str, Any]]:
    """A network of transformers from its folder, in evaluation mode, and its config. classes: those of the config and of the network.

    Raises:
        ValueError: the package is not there; the folder is of another network, damaged, or not complete.
    """
    folder = weights.folder
    config = read_config(folder, model_type)
    with needs("transformers"):
        config_class, network_class = classes()
    source = open_weights(folder, WEIGHTS, lambda name: not name.endswith((*TABLES, *COUNTERS)))
    try:
        made = config_class.from_dict(dict(config))
        with torch.device("meta"):
            empty = network_class(made)
    except Exception as error:  # whatever the class meets with a field of the wrong form
        raise ValueError(f"{CONFIG}: its fields make no network ({type(error).__name__}: {_line(error)}); get it again") from error
    # Before any memory is taken: a config may promise a network of any size.
    wanted = _numbers(x.shape for name, x in empty.state_dict().items() if not name.endswith((*TABLES, *COUNTERS)))
    held = _numbers(source.shapes.values())
    if wanted != held:
        raise ValueError(f"{CONFIG} is of a network of {wanted} numbers, {WEIGHTS} holds {held}; they are not of one release")
    try:
        network, found = network_class.from_pretrained(
            str(folder), config=made, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{WEIGHTS} does not fit {CONFIG} ({_line(error)}); get the folder again") from error
    for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(n[0] if isinstance(n, tuple) else n) for n in found[trouble])
        if names := [name for name in names if not name.endswith((*TABLES, *COUNTERS))]:
            raise ValueError(f"{WEIGHTS}: {len(names)} {trouble.replace('_', ' ')}, {names[0]!r} the first; it is of another network")
    for name, x in network.state_dict().items():
        if x.is_floating_point() and not bool(x.isfinite().all()):
            raise ValueError(f"tensor {name!r}: not all values are finite; get the weights again")
    return network.eval().requires_grad_(False).to(weights.device), config


def read_config(folder: Path, model_type: str) -> dict[str, Any]:
    """config.json of a network of this type, without the writer's notes; no number in it is beyond what a network has.

    Raises:
        ValueError: it is missing, no JSON object, or of another network.
    """
    config = read_object(folder, CONFIG)
    if config.get("model_type") != model_type:
        found = str(config.get("model_type"))[:80]
        raise ValueError(f"{CONFIG}: model_type={found!r} is not {model_type!r}; give the folder of such a network")
    if large := next(_large(config, ""), None):
        raise ValueError(f"{CONFIG}: {large[0]}={str(large[1])[:40]}: larger than in any network of this kind; get it again")
    return {name: value for name, value in config.items() if not name.startswith("_") and name != "auto_map"}


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of a folder. Raises ValueError where it is missing or none."""
    found = read_json(folder / name)
    if not isinstance(found, dict):
        raise ValueError(f"{name}: {type(found).__name__} is no JSON object; get it again")
    return found


def must_be(name: str, data: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """ValueError where a field of a JSON object is there and not the only value that is read."""
    for field, value in known.items():
        if data.get(field, value) != value:
            raise ValueError(f"{name}: {field}={str(data[field])[:80]}: only {value!r} is read; give the folder as it was published")


def _check_size(path: Path) -> None:
    sizes = [path.stat().st_size]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            sizes.append(sum(entry.file_size for entry in archive.infolist()))  # an archive may unpack to more than it is
    if (size := max(sizes)) > MAX_PICKLE:
        raise ValueError(f"{path.name} has {size} bytes; at most {MAX_PICKLE} are read: it is no file of this judge")


def _numbers(shapes: Any) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _large(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Numbers of a config that no network has; names of classes are not looked at."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key not in ("id2label", "label2id"):
                yield from _large(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list):
        for value in tree:
            yield from _large(value, name)
    elif isinstance(tree, int | float) and not abs(tree) <= (MAX_DEPTH if "layers" in name or "depths" in name else MAX_NUMBER):
        yield name, tree


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
