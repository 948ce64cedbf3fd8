"""A pretrained network from its folder: config.json and safetensors, checked against each other, named by their content, ready to use.

    folder -> config.json -> a network without memory -> the same tensors? -> hashes -> weights, one tensor after the other

Identity: a codec is its config, the SHA-256 of its files, and the dtype that it computes in; where the folder lies is no part of it.
Its JSON names the folder too, as a *reference*: an absolute path, or the s3:// or hf:// address that the local folder is a copy of. Data
prepared on one machine are decoded on another in one of three ways; in each the hashes must agree with the JSON, or the folder is refused:

    the path is the same there (a shared disk)      nothing to do
    the reference is an address                     `datasets.encoding.pretrained_folder` copies it there, once
    neither                                         the caller gives the folder: `Place(folder=...)`

Equal identities give equal results up to rounding: kernels of another device or release may add in another order.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..pretrained import Copy, check, fill
from ..weights import SafetensorsSource, open_weights, read_json, sha256
from .selection import check_latent_shape, check_latents
from .serial import REMEDY, identity_of, read_integer, require_keys

CONFIG = "config.json"
# No float16: activations of these networks leave its range. float64 is for tests.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

Build = Callable[[dict[str, Any]], tuple[nn.Module, list[Copy]]]
"""A config -> the network on the device "meta", and how its parameters are made of the file's tensors; ValueError names a wrong field."""


@dataclass(frozen=True)
class Place:
    """Where a pretrained network lies, and on what and in what it computes. What it makes stays on its device.

    folder: a local one; empty: the one that the codec's JSON names.
    device: of weights and arithmetic.
    dtype: of weights and arithmetic; empty: that of the JSON, float32 where there is none. Another one than the JSON's is for decoding:
    the codec then has another identity, because it would encode otherwise.
    reference: what the codec's JSON names instead of `folder`; empty: `folder`, as an absolute path.
    """

    folder: str = ""
    device: str = "cpu"
    dtype: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Layout:
    """How a writer lays out a network's folder: the config's field that names the network, its value, and the file of weights.

    inside: the subfolder of both. beside: further files that belong to the network's identity.
    fields: of the config, those that belong to it; empty: all. keep: which tensors of the file count.
    """

    field: str
    network: str
    weights: str
    inside: str = ""
    beside: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    keep: Callable[[str], bool] = lambda _: True


@dataclass(frozen=True)
class Origin:
    """What a pretrained network is: its config without the writer's notes (`_...`), its files' SHA-256, its dtype; and where it lay."""

    config: dict[str, Any]
    files: dict[str, str]
    dtype: str
    folder: str

    def to_json(self, kind: str) -> dict[str, Any]:
        return {"kind": kind, "version": 1, **asdict(self)}

    def identity(self, kind: str) -> str:
        return identity_of({name: value for name, value in self.to_json(kind).items() if name != "folder"})


class FromFolder(ABC):
    """A pretrained network that came from a folder: how it is opened, and what its JSON says. `layout` and `build` say which one it is."""

    kind: ClassVar[str]
    layout: ClassVar[Layout]

    @staticmethod
    @abstractmethod
    def build(config: dict[str, Any]) -> tuple[nn.Module, list[Copy]]:
        """See `Build`."""

    def __init__(self, network: Any, origin: Origin) -> None:
        self.network, self.origin = network, origin
        self.identity = origin.identity(self.kind)

    @classmethod
    def load(cls, place: Place, data: Mapping[str, Any] | None = None) -> Self:
        """From the network's folder; with `data`, only the very one that wrote it.

        Raises:
            ValueError: see `load_network`.
        """
        return cls(*load_network(cls.kind, cls.layout, place, cls.build, data))

    @classmethod
    def describe(cls, place: Place) -> dict[str, Any]:
        """What `load(place).to_json()` would be: everything is checked but the values of the weights, which are not read into memory.

        Raises:
            ValueError: see `load_network`.
        """
        folder = Path((place := _settled(cls.kind, place, None)).folder).absolute()
        with named(folder):
            return _found(cls.layout, place, cls.build)[-1].to_json(cls.kind)

    def to_json(self) -> dict[str, Any]:
        return self.origin.to_json(self.kind)


def load_network(kind: str, layout: Layout, place: Place, build: Build, data: Mapping[str, Any] | None = None) -> tuple[nn.Module, Origin]:
    """The network of a folder, in evaluation mode and without gradients; with `data`, the JSON of a codec, only the very one that wrote it.

    Raises:
        ValueError: the folder is missing, damaged, of another network or with other content than `data` says; a package, device or dtype
            is not there. One line names the folder, the field and the remedy.
    """
    place = _settled(kind, place, data)
    folder = Path(place.folder).absolute()
    with named(folder):
        network, copies, source, origin = _found(layout, place, build)
        if data is not None:
            _same(origin, data)
        nn.Module.to(network, DTYPES[place.dtype])  # that of diffusers warns about modules that it does not have
        network.to_empty(device=place.device)
        fill(network, copies, source)
    return network.eval().requires_grad_(False), origin


def _found(layout: Layout, place: Place, build: Build) -> tuple[nn.Module, list[Copy], SafetensorsSource, Origin]:
    """The network of a folder, without memory; how its parameters are made; of what; and what it is."""
    folder = Path(place.folder).absolute()
    config = _config(folder / layout.inside, layout)
    network, copies = build(config)
    source = open_weights(folder / layout.inside, layout.weights, layout.keep)
    check(copies, source.shapes)
    files = source.hashes() | {name: sha256(folder / name) for name in layout.beside}
    return network, copies, source, Origin(config, files, place.dtype, place.reference or str(folder))


def folder_class(folder: str) -> str:
    """`_class_name` of a folder of diffusers: which codec it is.

    Raises:
        ValueError: the folder or its config is missing or damaged.
    """
    path = Path(folder).absolute()
    with named(path):
        return str(_read_config(path).get("_class_name"))[:80]


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """Errors with the folder before them."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"folder={str(folder)!r}: {error}") from error


@contextmanager
def needs(package: str) -> Iterator[None]:
    """For the import of an optional package. diffusers reports what it lacks as RuntimeError."""
    try:
        yield
    except (ImportError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"needs the package {package} ({reason}); pip install 'mutual-forcing[pretrained]'") from error


def on_meta(network: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    """A network without memory; ValueError where its class cannot be made with these arguments."""
    try:
        with torch.device("meta"):
            return network(**arguments)
    except Exception as error:  # whatever the class meets with a field of the wrong form
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{CONFIG}: its fields make no network ({type(error).__name__}: {reason}); get it again") from error


def check_arguments(config: Mapping[str, Any], network: type[nn.Module]) -> None:
    """ValueError where a config has a field that the installed class does not take: it is a newer one, and would be another network."""
    unknown = sorted(set(config) - set(inspect.signature(network.__init__).parameters))
    if unknown:
        raise ValueError(f"{CONFIG}: {unknown[0]} is no field of the installed {network.__name__}; update diffusers")


def check_pushed(latents: Tensor, dimensions: int, channel_axis: int, channels: int) -> None:
    """ValueError unless these are latents of the codec. Values are looked at on a CPU only: on a GPU the host would wait for the answer in
    every push, and kernels that could have been queued meanwhile would come late.
    """
    look = check_latents if latents.device.type == "cpu" else check_latent_shape
    look(latents, dimensions, channel_axis, channels)


def whole(config: Mapping[str, Any], field: str, low: int, high: int) -> int:
    """A field that must be an integer in low..high."""
    value = config.get(field)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{CONFIG}: {field}={str(value)[:80]}: must be an integer in {low}..{high}")
    return value


def wholes(config: Mapping[str, Any], field: str, low: int, high: int) -> list[int]:
    """A field that must be a list of 1 to 16 integers in low..high."""
    values = config.get(field)
    if not isinstance(values, list) or not 1 <= len(values) <= 16 or any(type(x) is not int or not low <= x <= high for x in values):
        raise ValueError(f"{CONFIG}: {field}={str(values)[:80]}: must be a list of integers in {low}..{high}")
    return values


def _settled(kind: str, place: Place, data: Mapping[str, Any] | None) -> Place:
    """The place with what the JSON says where it is silent."""
    if data is not None:
        require_keys(data, ["kind", "version", *Origin.__dataclass_fields__])
        if data["kind"] != kind or read_integer(data, "version") != 1:
            raise ValueError(f"codec.version: {data['kind']!r} {data['version']!r} is not {kind!r} 1; update the package")
        for name, form in (("config", dict), ("files", dict), ("dtype", str), ("folder", str)):
            if not isinstance(data[name], form):
                raise ValueError(f"codec.{name}: {str(data[name])[:80]!r} is no {form.__name__}; {REMEDY}")
    said = data or {"folder": "", "dtype": "float32"}
    folder, dtype = place.folder or said["folder"], place.dtype or said["dtype"]
    if not folder or "://" in folder:
        raise ValueError(
            f"folder={folder!r}: no local folder; copy it with datasets.encoding.pretrained_folder.local_folder and give the copy"
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}; bfloat16 suits a GPU")
    try:
        torch.empty(0, device=place.device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without this kind of device
        raise ValueError(f"device={place.device!r} is not here ({str(error).partition(chr(10))[0]}); cpu is") from error
    return Place(folder, place.device, dtype, place.reference or (said["folder"] if not place.folder else ""))


def _config(folder: Path, layout: Layout) -> dict[str, Any]:
    config = _read_config(folder)
    if config.get(layout.field) != layout.network:
        found = str(config.get(layout.field))[:80]
        raise ValueError(f"{CONFIG}: {layout.field}={found!r} is not {layout.network!r}; give the folder of such a network")
    return {name: value for name, value in config.items() if not name.startswith("_") and name in (layout.fields or config)}


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(f"{'is a file' if folder.exists() else 'does not exist'}; give a folder with {CONFIG} and safetensors")
    if not (folder / CONFIG).is_file():
        inner = next((name for name in ("vae", "text_encoder") if (folder / name / CONFIG).is_file()), None)
        raise ValueError(f"has no {CONFIG}; {f'give its {inner}/' if inner else 'give the folder as diffusers writes it'}")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG}: {type(config).__name__} is no JSON object; get it again")
    return config


def _same(origin: Origin, data: Mapping[str, Any]) -> None:
    """Refuse another content than that of the codec that wrote `data`."""
    for name, found in origin.files.items():
        if (asked := data["files"].get(name)) != found:
            raise ValueError(f"{name} has SHA-256 {found[:16]}, the codec's JSON names {str(asked)[:16]}; give the folder of that release")
    if origin.files.keys() != data["files"].keys() or origin.config != data["config"]:
        raise ValueError(f"its {CONFIG} or list of files is not that of the codec's JSON; give the folder of that release")
