"""Frozen records that travel between the parts of the method.

Legend of dimension letters, used as suffixes of tensor names all over `model/`:

    B clips   K chunks   F video latent frames   T audio latents   C latent channels   H W latent grid
    N tokens  D features S seconds   M heads     W words (after B: `_BW...`)           L bytes of a word
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .timeline import Layout

MODALITIES = ("video", "audio")


@dataclass(frozen=True)
class AV:
    """One tensor for each modality that is present: latents, velocities, times, losses.

    Latents are `video_BFCHW` and `audio_BTC`. A missing modality is None, so unimodal and joint training share all code.
    """

    video: Tensor | None = None
    audio: Tensor | None = None

    def __post_init__(self) -> None:
        if self.video is None and self.audio is None:
            raise ValueError("AV: both modalities are None; give video, audio, or both")

    def map(self, function: Callable[..., Tensor], *others: AV) -> AV:
        """Apply `function` to each present modality of self and of `others`."""
        return AV(
            video=None if self.video is None else function(self.video, *(o.video for o in others)),
            audio=None if self.audio is None else function(self.audio, *(o.audio for o in others)),
        )

    def items(self) -> list[tuple[str, Tensor]]:
        """The present modalities as (name, tensor), video first."""
        return [(name, value) for name, value in (("video", self.video), ("audio", self.audio)) if value is not None]

    def get(self, modality: str) -> Tensor:
        """The tensor of a modality that must be present."""
        for name, value in self.items():
            if name == modality:
                return value
        raise ValueError(f"AV: modality {modality!r} is absent; present: {[name for name, _ in self.items()]}")

    def only(self, modalities: tuple[str, ...]) -> AV:
        """Keep the named modalities."""
        return AV(video=self.video if "video" in modalities else None, audio=self.audio if "audio" in modalities else None)

    @property
    def batch(self) -> int:
        return self.items()[0][1].shape[0]

    @property
    def device(self) -> torch.device:
        return self.items()[0][1].device

    def detach(self) -> AV:
        return self.map(Tensor.detach)

    def to(self, device: torch.device | str) -> AV:
        return self.map(lambda x: x.to(device))


@dataclass(frozen=True)
class Controls:
    """Text controls of B clips: the caption without time, the transcript with its times, both as padded bytes.

    caption_BWL, words_BWL: uint8 bytes of each word, 0-padded (byte 0 never occurs in text).
    caption_mask_BW, words_mask_BW: True where a word exists and has not been dropped.
    words_time_BW2: start and end of each transcript word in seconds on the clip's clock.
    caption_features_BLE: the caption as features of a text encoder, padded with zeros, for branches that take them
    (`BranchConfig.caption_features`); None reads as a dropped caption there.
    """

    caption_BWL: Tensor
    caption_mask_BW: Tensor
    words_BWL: Tensor
    words_mask_BW: Tensor
    words_time_BW2: Tensor
    caption_features_BLE: Tensor | None = None

    def drop(self, caption_B: Tensor, transcript_B: Tensor) -> Controls:
        """Hide the caption and/or the transcript of the clips where the flag is True (classifier-free guidance)."""
        features = self.caption_features_BLE
        return replace(
            self,
            caption_features_BLE=None if features is None else features.masked_fill(caption_B[:, None, None], 0.0),
            caption_mask_BW=self.caption_mask_BW & ~caption_B[:, None],
            words_mask_BW=self.words_mask_BW & ~transcript_B[:, None],
        )

    def unconditional(self) -> Controls:
        """The same clips with all text hidden."""
        every = torch.ones(self.caption_BWL.shape[0], dtype=torch.bool, device=self.caption_BWL.device)
        return self.drop(every, every)

    def clips(self, which: slice | Sequence[int]) -> Controls:
        """Those of some of the clips."""
        return Controls(**{name: x[which if isinstance(which, slice) else list(which)] for name, x in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """What is there, by the name of its field."""
        return {name: x for name, x in vars(self).items() if x is not None}

    def cat(self, other: Controls) -> Controls:
        """Clips of self, then clips of `other`; both with caption features, or neither."""
        mine, theirs = self.tensors(), other.tensors()
        assert mine.keys() == theirs.keys(), (sorted(mine), sorted(theirs))
        return Controls(**{name: torch.cat([x, theirs[name]]) for name, x in mine.items()})

    def to(self, device: torch.device | str) -> Controls:
        return Controls(**{name: x.to(device) for name, x in self.tensors().items()})


@dataclass(frozen=True)
class AVBatch:
    """Real clips: clean latents (video latent 0 is the first frame, chunk -1), controls, and where they stand in the global order.

    positions: the clips' positions in the run's sample order; sample_ids: their content ids. chunks_B: how many chunks of each clip are
    real; the rest is padding, which no loss counts and, since no chunk sees a later one, no result depends on. None: all of them are.
    """

    latents: AV
    controls: Controls
    layout: Layout
    positions: tuple[int, ...]
    sample_ids: tuple[str, ...]
    chunks_B: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.chunks_B is not None and not (
            len(self.chunks_B) == self.latents.batch and all(1 <= n <= self.layout.chunks for n in self.chunks_B)
        ):
            raise ValueError(
                f"batch.chunks_B={self.chunks_B}: one number of chunks for each of {self.latents.batch} clips, at most {self.layout.chunks}"
            )

    def to(self, device: torch.device | str) -> AVBatch:
        return replace(self, latents=self.latents.to(device), controls=self.controls.to(device))

    def clips(self, which: slice) -> AVBatch:
        """Some of the clips."""
        return AVBatch(
            self.latents.map(lambda x: x[which]),
            self.controls.clips(which),
            self.layout,
            self.positions[which],
            self.sample_ids[which],
            None if self.chunks_B is None else self.chunks_B[which],
        )

    def means(self, values: AV) -> AV:
        """Values of the predicted latents (no first frame), [B, F, ...] -> their mean over real latents in fp32 or wider.

        Every clip counts the same, however long it is: the mean does not depend on which clips happen to share a batch.
        """
        if self.chunks_B is None:
            return values.map(lambda x: at_least_fp32(x).mean())
        return self.clip_means(values).map(Tensor.mean)

    def clip_means(self, values: AV) -> AV:
        """The mean over each clip's real latents, [B], in fp32 or wider."""
        ends = None if self.chunks_B is None else torch.tensor(self.chunks_B)

        def mean(name: str, x: Tensor) -> Tensor:
            x = at_least_fp32(x)
            each = x.flatten(2).mean(dim=2) if x.dim() > 2 else x
            if ends is None:
                return each.mean(dim=1)
            index, _ = self.layout.video(with_first_frame=False) if name == "video" else self.layout.audio()
            real = (index[None] - self.layout.first < ends[:, None]).to(x.device)
            return torch.where(real, each, 0.0).sum(dim=1) / real.sum(dim=1)

        return AV(**{name: mean(name, x) for name, x in values.items()})


@dataclass(frozen=True)
class Rollout:
    """What the few-step mode made for B clips (method 5): no gradient flows through it.

    history: generated latents of every chunk, same shapes as the clips' latents.
    exit_state, exit_time_BK: the state y_k of the few-step trajectory at a random move and its raw time t_k; None where no part of
    the objective reads them.
    versions: of each clip, the lowest and the highest weight version (optimizer steps) that made it; samples: of each clip, the number of
    its sample (`sample_number`). Both are empty where only the numbers matter.
    """

    history: AV
    exit_state: AV | None
    exit_time_BK: Tensor | None
    versions: tuple[tuple[int, int], ...] = ()
    samples: tuple[int, ...] = ()

    @property
    def version_low(self) -> int:
        return min(low for low, _ in self.versions)

    @property
    def version_high(self) -> int:
        return max(high for _, high in self.versions)

    def to(self, device: torch.device | str) -> Rollout:
        state, times = self.exit_state, self.exit_time_BK
        return replace(
            self,
            history=self.history.to(device),
            exit_state=None if state is None else state.to(device),
            exit_time_BK=None if times is None else times.to(device),
        )

    def clips(self, which: slice) -> Rollout:
        """Those of some of the clips."""
        state, times = self.exit_state, self.exit_time_BK
        return replace(
            self,
            history=self.history.map(lambda x: x[which]),
            exit_state=None if state is None else state.map(lambda x: x[which]),
            exit_time_BK=None if times is None else times[which],
            versions=self.versions[which],
            samples=self.samples[which],
        )


class Velocity(Protocol):
    """The network as a function: velocity u(x_t, t, r | K, c) of every noisy chunk, all chunks in parallel."""

    def __call__(self, noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV: ...


Reading = Callable[[AV, AV, AV], AV]
"""A past already read: (noisy, t, r) -> velocities, without gradient."""


@runtime_checkable
class Reads(Protocol):
    """A network that can read a past once and give several velocities after it."""

    def read(self, context: AV, controls: Controls, layout: Layout) -> Reading: ...


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision widened to fp32; fp64 stays, so that the two ways of running the network can be compared exactly."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """To a device without waiting for its work. From memory that can be paged out CUDA would, whatever `non_blocking` says."""
    if torch.device(device).type != "cuda" or x.is_cuda:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def future(latents: AV) -> AV:
    """The latents that are predicted: everything but the first video frame (chunk -1)."""
    return AV(video=None if latents.video is None else latents.video[:, 1:], audio=latents.audio)
