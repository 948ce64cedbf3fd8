"""Audio Fréchet distance and Kullback-Leibler divergence, by an AudioSet classifier (AST).

    samples -> 16 kHz -> windows of 10 s -> AST -> hidden state, pooled -> Gaussians of two sets -> Fréchet distance       audio_fd
                                                -> shares of 527 classes -> clips of the same id -> KL(real || generated)  audio_kl

Gong et al., "AST: audio spectrogram transformer", Interspeech 2021 (MIT/ast-finetuned-audioset-10-10-0.4593). The field evaluates with
classifiers of the same 527 classes that transformers does not have: PANNs' CNN14 (audioldm_eval: FD, KL) and PaSST (AV benchmarks: FD, KL),
earlier VGGish (FAD). AST has the same training set and task, so figures order systems alike, but are not to be compared with figures of
another classifier. The divergence is in nats, over softmax as in both references; real and generated clips belong together by their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..clip import About, EvalClip, NotApplicable
from .distances import divergence, frechet_of
from .material import heard, windows
from .weights import Weights, must_be, read_object, transformers_network

RATE, SECONDS, LEAST_S = 16000, 10.0, 1.0
SOUND = "preprocessor_config.json"
KNOWN = {"sampling_rate": RATE, "num_mel_bins": 128, "max_length": 1024, "do_normalize": True, "padding_value": 0.0}
PROTOCOL = "AST of transformers, windows of 10 s; version 1"


def _classes() -> tuple[Any, Any]:
    from transformers import ASTConfig, ASTForAudioClassification

    return ASTConfig, ASTForAudioClassification


class AudioClasses:
    """The classifier. Its weights: an AST folder as transformers writes it: config.json, model.safetensors, preprocessor_config.json."""

    def __init__(self, weights: Weights) -> None:
        """Raises ValueError where the folder is no AST network."""
        with weights.named():
            self._network, config = transformers_network(weights, "audio-spectrogram-transformer", _classes)
            from transformers import ASTFeatureExtractor

            data = read_object(weights.folder, SOUND)
            must_be(SOUND, data, KNOWN)
            if not (isinstance(data.get("mean"), float) and isinstance(data.get("std"), float) and data["std"] > 0):
                raise ValueError(f"{SOUND}: mean and std must be numbers, std above 0; get it again")
            for field in ("num_mel_bins", "max_length"):
                if getattr(self._network.config, field) != KNOWN[field]:
                    raise ValueError(f"config.json: {field}={config.get(field)}: only {KNOWN[field]} is read, that of {SOUND}")
            self._extract = ASTFeatureExtractor(**KNOWN, mean=data["mean"], std=data["std"])
            self._device = weights.device

    @torch.no_grad()
    def __call__(self, clip: EvalClip) -> tuple[Tensor, Tensor]:
        """Pooled hidden states [n, D] and logits [n, C] of the windows of a clip, in float64. Raises: NotApplicable."""
        features, logits = list[Tensor](), list[Tensor]()
        for part in windows(heard(clip, RATE, LEAST_S), RATE, SECONDS, LEAST_S):
            inputs = self._extract(part, sampling_rate=RATE, return_tensors="pt").input_values.to(self._device)
            pooled = self._network.audio_spectrogram_transformer(inputs).pooler_output
            features.append(pooled.double().cpu())
            logits.append(self._network.classifier(pooled).double().cpu())
        return torch.cat(features), torch.cat(logits)


class AudioFrechet:
    """audio_fd: see the module."""

    about = (About("audio_fd", "distance", False, f"Fréchet distance, {PROTOCOL}", ("sound", "reference")),)

    def __init__(self, weights: Weights) -> None:
        """Raises ValueError where the folder is no AST network."""
        self._classes = AudioClasses(weights)

    def features(self, clip: EvalClip) -> np.ndarray:
        """[n, D], a row a window of 10 s. Raises: NotApplicable."""
        return self._classes(clip)[0].numpy()

    def between(self, real_ND: np.ndarray, generated_ND: np.ndarray) -> dict[str, float]:
        """Raises: NotApplicable."""
        return {"audio_fd": frechet_of(real_ND, generated_ND)}

    def of_sets(self, real: Sequence[EvalClip], generated: Sequence[EvalClip]) -> dict[str, float]:
        """Raises: NotApplicable."""
        return self.between(*(np.concatenate([self.features(clip) for clip in clips] or [np.zeros((0, 1))]) for clips in (real, generated)))


class AudioDivergence:
    """audio_kl: see the module."""

    about = (About("audio_kl", "nats", False, f"KL(real || generated) of softmax, {PROTOCOL}", ("sound", "reference")),)

    def __init__(self, weights: Weights) -> None:
        """Raises ValueError where the folder is no AST network."""
        self._classes = AudioClasses(weights)

    def of_sets(self, real: Sequence[EvalClip], generated: Sequence[EvalClip]) -> dict[str, float]:
        """The mean over clips of the same id. Raises: NotApplicable."""
        others = {clip.id: clip for clip in generated}
        pairs = [(clip, others[clip.id]) for clip in real if clip.id in others]
        if not pairs:
            raise NotApplicable("no real clip has the id of a generated one; give them the same ids")
        found = [divergence(self._shares(a), self._shares(b)) for a, b in pairs]
        return {"audio_kl": float(np.mean(found))}

    def _shares(self, clip: EvalClip) -> Tensor:
        return self._classes(clip)[1].softmax(-1).mean(0)
