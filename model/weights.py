"""Weights as files: the safetensors of a folder as named tensors that are read one by one, and the JSON beside them.

A folder is a stranger's. Only safetensors and JSON are read, nothing is unpickled, and no file outside the folder is named by one in it.
`safetensors` is imported when a file is opened, so that the rest of `model/` needs PyTorch alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from .pretrained import Shape

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_JSON = 16 * 2**20  # bytes: an index of 100,000 tensors has about 10 MiB
NUMBERS = {"F64", "F32", "F16", "BF16"}


class SafetensorsSource:
    """The tensors of several safetensors files, read one by one. `keep` says which names count.

    Raises:
        ValueError: a file cannot be read, is damaged, holds other than floating point numbers, or a name of another file.
    """

    def __init__(self, files: Sequence[Path], keep: Callable[[str], bool] = lambda _: True) -> None:
        self.files = tuple(files)
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, Shape] = {}
        for file in files:
            with _opened(file) as content:
                for name in filter(keep, content.keys()):
                    if name in self._file_of:
                        raise ValueError(f"tensor {name!r} is in {self._file_of[name].name} and in {file.name}; get the weights again")
                    about = content.get_slice(name)
                    if about.get_dtype() not in NUMBERS:
                        raise ValueError(f"tensor {name!r} is of type {about.get_dtype()}; only {', '.join(sorted(NUMBERS))} are read")
                    self._file_of[name], self._shapes[name] = file, tuple(about.get_shape())

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def read(self, name: str) -> Tensor:
        """One tensor, from the disk."""
        with _opened(self._file_of[name]) as content:
            return content.get_tensor(name)

    def hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of each file's content, by its name: what the hub shows for a file, and `sha256sum` prints."""
        return {file.name: sha256(file) for file in sorted(self.files)}


def open_weights(folder: Path, file: str, keep: Callable[[str], bool] = lambda _: True) -> SafetensorsSource:
    """The weights of a folder: `file`, or the several files that `file`.index.json names.

    Raises:
        ValueError: as `SafetensorsSource`; the folder holds pickles only; the index names a file elsewhere, or not what the files hold.
    """
    refuse_pickles(folder)
    index = f"{file}.index.json"
    if not (folder / index).is_file():
        return SafetensorsSource([folder / file], keep)
    content = read_json(folder / index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index}: its weight_map does not say where tensors are; get the weights again")
    for name in places.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{index}: {name!r} is no safetensors file of this folder; get the weights again")
    source = SafetensorsSource([folder / name for name in sorted(set(places.values()))], keep)
    found = {name: path.name for name, path in source._file_of.items()}
    told = {name: path for name, path in places.items() if keep(name)}
    if wrong := sorted(name for name in found.keys() | told.keys() if found.get(name) != told.get(name)):
        raise ValueError(f"{index} and the files do not agree on tensor {wrong[0]!r}; get the weights again")
    return source


def refuse_pickles(folder: Path) -> None:
    """ValueError where a folder's weights are pickles only."""
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if pickles and not list(folder.glob("*.safetensors")):
        raise ValueError(f"holds a pickle ({pickles[0]}), which runs code when it is read; get the weights as safetensors")


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """The content of a JSON file of at most `most` bytes.

    Raises:
        ValueError: it is missing, larger, or not JSON.
    """
    if not path.is_file():
        raise ValueError(f"{path.name} is missing; get the folder again")
    try:
        if (size := path.stat().st_size) > most:
            raise ValueError(f"{path.name} has {size} bytes; at most {most} are read")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not JSON ({error}); get it again") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # among them: a number of 5,000 digits, 100,000 brackets
        raise ValueError(f"{path.name} is not JSON ({error}); get it again") from error


def sha256(file: Path) -> str:
    """SHA-256 of a file's content, hex; ValueError if it cannot be read."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read ({error.strerror}); get the folder again") from error


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise ValueError(f"{file.name} is missing; get the weights again")
    try:
        with safe_open(str(file), "pt") as content:
            yield content
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read ({error.strerror or error}); get the weights again") from error
    except SafetensorError as error:
        raise ValueError(f"{file.name} is cut short, damaged or no safetensors file ({error}); get the weights again") from error
