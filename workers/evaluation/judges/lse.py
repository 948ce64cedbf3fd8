"""LSE-D and LSE-C: how far SyncNet's points of mouth and voice lie apart, and by how much they lie closer in time than out of it.

    face, 25 a second -> 5 pictures from each on -> lips   -+
                                                            +-> distances at -15..15 pictures -> mean over the clip -> least; median - least
    sound, 16 kHz     -> mfcc -> 0.2 s from each on -> speech -+

Prajwal et al., "A lip sync expert is all you need", ACM MM 2020, section 4.2: LSE-D (distance, lower is better) and LSE-C (confidence,
higher is better) as their `evaluation/scores_LSE` computes them. Steps of the voice beyond the clip's ends are points of zeros, as there.
Compared with that source in words: pictures are BGR and not scaled; the last five pictures begin no window; distances have PyTorch's 1e-6
in every dimension; the median is over the 31 shifts.

On clips whose mouth moves with their voice LSE-D is some 6 to 8 and LSE-C some 6 to 9 in the papers that report them. No published weights
have been loaded here: what is tested is the arithmetic, on random weights in the published form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ....datasets.signals.faces import need_detector
from ..clip import About, EvalClip, NotApplicable
from .face_crop import FPS, faces_of
from .material import heard
from .mfcc import PER_SECOND, RATE, mfcc
from .syncnet import FILE, PICKLED, PICTURES, STEPS, SyncNet
from .weights import Weights, fill_network, read_tensors

SHIFT = 15  # pictures to each side
LEAST = 2 * FPS  # pictures of a clip: below it most shifts compare with nothing
BATCH = 20
PROTOCOL = "SyncNet v2 on faces of libfacedetection, Wav2Lip's scores_LSE, shifts of +-15 at 25 frames/s; version 2"


class LipSync:
    """See the module. Its weights: `syncnet_v2.model` as its authors publish it, or `syncnet_v2.safetensors` with the same tensors."""

    about = (
        About("lse_d", "distance", False, PROTOCOL, ("picture", "sound")),
        About("lse_c", "distance", True, PROTOCOL, ("picture", "sound")),
        About("lse_offset_ms", "ms", None, f"{PROTOCOL}; above 0: the sound is late", ("picture", "sound")),
    )

    def __init__(self, weights: Weights) -> None:
        """Raises ValueError where the file is missing or of another network, or the face detector is not installed."""
        with weights.named():
            need_detector("lse")
            self._network, self._device = SyncNet(), weights.device
            fill_network(self._network, read_tensors(weights.folder, FILE, PICKLED), weights.device)

    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """Raises: NotApplicable."""
        sound = heard(clip, RATE, LEAST / FPS)
        faces = faces_of(clip, LEAST)
        found = lip_sync(*self.points(faces, sound))
        return {"lse_d": found.distance, "lse_c": found.confidence, "lse_offset_ms": 1000 * found.offset / FPS}

    @torch.no_grad()
    def points(self, faces: np.ndarray, sound: np.ndarray) -> tuple[Tensor, Tensor]:
        """Faces uint8 [N, 224, 224, 3] in RGB at 25 a second and sound float32 [S] at 16 kHz -> points of lips and of speech, [n, 1024]."""
        count = min(len(faces), len(sound) * FPS // RATE) - PICTURES
        if count < 1:
            raise NotApplicable(f"it has {count + PICTURES} pictures with sound; more than {PICTURES} are needed")
        shown = torch.from_numpy(faces[..., ::-1].copy()).permute(3, 0, 1, 2)  # [3, N, H, W], blue first
        voice = torch.from_numpy(mfcc(sound).T.copy()).float()
        ahead = PER_SECOND // FPS
        lips, speech = list[Tensor](), list[Tensor]()
        for start in range(0, count, BATCH):
            at = range(start, min(count, start + BATCH))
            pictures = torch.stack([shown[:, n : n + PICTURES] for n in at]).float().to(self._device)
            steps = torch.stack([voice[None, :, ahead * n : ahead * n + STEPS] for n in at]).to(self._device)
            lips.append(self._network.lips(pictures).cpu())
            speech.append(self._network.speech(steps).cpu())
        return torch.cat(lips), torch.cat(speech)


@dataclass(frozen=True)
class Sync:
    """distance: LSE-D; confidence: LSE-C; offset: in pictures, above 0 where the sound is late."""

    distance: float
    confidence: float
    offset: int


def lip_sync(lips_ND: Tensor, speech_ND: Tensor, shift: int = SHIFT) -> Sync:
    """Points [n, D] of mouth and voice at the same n moments -> how well they agree, over shifts of the voice of at most `shift` steps.

    d(k) is the mean over n of |lips(n) - speech(n + k)|, with speech = 0 beyond its ends. LSE-D = min d, LSE-C = median d - min d.
    """
    count = len(lips_ND)
    padded = F.pad(speech_ND, (0, 0, shift, shift))
    mean_K = torch.stack([F.pairwise_distance(lips_ND, padded[k : k + count]).mean() for k in range(2 * shift + 1)])
    least, at = mean_K.min(0)
    return Sync(float(least), float(mean_K.median() - least), int(at) - shift)
