"""Clips while they are made: pictures and sound of every chunk as soon as its latents are there.

    Prompt (a clip's first picture, caption, words, seed) --+
                                                            +--> Playing: network -> latents -> streaming decoders -> Chunk, Chunk, ...
    say, caption, leave: from the next chunk on ------------+

Clips of one `Playing` are one batch: they begin together, and each evaluation of the network is of all of them. Memory does not grow with
their length: the network sees a window, decoders carry a fixed state, and of a long transcript the words near the present are kept.

The same seed gives the same bits on the same device with the same number of threads, of clips and of moves, because all noise is a
function of (seed, chunk, move). Among other clips, or on another device, it gives the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
import torch
from torch import Tensor

from ...datasets.intake.sidecars import TimedWords, shared_words
from ...model.codecs.base import LatentStream
from ...model.noise import PositionalNoise
from ...model.sampler import Generation, SamplerConfig
from ...model.text import Word, make_controls
from ...model.types import AV, Controls
from .opened_model import OpenedModel

PORTION_S = 30.0  # of a transcript that the network is given at once
WORDS = 16  # room for words comes in such portions, so that passes have few shapes
LETTERS_PER_S = 14.0  # of words that are appended without times: about 150 English words a minute
MAX_SAID = 800  # letters that can be appended at once: `sidecars.MAX_SPOKEN_S` at that rate, and less


@dataclass(frozen=True)
class Prompt:
    """What a clip begins with. first: its clean first latent `[1, C, H, W]`; words: with their times on the clip's clock; past: clean
    chunks 0, 1, ... (of one clip, B = 1) that it goes on after.
    """

    first: Tensor
    caption: str = ""
    words: TimedWords = ()
    seed: int = 0
    past: tuple[AV, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """What a chunk adds to clip `clip`: frames uint8 `[N, H, W, 3]` and samples float32 `[S]` in [-1, 1].

    Chunk 0 has the first picture too. Sound may come a little later than its pictures (a codec's delay, hop / 2 samples of the embedded
    one's): sample 0 of the first chunk sounds with frame 0, and everything follows without a gap.
    """

    clip: int
    index: int
    frames: np.ndarray
    samples: np.ndarray


@dataclass
class _Clip:
    """A clip in the making: what is said in it, and its decoders."""

    number: int
    caption: str
    words: TimedWords
    video: LatentStream
    audio: LatentStream
    head: list[Tensor] = field(default_factory=list)


class Playing:
    """Iterate over it: each step gives a `Chunk` of every clip, and ends after `chunks` (None: never), the past of the prompts counted in.

    Not for two threads at once.

    Raises:
        ValueError: pasts are of different lengths, or latents are not of the model's codec.
    """

    def __init__(self, model: OpenedModel, prompts: Sequence[Prompt], sampler: SamplerConfig, chunks: int | None = None) -> None:
        assert prompts, "at least one clip"
        if len({len(prompt.past) for prompt in prompts}) > 1:
            raise ValueError("prompts: clips of one batch go on after pasts of the same length; play them apart")
        self._model, self._chunks = model, chunks
        self._clips = [_Clip(i, p.caption, p.words, model.video.stream(), model.audio.stream()) for i, p in enumerate(prompts)]
        self._past = [
            past[0].map(lambda *x: torch.cat(x).to(model.device), *past[1:]) for past in zip(*(p.past for p in prompts), strict=True)
        ]
        first = torch.stack([prompt.first for prompt in prompts]).to(model.device)
        for clip, latent in zip(self._clips, first.split(1), strict=True):
            clip.head.append(clip.video.push(latent))
        self._until = inf
        self._generation = Generation(
            model.network,
            self._controls(0),
            first,
            (len(prompts), model.record.network.audio_channels),
            sampler,
            PositionalNoise([(prompt.seed, "generate") for prompt in prompts], model.device),
            self._past,
        )
        self._shown = 0
        self._over = False

    @property
    def made(self) -> int:
        """Chunks that have been given out."""
        return self._shown

    @property
    def seconds(self) -> float:
        """Where the next chunk that is made begins."""
        return float(max(self._shown, self._generation.chunk) * self._model.record.timeline.chunk)

    @property
    def clips(self) -> tuple[int, ...]:
        """Numbers of the clips that are still made."""
        return tuple(clip.number for clip in self._clips)

    def __iter__(self) -> Iterator[list[Chunk]]:
        return self

    def __next__(self) -> list[Chunk]:
        if self._over or not self._clips or self._shown == self._chunks:
            raise StopIteration
        chunk = self._shown
        latents = self._past[chunk] if chunk < len(self._past) else self._next_latents()
        self._shown += 1
        return [self._decoded(clip, latents.map(lambda x, i=i: x[i : i + 1]), chunk) for i, clip in enumerate(self._clips)]

    def rest(self) -> list[Chunk]:
        """Sound that the decoders still hold back, of clips that end here instead of after `chunks`. Nothing follows."""
        if self._over or self._shown in (0, self._chunks):
            self._over = True
            return []
        self._over = True
        return [self._last(clip) for clip in self._clips]

    def caption(self, clip: int, text: str) -> None:
        """Another caption for a clip, from the next chunk that is made on."""
        self._clip(clip).caption = text
        self._until = -inf

    def say(self, clip: int, text: str) -> TimedWords:
        """Append words to what is said in a clip: they follow the last word, or begin with the next chunk. Returns them with their times.

        Raises:
            ValueError: nothing, or too much, is to be said.
        """
        of = self._clip(clip)
        words = spoken_from(text, max([self.seconds, *(end for _, _, end in of.words)]))
        of.words = (*of.words, *words)
        self._until = -inf
        return words

    def leave(self, clip: int) -> None:
        """A clip ends here; the others go on."""
        self._keep([other.number for other in self._clips if other is not self._clip(clip)])

    def apart(self, clips: Sequence[int]) -> Playing:
        """Some of the clips as a batch of their own, which may wait while the others go on; each as it would have, but for rounding."""
        assert clips, "at least one clip"
        other = copy(self)
        other._keep([self._clip(clip).number for clip in clips])
        self._keep([clip.number for clip in self._clips if clip.number not in clips])
        return other

    def end(self, clip: int) -> Chunk:
        """A clip ends here, and the others go on: the sound that its decoder still holds back."""
        ended = self._clip(clip)
        self.leave(clip)
        return self._last(ended)

    def _keep(self, clips: Sequence[int]) -> None:
        numbers = [clip.number for clip in self._clips]
        kept = [numbers.index(clip) for clip in clips]
        self._clips = [self._clips[i] for i in kept]
        self._past = [x.map(lambda y: y[kept]) for x in self._past]
        if kept:
            self._generation = self._generation.part(kept)

    def _next_latents(self) -> AV:
        clock, chunk = self._model.record.timeline, self._generation.chunk
        if float((chunk + 1) * clock.chunk) + self._model.record.network.word_lookahead_s > self._until:
            self._generation.control(self._controls(chunk))
        return self._generation.next_chunk()

    def _controls(self, chunk: int) -> Controls:
        """What the network reads from this chunk on, until `_until`. Words that no chunk hears any more are dropped."""
        net, clock = self._model.record.network, self._model.record.timeline
        since = float((chunk - net.window) * clock.chunk) if chunk else -inf
        until = float((chunk + 1) * clock.chunk) + net.word_lookahead_s + PORTION_S
        near = []
        for clip in self._clips:
            clip.words = tuple(word for word in clip.words if word[2] > since)
            near.append([Word(*word) for word in clip.words if word[1] < until])
        self._until = until if any(word[1] >= until for clip in self._clips for word in clip.words) else inf
        room = max(net.text.max_words, WORDS * -(-max(map(len, near)) // WORDS))
        return make_controls([clip.caption for clip in self._clips], near, replace(net.text, max_words=room)).to(self._model.device)

    def _decoded(self, clip: _Clip, latents: AV, chunk: int) -> Chunk:
        frames, sound = [*clip.head, clip.video.push(latents.get("video"))], [clip.audio.push(latents.get("audio"))]
        clip.head = []
        if chunk + 1 == self._chunks:
            frames, sound = [*frames, clip.video.flush()], [*sound, clip.audio.flush()]
        return Chunk(clip.number, chunk, torch.cat(frames, dim=1)[0].cpu().numpy(), _sound(sound))

    def _last(self, clip: _Clip) -> Chunk:
        none = np.empty((0, self._model.record.height, self._model.record.width, 3), np.uint8)
        return Chunk(clip.number, self._shown, none, _sound([clip.audio.flush()]))

    def _clip(self, number: int) -> _Clip:
        for clip in self._clips:
            if clip.number == number:
                return clip
        raise ValueError(f"clip {number}: is not being made; these are: {list(self.clips)}")


def spoken_from(text: str, start_s: float) -> TimedWords:
    """Words that are said from a time on, at an even rate.

    Raises:
        ValueError: there are none, or too many.
    """
    spoken = " ".join(text.split())
    if not 0 < len(spoken) <= MAX_SAID:
        raise ValueError(f"words: {len(spoken)} letters; from 1 to {MAX_SAID} can be appended at once")
    return shared_words(spoken, start_s, start_s + (len(spoken) + 1) / LETTERS_PER_S)


def _sound(parts: Sequence[Tensor]) -> np.ndarray:
    return torch.cat(list(parts), dim=1)[0].clamp(-1, 1).float().cpu().numpy()
