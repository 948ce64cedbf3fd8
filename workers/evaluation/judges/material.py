"""What judges look at and hear of a clip: sound at a network's rate in windows, pictures as a network was trained to see them.

samples -> finite, not silent -> the network's rate -> windows of so many seconds
frames  -> some a second -> shorter side, bicubic -> the middle -> (x / 255 - mean) / deviation
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ....datasets.words.transcribe import SILENT_DB, level_db, resampled
from ..clip import EvalClip, NotApplicable

MAX_SECONDS = 600.0  # of a clip
MAX_SIDE = 1024  # of a picture that a network sees
TOO_LONG = "{seconds:.0f} s: judges look at no more than {most:.0f} s at once; evaluate it in windows"


def heard(clip: EvalClip, rate: int, least_s: float) -> np.ndarray:
    """The sound of a clip, float32 [S] at `rate` per second, of at least `least_s` seconds.

    Resampled by scipy's polyphase filter. The reference implementations resample with torchaudio, librosa or ffmpeg, whose filters differ
    near half the rate.

    Raises:
        NotApplicable: there is none, it is too short or too long, silent, or not finite.
    """
    seconds = len(clip.samples) / clip.sample_rate
    if seconds < least_s:
        raise NotApplicable(f"its sound has {seconds:.2f} s, at least {least_s:g} s are needed")
    if seconds > MAX_SECONDS:
        raise NotApplicable(f"its sound has {TOO_LONG.format(seconds=seconds, most=MAX_SECONDS)}")
    if not np.isfinite(clip.samples).all():
        raise NotApplicable("its sound has values that are not finite")
    if level_db(clip.samples) < SILENT_DB:
        raise NotApplicable("it is silent")
    return resampled(clip.samples, clip.sample_rate, rate)


def windows(samples: np.ndarray, rate: int, seconds: float, least_s: float) -> list[np.ndarray]:
    """Sound cut into stretches of so many seconds, none over another; a last one below `least_s` is left out unless it is the only one."""
    size, least = round(seconds * rate), round(least_s * rate)
    cut = [samples[start : start + size] for start in range(0, len(samples), size)]
    return [part for i, part in enumerate(cut) if i == 0 or len(part) >= least]


def seen(clip: EvalClip, per_second: float, least: int = 1) -> np.ndarray:
    """Frames of a clip, so many a second and the first one among them, uint8 [N, H, W, 3].

    Raises:
        NotApplicable: there are fewer than `least`, or the clip is too long.
    """
    if (seconds := len(clip.frames) / clip.fps) > MAX_SECONDS:
        raise NotApplicable(f"its pictures have {TOO_LONG.format(seconds=seconds, most=MAX_SECONDS)}")
    found = clip.frames[:: max(1, round(clip.fps / per_second))]
    if len(found) < least:
        raise NotApplicable(f"it has {len(found)} pictures to look at, at least {least} are needed")
    return found


@dataclass(frozen=True)
class View:
    """How a picture becomes a network's input: its shorter side becomes `shorter` pixels, its middle `height` x `width` is kept."""

    shorter: int
    height: int
    width: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, name: str, data: Mapping[str, Any]) -> View:
        """From preprocessor_config.json as transformers writes it for CLIP and DINOv2, in its old form (224) or its new one.

        Raises:
            ValueError: a field is missing, or says something that is not read.
        """

        def side(value: Any, field: str) -> int:
            if type(value) is not int or not 16 <= value <= MAX_SIDE:
                raise ValueError(f"{name}: {field}={str(value)[:80]}: must be pixels in 16..{MAX_SIDE}; get it again")
            return value

        def three(field: str) -> tuple[float, ...]:
            values = data.get(field)
            if not isinstance(values, list) or len(values) != 3 or not all(type(x) is float and 0 < x < 1 for x in values):
                raise ValueError(f"{name}: {field}={str(values)[:80]}: must be three numbers between 0 and 1; get it again")
            return tuple(values)

        steps = dict.fromkeys(("do_resize", "do_center_crop", "do_normalize", "do_rescale"), True)
        for field, value in (steps | {"resample": 3}).items():  # 3: bicubic
            if data.get(field, value) != value:
                raise ValueError(f"{name}: {field}={str(data[field])[:80]}: only {value} is read; give the folder as it was published")
        size, crop = data.get("size"), data.get("crop_size")
        shorter = side(size.get("shortest_edge") if isinstance(size, dict) else size, "size.shortest_edge")
        height = side(crop.get("height") if isinstance(crop, dict) else crop, "crop_size.height")
        width = side(crop.get("width") if isinstance(crop, dict) else crop, "crop_size.width")
        if max(height, width) > shorter:
            raise ValueError(f"{name}: crop_size={height}x{width}: is larger than size={shorter}; get it again")
        return cls(shorter, height, width, three("image_mean"), three("image_std"))

    def __call__(self, frames: Sequence[np.ndarray] | np.ndarray) -> Tensor:
        """Frames uint8 [H, W, 3] -> float32 [N, 3, height, width]. Pillow's bicubic filter, as in CLIP's and DINOv2's own transforms."""
        shown = torch.from_numpy(np.stack([self._cut(frame) for frame in frames])).permute(0, 3, 1, 2).float() / 255
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        return (shown - mean) / deviation

    def _cut(self, frame: np.ndarray) -> np.ndarray:
        height, width, _ = frame.shape
        scale = self.shorter / min(height, width)
        size = (max(self.shorter, int(width * scale)), max(self.shorter, int(height * scale)))
        small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        top, left = (small.shape[0] - self.height) // 2, (small.shape[1] - self.width) // 2
        return small[top : top + self.height, left : left + self.width]


def in_batches(network: Any, inputs: Tensor, device: str, size: int = 16) -> Tensor:
    """What a network makes of inputs [N, ...], so many at a time: memory does not grow with the clip's length. On the CPU."""
    with torch.no_grad():
        return torch.cat([network(part.to(device)).float().cpu() for part in inputs.split(size)])
