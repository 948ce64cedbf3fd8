"""Captions from pictures, for clips that have none: an image-to-text network from a folder, or a plug-in of the user's.

    clip -> one or a few pictures, evenly spread --processor--> network, greedy --> one line

Any network that transformers opens as AutoModelForImageTextToText: BLIP and GIT, which caption a picture by themselves, and chat models
such as LLaVA, which are asked (`prompt`). The folder is a stranger's: config and safetensors are checked against each other before any
memory is taken; no code of it runs (models that bring their own are refused, chat templates are not used: the prompt is the user's), and
nothing is fetched. Processors that need torchvision want it installed, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...model.codecs.folder import CONFIG, DTYPES, needs
from ...model.codecs.serial import identity_of
from ...model.weights import SafetensorsSource, open_weights, read_json, sha256
from ..encoding.pretrained_folder import MAX_JSON, local_folder
from .plugins import CAPTIONERS, PicturesToText, installed

WEIGHTS = "model.safetensors"
IMAGE = "{image}"
HIGHEST = 2**27  # of any number in a config
DEEPEST = 1024  # of those that count layers
MAX_CHARACTERS = 2000


@dataclass(frozen=True)
class CaptionConfig:
    """Captions of clips without one. folder: of an image-to-text network, a path, s3://BUCKET/FOLDER or hf://OWNER/NAME@COMMIT/FOLDER;
    plugin: the name of an installed one (see plugins.py). Neither: such clips have no caption.

    prompt: what the network is asked, as its makers write it, with {image} where the pictures stand ("USER: {image} What is seen?
    ASSISTANT:"); for one that captions by itself empty, or words that the caption begins with. frames: pictures of a clip that it sees.
    max_tokens: of a caption. device, dtype: of the network. batch: clips together.
    """

    folder: str = ""
    plugin: str = ""
    prompt: str = ""
    frames: int = 1
    max_tokens: int = 64
    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 4

    def __post_init__(self) -> None:
        if self.folder and self.plugin:
            raise ValueError(f"data.caption.folder={self.folder!r} and data.caption.plugin={self.plugin!r}: give one of them")
        if self.dtype not in DTYPES:
            raise ValueError(f"data.caption.dtype={self.dtype!r}: is not one of {', '.join(DTYPES)}; bfloat16 suits a GPU")
        for name, high in (("frames", 64), ("max_tokens", 1024), ("batch", 1024)):
            if not 1 <= getattr(self, name) <= high:
                raise ValueError(f"data.caption.{name}={getattr(self, name)}: must be from 1 to {high}")


def open_captioner(config: CaptionConfig) -> PicturesToText | None:
    """The captioner of a configuration, or None. Takes as long as reading and hashing the weights: once a process.

    Raises:
        ValueError: the folder or the plug-in is not there, or not what it should be.
    """
    if config.plugin:
        return installed(CAPTIONERS, "data.caption.plugin", config.plugin, config)
    return Captioner(config) if config.folder else None


class Captioner:
    """See the module. The same pictures get the same caption; those of other clips in a batch change no more than rounding."""

    def __init__(self, config: CaptionConfig) -> None:
        """Raises ValueError, naming the field, where the folder is no network that can be read, or the prompt does not suit it."""
        self._config = config
        folder = local_folder("data.caption.folder", config.folder)
        with _named(config):
            self._network, self._processor, files = _opened(folder, config)
        self._asked = getattr(self._processor, "image_token", None)
        if self._asked and config.prompt.count(IMAGE) != 1:
            raise ValueError(f"data.caption.prompt={config.prompt!r}: this network is asked; write {IMAGE} once, where its pictures stand")
        if not self._asked and IMAGE in config.prompt:
            raise ValueError(f"data.caption.prompt={config.prompt!r}: this network captions by itself; leave {IMAGE} out")
        if not self._asked and config.frames > 1:
            raise ValueError(f"data.caption.frames={config.frames}: this network sees one picture; set 1")
        self._require_room()
        what = {name: value for name, value in asdict(config).items() if name not in ("folder", "plugin", "device", "batch")}
        self.identity = identity_of({"files": files, **what})

    def caption(self, frames: np.ndarray) -> str:
        """One line about a clip, uint8 [N,H,W,3].

        Raises:
            ValueError: it is no clip.
        """
        return self.captions([frames])[0]

    def captions(self, clips: Sequence[np.ndarray]) -> list[str]:
        """As `caption`, of several clips."""
        seen, made = [pictures(clip, self._config.frames) for clip in clips], list[str]()
        for start in range(0, len(seen), self._config.batch):
            made += self._together(seen[start : start + self._config.batch])
        return made

    @torch.no_grad()
    def _together(self, seen: Sequence[list[Image.Image]]) -> list[str]:
        c = self._config
        given = self._given(seen).to(c.device, DTYPES[c.dtype])  # whole numbers stay what they are
        written = self._network.generate(**given, max_new_tokens=c.max_tokens, do_sample=False, num_beams=1)
        if self._asked:
            written = written[:, given["input_ids"].shape[1] :]
        return [one_line(text) for text in self._processor.batch_decode(written, skip_special_tokens=True)]

    def _given(self, seen: Sequence[list[Image.Image]]) -> Any:
        """What the network is given of the pictures of some clips."""
        c = self._config
        if self._asked:
            text = c.prompt.replace(IMAGE, self._asked * c.frames)
            return self._processor(images=[list(one) for one in seen], text=[text] * len(seen), return_tensors="pt")
        words = {"text": [c.prompt] * len(seen)} if c.prompt else {}
        return self._processor(images=[one[0] for one in seen], return_tensors="pt", **words)

    def _require_room(self) -> None:
        """Refuse captions that are longer than the network's table of positions, behind what it is asked: it would fail in the middle of
        one. Networks without such a table know no end. Of pictures whose size changes how many tokens they are, those of small ones count.
        """
        c = self._config
        positions = getattr(self._network.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if not isinstance(positions, int):
            return
        small = Image.new("RGB", (64, 64))
        given = _made(lambda: self._given([[small] * c.frames]))
        taken = given["input_ids"].shape[1] if "input_ids" in given else 1  # without a prompt the token that begins a caption
        room = positions - taken + 1  # the last token that is written is not read again
        if room < 1:
            raise ValueError(
                f"data.caption.prompt={c.prompt!r}: is {taken} tokens with its pictures, the network has {positions} positions; shorten it"
            )
        if c.max_tokens > room:
            raise ValueError(
                f"data.caption.max_tokens={c.max_tokens}: the network has {positions} positions, of which its prompt takes {taken}; "
                f"set data.caption.max_tokens={room} or less"
            )


def pictures(frames: np.ndarray, count: int) -> list[Image.Image]:
    """So many pictures of a clip, evenly spread, of one the middle; the last ones again where a clip has fewer.

    Raises:
        ValueError: it is no clip.
    """
    if frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"frames: {frames.dtype} {frames.shape}; expected uint8 [N,H,W,3], not empty")
    return [Image.fromarray(np.ascontiguousarray(frames[(2 * i + 1) * len(frames) // (2 * count)])) for i in range(count)]


def one_line(text: str) -> str:
    """What a network wrote, as a sidecar's caption could be: words one blank apart, nothing that is not printed, of bounded length."""
    words = "".join(c if c.isprintable() else " " for c in text.replace("\N{REPLACEMENT CHARACTER}", "")).split()
    return " ".join(words)[:MAX_CHARACTERS].strip()


def _opened(folder: Path, config: CaptionConfig) -> tuple[Any, Any, dict[str, str]]:
    """The network in evaluation mode, its processor, and the SHA-256 of the files that they were made of."""
    with needs("transformers"):
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

    if not folder.is_dir():
        raise ValueError(f"{'is a file' if folder.exists() else 'does not exist'}; give a folder with {CONFIG} and safetensors")
    texts = sorted(folder.glob("*.json"))
    for path in texts:
        _check(read_json(path, MAX_JSON), path.name)
    source = open_weights(folder, WEIGHTS)
    here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    settings = _made(lambda: AutoConfig.from_pretrained(folder, **here))
    with torch.device("meta"):
        network = _made(lambda: AutoModelForImageTextToText.from_config(settings, trust_remote_code=False))
    _fits(network, source)
    dtype = DTYPES[config.dtype]
    loaded: Any = lambda: AutoModelForImageTextToText.from_pretrained(  # noqa: E731
        folder, config=settings, use_safetensors=True, dtype=dtype, output_loading_info=True, **here
    )
    network, told = _made(loaded)
    if lacking := sorted(map(str, told["missing_keys"])) + sorted(map(str, told["mismatched_keys"])):
        raise ValueError(f"{WEIGHTS} lacks tensor {lacking[0]!r}, or has it in another shape; get the weights again")
    if bad := next((name for name, p in network.named_parameters() if not bool(p.isfinite().all())), None):
        raise ValueError(f"tensor {bad!r}: not all values are finite; get the weights again")
    processor = _made(lambda: AutoProcessor.from_pretrained(folder, **here))
    ids = {name: getattr(network.generation_config, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    network.generation_config = GenerationConfig(**{f"{name}_token_id": value for name, value in ids.items()})
    files = source.hashes() | {path.name: sha256(path) for path in texts}
    try:
        return network.to(config.device).eval().requires_grad_(False), processor, files
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without this kind of device
        raise ValueError(f"device={config.device!r} is not here ({str(error).partition(chr(10))[0]}); cpu is") from error


def _check(data: Any, name: str, where: str = "") -> None:
    """Refuse what makes a network of another project's code, or one without bounds."""
    if isinstance(data, Mapping):
        for key in ("auto_map", "quantization_config"):
            if data.get(key):
                raise ValueError(f"{name}: has {where}{key}: networks that bring their own code, or are quantised, are not read")
        if name == CONFIG:
            for key, value in data.items():
                counts = "layers" in str(key) or "depth" in str(key)
                if type(value) is int and not abs(value) <= (DEEPEST if counts else HIGHEST):
                    raise ValueError(f"{name}: {where}{key}={str(value)[:40]}: is beyond what such networks have; get it again")
                _check(value, name, f"{where}{key}.")
    elif isinstance(data, list) and name == CONFIG:
        for value in data:
            _check(value, name, where)


def _fits(network: torch.nn.Module, source: SafetensorsSource) -> None:
    """Refuse a config whose network is larger than its weights, before it takes memory."""
    wanted = sum(p.numel() for p in network.parameters())
    there = sum(int(np.prod(shape, dtype=object)) for shape in source.shapes.values())
    if wanted > there:
        raise ValueError(f"{CONFIG} is of a network of {wanted} numbers, the weights hold {there}; they are not of one release")


def _made(make: Any) -> Any:
    """What transformers makes of a folder; whatever it meets there in one line."""
    try:
        return make()
    except Exception as error:  # its errors are of many kinds
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ValueError(f"transformers makes nothing of it ({type(error).__name__}: {reason[:300]}); get it again") from error


@contextmanager
def _named(config: CaptionConfig) -> Any:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"data.caption.folder={config.folder!r}: {error}") from error
