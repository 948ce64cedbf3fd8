"""All judges: metrics that need the weights of others, by name.

    open_judge("lse", "s3://bucket/syncnet"), ("wer:de", "whisper") -> its weights on this machine -> a ClipMetric, or a metric of sets

Each judge is opened once a process: weights are read and checked when it is opened, and stay in memory with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..clip import ClipMetric, SetMetric
from . import aesthetics, i3d, syncnet
from .aesthetics import PictureAesthetics
from .audio_clap import ClapSimilarity
from .audio_classes import AudioDivergence, AudioFrechet
from .audiobox import AudioAesthetics
from .fvd import FrechetVideo
from .identity import Identity
from .lse import LipSync
from .weights import find_weights
from .wer import WordErrors

Metric = ClipMetric | SetMetric


@dataclass(frozen=True)
class Judge:
    """opens: the metric of weights. files: what their folder holds. example: where they are published. pickles: files that are no
    safetensors there. choice: what may follow its name, behind a colon.
    """

    opens: Callable[..., Metric]
    files: tuple[str, ...]
    example: str
    pickles: tuple[str, ...] = ()
    choice: str = ""


NETWORK = ("config.json", "model.safetensors")
PREPARED = (*NETWORK, "preprocessor_config.json")
WHISPER = ("generation_config.json", "tokenizer.json", "normalizer.json")
JUDGES: dict[str, Judge] = {
    "wer": Judge(WordErrors, (*PREPARED, *WHISPER), "openai/whisper-large-v3", choice="language"),
    "lse": Judge(LipSync, (syncnet.PICKLED,), "syncnet_python (Chung & Zisserman)", (syncnet.PICKLED,)),
    "clap": Judge(ClapSimilarity, (*PREPARED, "tokenizer.json"), "laion/clap-htsat-unfused"),
    "audio_fd": Judge(AudioFrechet, PREPARED, "MIT/ast-finetuned-audioset-10-10-0.4593"),
    "audio_kl": Judge(AudioDivergence, PREPARED, "MIT/ast-finetuned-audioset-10-10-0.4593"),
    "dino": Judge(lambda weights: Identity(weights, "dino"), PREPARED, "facebook/dinov2-base"),
    "clip": Judge(lambda weights: Identity(weights, "clip"), PREPARED, "openai/clip-vit-large-patch14"),
    "aesthetics": Judge(
        PictureAesthetics,
        (*PREPARED, aesthetics.PICKLED),
        "openai/clip-vit-large-patch14 with improved-aesthetic-predictor's file",
        (aesthetics.PICKLED,),
    ),
    "audiobox": Judge(AudioAesthetics, NETWORK, "facebook/audiobox-aesthetics"),
    "fvd": Judge(FrechetVideo, (i3d.PICKLED,), "pytorch-i3d's models/rgb_imagenet.pt", (i3d.PICKLED,)),
}


def open_judge(name: str, where: str, device: str = "cpu", cache: Path | None = None) -> Metric:
    """The metric `name`, or `name:choice`, with weights from `where`: a local folder, s3://BUCKET/FOLDER or hf://OWNER/NAME@COMMIT[/FOLDER].

    device: that it computes on. cache: where copies of remote folders are kept (default: the user's cache folder).

    Raises:
        ValueError: no such judge; its weights are not there, damaged, of another network, or cannot be copied; a package or the device is
            missing. One line names the judge, the folder and the remedy.
    """
    name, colon, choice = name.partition(":")
    if name not in JUDGES:
        raise ValueError(f"judge {name!r}: is not one of {', '.join(JUDGES)}")
    judge = JUDGES[name]
    if colon and not (judge.choice and choice):
        may = f"a {judge.choice} may follow the colon" if judge.choice else f"nothing may follow it; give {name}=FOLDER"
        raise ValueError(f"judge '{name}:{choice}': {may}")
    return judge.opens(find_weights(name, where, judge.pickles, device, cache), **({judge.choice: choice} if choice else {}))
