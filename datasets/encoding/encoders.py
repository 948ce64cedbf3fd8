"""Clips become latents: in place with the embedded codecs, or by a pool of actors that hold pretrained networks.

    MakePart (CPU worker): decode, cut --frames, samples--> encoder --latents, 16 bits--> shard
                                                              |
                          LocalEncoder: here          PooledEncoder: actors with a GPU each (actor_pool.py)

Both have one interface and travel to workers by pickle. Latents that 16 bits cannot hold are found, and their clips named. What a clip's
latents are does not depend on which of the two made them, on the worker, or on the attempt: up to rounding, and with `batch` 1 on machines
of one kind bit for bit.
Dimensions: B clips, N frames, F video latents, S samples, T audio latents, C channels, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...model.codecs.quality import psnr, snr
from ...model.codecs.shape import is_pretrained
from ..format.sixteen_bits import fits, read, stored
from ..progress import Progress, silent
from .actor_pool import Pending, PoolClient, PoolConfig, actor_pool
from .pretrained_codecs import CodecPair, Json, PretrainedConfig, open_codecs

Latents = tuple[np.ndarray | None, np.ndarray | None]
"""Video [B,F,C,H,W] and audio [B,T,C] in 16 bits, as `format/sixteen_bits` has them; None of what there is none."""
Quality = list[tuple[float, float]]
"""Of each clip, how close its latents decode to it: PSNR of the pictures, SNR of the sound, in dB; NaN of what there is none."""


class UnfitLatents(ValueError):
    """Latents that 16 bits cannot hold: of which modality, and of which clips of the call."""

    def __init__(self, modality: str, clips: tuple[int, ...], remedy: str) -> None:
        super().__init__(modality, clips, remedy)
        self.modality, self.clips, self.remedy = modality, clips, remedy

    def __str__(self) -> str:
        return f"its {self.modality} latents are not finite in 16 bits; {self.remedy}"


class Answer(Protocol):
    """Latents that are on their way."""

    def result(self) -> Latents:
        """Blocks until they are there; raises as `encode`."""
        ...


class ClipEncoder(Protocol):
    """What makes latents of clips, from any process that it was sent to. Frames are uint8 [B,N,H,W,3], samples float32 [B,S]; either may
    be None where the dataset has none of it.
    """

    def encode(self, frames: np.ndarray | None, audio: np.ndarray | None) -> Latents:
        """The clips' latents.

        Raises:
            ValueError: sizes that the codec does not take; UnfitLatents: values that 16 bits cannot hold.
            PoolFailed: nothing will be encoded any more.
        """
        ...

    def submit(self, frames: np.ndarray | None, audio: np.ndarray | None) -> Answer:
        """As `encode`, but the caller may decode the next clip meanwhile. Blocks while it has as many under way as it may have."""
        ...

    def judge(self, frames: np.ndarray | None, audio: np.ndarray | None, latents: Latents) -> Quality:
        """How close the latents of these clips decode to them."""
        ...


@dataclass(frozen=True)
class Request:
    """What an encoder is asked for: latents of clips, or where those are given, how good they are."""

    frames: np.ndarray | None
    audio: np.ndarray | None
    latents: Latents | None = None

    @property
    def key(self) -> Hashable:
        """Requests of one key may be computed together."""
        shapes = tuple(None if x is None else x.shape[1:] for x in (self.frames, self.audio))
        return (self.latents is not None, *shapes)

    @property
    def clips(self) -> int:
        """How many; ValueError where pictures, sound and latents are not of as many."""
        counts = {len(x) for x in (self.frames, self.audio, *(self.latents or ())) if x is not None}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"clips: {sorted(counts)} of pictures, sound and latents; give as many of each, and at least one")
        return counts.pop()

    def pieces(self, most: int) -> list[Request]:
        """The same in requests of at most so many clips."""
        cuts = [slice(i, i + most) for i in range(0, self.clips, most)]
        return [Request(_cut(self.frames, c), _cut(self.audio, c), None if self.latents is None else _both(self.latents, c)) for c in cuts]


class EncodeWork:
    """The arithmetic: requests of one key, computed together."""

    def __init__(self, codecs: CodecPair, dtype: str) -> None:
        self._codecs, self._dtype = codecs, dtype

    def __call__(self, requests: Sequence[Request]) -> list[Any]:
        """For each request its `Latents` or `Quality`, or the ValueError that it gets instead."""
        counts = [request.clips for request in requests]
        try:
            frames, audio = _joined([r.frames for r in requests]), _joined([r.audio for r in requests])
            made = self._together(Request(frames, audio, _latents(requests)))
        except ValueError as error:
            return [error] * len(requests)
        except torch.OutOfMemoryError:
            if len(requests) == 1:
                raise
            return [self([request])[0] for request in requests]
        starts = [sum(counts[:i]) for i in range(len(counts))]
        parts = [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]
        if isinstance(made, list):
            return [made[part] for part in parts]
        return [self._checked(_both(made, part)) for part in parts]

    def _together(self, request: Request) -> Latents | Quality:
        video, audio = self._codecs.video, self._codecs.audio
        for name, codec, media in (("pictures", video, request.frames), ("sound", audio, request.audio)):
            if media is not None and codec is None:
                raise ValueError(f"clips: have {name}, for which the dataset has no codec")
        if request.latents is not None:
            decoded = [None if x is None else read(x).float() for x in request.latents]
            frames = None if decoded[0] is None or video is None else video.decode(decoded[0]).cpu()
            sound = None if decoded[1] is None or audio is None else audio.decode(decoded[1]).cpu()
            clips = request.clips
            return list(zip(_each(psnr, request.frames, frames, clips), _each(snr, request.audio, sound, clips), strict=True))
        return (
            None if video is None or request.frames is None else stored(video.encode(torch.from_numpy(request.frames)), self._dtype),
            None if audio is None or request.audio is None else stored(audio.encode(torch.from_numpy(request.audio)), self._dtype),
        )

    def _checked(self, latents: Latents) -> Latents | UnfitLatents:
        for modality, found in zip(("video", "audio"), latents, strict=True):
            if found is not None and not (finite := fits(found).reshape(len(found), -1).all(1)).all():
                codec = getattr(self._codecs, modality)
                pretrained = is_pretrained(codec.to_json())
                remedy = "leave the clip out, or encode in float32" if pretrained else "fit the codec to clips like this one"
                return UnfitLatents(modality, tuple(int(i) for i in np.flatnonzero(~finite)), remedy)
        return latents


@dataclass(frozen=True)
class OpenEncoder:
    """Opens the codecs of a dataset where it is called. dtype: of the latents, of `sixteen_bits.KEPT`; threads: that they compute with on a
    CPU (0: as many as before).
    """

    video: Json | None
    audio: Json | None
    pretrained: PretrainedConfig = PretrainedConfig()
    device: str = "cpu"
    threads: int = 0
    dtype: str = "float16"

    def __call__(self) -> EncodeWork:
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.device != "cpu":
            same_arithmetic()
        return EncodeWork(open_codecs(self.video, self.audio, self.pretrained, self.device), self.dtype)


@dataclass(frozen=True)
class Now:
    """An answer that is there."""

    value: Latents

    def result(self) -> Latents:
        return self.value


class LocalEncoder:
    """A `ClipEncoder` that computes where it is called, clip by clip. The codecs are opened with the first one, in each process anew."""

    def __init__(self, open_encoder: OpenEncoder) -> None:
        self._open, self._work = open_encoder, None

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": self._open, "_work": None}

    def encode(self, frames: np.ndarray | None, audio: np.ndarray | None) -> Latents:
        pieces = Request(frames, audio).pieces(1)
        return _whole(pieces, [self._ask(piece) for piece in pieces])

    def submit(self, frames: np.ndarray | None, audio: np.ndarray | None) -> Now:
        return Now(self.encode(frames, audio))

    def judge(self, frames: np.ndarray | None, audio: np.ndarray | None, latents: Latents) -> Quality:
        found = [self._ask(piece) for piece in Request(frames, audio, latents).pieces(1)]
        return [quality for one in found for quality in _or_raise(one)]

    def _ask(self, request: Request) -> Any:
        self._work = self._work or self._open()
        return self._work([request])[0]


class PooledEncoder:
    """A `ClipEncoder` whose clips are computed by a pool; see `actor_pool`."""

    def __init__(self, client: PoolClient, batch: int) -> None:
        self.client, self._batch = client, batch

    def encode(self, frames: np.ndarray | None, audio: np.ndarray | None) -> Latents:
        return self.submit(frames, audio).result()

    def submit(self, frames: np.ndarray | None, audio: np.ndarray | None) -> Pieces:
        pieces = Request(frames, audio).pieces(self._batch)
        return Pieces(pieces, self._ask(pieces))

    def judge(self, frames: np.ndarray | None, audio: np.ndarray | None, latents: Latents) -> Quality:
        pending = self._ask(Request(frames, audio, latents).pieces(self._batch))
        return [quality for one in pending for quality in one.result()]

    def _ask(self, pieces: Sequence[Request]) -> list[Pending]:
        return [self.client.submit(piece.key, piece.clips, piece) for piece in pieces]


@dataclass(frozen=True)
class Pieces:
    """Answers that make one."""

    asked: list[Request]
    pending: list[Pending]

    def result(self) -> Latents:
        return _whole(self.asked, [_result(one) for one in self.pending])


@contextmanager
def clip_encoder(
    video: Json | None, audio: Json | None, pretrained: PretrainedConfig, pool: PoolConfig, dtype: str, progress: Progress = silent
) -> Iterator[ClipEncoder]:
    """The encoder of a dataset for the time of the block, by the JSON of its codecs: in place where both are embedded. dtype: of latents.

    Raises:
        PoolFailed: the actors of a pool do not come up.
    """
    if not any(is_pretrained(codec) for codec in (video, audio) if codec is not None):
        yield LocalEncoder(OpenEncoder(video, audio, pretrained, dtype=dtype))
        return
    with actor_pool("encoders", OpenEncoder(video, audio, pretrained, pool.device, pool.threads, dtype), pool, progress) as client:
        yield PooledEncoder(client, pool.batch)


def same_arithmetic() -> None:
    """Have a GPU choose its kernels by the shapes alone, and let float32 be float32: a clip's latents are then the same each time."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _result(pending: Pending) -> Latents | UnfitLatents:
    try:
        return pending.result()
    except UnfitLatents as error:
        return error


def _or_raise(found: Any) -> Any:
    if isinstance(found, ValueError):
        raise found
    return found


def _whole(pieces: Sequence[Request], found: Sequence[Any]) -> Latents:
    """The latents of all pieces; or raises what is wrong with some of them, its clips counted over all."""
    starts = [sum(piece.clips for piece in pieces[:i]) for i in range(len(pieces))]
    unfit = [(start, one) for start, one in zip(starts, found, strict=True) if isinstance(one, UnfitLatents)]
    if unfit:
        first = unfit[0][1]
        raise UnfitLatents(first.modality, tuple(start + i for start, one in unfit for i in one.clips), first.remedy)
    parts = [_or_raise(one) for one in found]
    return _joined([video for video, _ in parts]), _joined([audio for _, audio in parts])


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """A copy: what comes from the object store cannot be written to, and torch would warn."""
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there else None


def _latents(requests: Sequence[Request]) -> Latents | None:
    given = [request.latents for request in requests if request.latents is not None]
    return (_joined([video for video, _ in given]), _joined([audio for _, audio in given])) if given else None


def _cut(media: np.ndarray | None, part: slice) -> np.ndarray | None:
    return None if media is None else media[part]


def _both(latents: Latents, part: slice) -> Latents:
    return _cut(latents[0], part), _cut(latents[1], part)


def _each(measure: Callable[[Tensor, Tensor], float], media: np.ndarray | None, decoded: Tensor | None, clips: int) -> list[float]:
    """A measure of each clip; NaN where there is nothing to measure."""
    if media is None or decoded is None:
        return [nan] * clips
    return [measure(torch.from_numpy(a), b) for a, b in zip(media, decoded, strict=True)]
