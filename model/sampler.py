"""Chunk-by-chunk generation with a key/value cache: FEW and MULTI modes, and the rollouts that feed training.

All noise comes from `PositionalNoise`, tagged by chunk and move, so a clip is the same on any machine, in any batch, after any retry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor

from .noise import PositionalNoise
from .objective import FewSampler, ObjectiveConfig
from .path import PathConfig, few_grid, guided, interpolate, move, shifted
from .stream import Stream
from .timeline import FIRST_FRAME_CHUNK, Layout
from .transformer import AVTransformer
from .types import AV, MODALITIES, Controls, Rollout

SamplingMode = Literal["few", "multi"]


@dataclass(frozen=True)
class SamplerConfig:
    """How clips are generated. mode `few`: `moves` moves a chunk, no guidance; `multi`: `moves` Euler steps with `guidance`."""

    mode: SamplingMode = "few"
    moves: int = 4
    few_sampler: FewSampler = "ode"
    guidance: float = 5.0
    path: PathConfig = PathConfig()

    def __post_init__(self) -> None:
        for name, allowed in (("mode", SamplingMode), ("few_sampler", FewSampler)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"sampler.{name}={getattr(self, name)!r}: choose {' or '.join(get_args(allowed))}")
        if self.moves < 1:
            raise ValueError(f"sampler.moves={self.moves}: at least 1 a chunk")
        if not 0 <= self.guidance < inf:
            raise ValueError(f"sampler.guidance={self.guidance}: must be 0 or more (1: the conditional prediction alone)")

    @property
    def evaluations(self) -> int:
        """Network evaluations a chunk, besides the one that commits it; a guided step counts as two."""
        return self.moves * (2 if self.mode == "multi" and self.guidance != 1.0 else 1)


def chunk_latents(latents: AV, layout: Layout, chunk: int) -> AV:
    """The latents of one chunk of a clip whose video latent 0 is the first frame."""
    t = layout.timeline
    return AV(
        video=None if latents.video is None else latents.video[:, t.video_slice(chunk)],
        audio=None if latents.audio is None or chunk == FIRST_FRAME_CHUNK else latents.audio[:, t.audio_slice(chunk)],
    )


class _ChunkMover:
    """Moves the chunk in progress of B clips; in MULTI mode the stream holds the clips twice, with and without text."""

    def __init__(self, stream: Stream, config: SamplerConfig, noise: PositionalNoise) -> None:
        self._stream, self._config, self._noise = stream, config, noise
        self._twice = config.mode == "multi" and config.guidance != 1.0

    def commit(self, clean: AV, chunk: int) -> None:
        self._stream.commit(self._doubled(clean), chunk)

    def move(self, x: AV, t: float, r: float, chunk: int, index: int) -> AV:
        """One move of the sampler from raw time t to r."""
        jump = self._config.mode == "few" and self._config.few_sampler == "renoise"
        end = 0.0 if jump else r
        u = self._velocity(x, t, t if self._config.mode == "multi" else end, chunk)
        at, to = self._times(t, x), self._times(end, x)
        x = move(x, u, _spread(at, x), _spread(to, x))
        if jump and r > 0:
            x = interpolate(x, self._noise.normal_like(x, "move", chunk, index), _spread(self._times(r, x), x))
        return x

    def _velocity(self, x: AV, t: float, r: float, chunk: int) -> AV:
        doubled = self._doubled(x)
        u = self._stream.velocity(doubled, self._times(t, doubled), self._times(r, doubled), chunk)
        if not self._twice:
            return u
        return guided(u.map(lambda y: y[: x.batch]), u.map(lambda y: y[x.batch :]), self._config.guidance)

    def _doubled(self, x: AV) -> AV:
        return x.map(lambda y: torch.cat([y, y])) if self._twice else x

    def _times(self, raw: float, like: AV) -> AV:
        first = like.items()[0][1]
        return shifted(torch.full((like.batch, 1), raw, device=first.device), self._config.path, like)


def _spread(times_B1: AV, x: AV) -> AV:
    return x.map(lambda y, t: t.to(y.dtype).view(-1, *[1] * (y.dim() - 1)), times_B1)


class Generation:
    """B clips in the making: each `next_chunk` gives the latents of the chunk that follows. Memory does not grow once the window is full.

    The arguments are those of `generate`. Raises as it does.
    """

    @torch.no_grad()
    def __init__(
        self,
        net: AVTransformer,
        controls: Controls,
        first_frame_BFCHW: Tensor | None,
        audio_like_BTC: tuple[int, int] | None,
        config: SamplerConfig,
        noise: PositionalNoise,
        past: Sequence[AV] = (),
    ) -> None:
        _check_given(controls, first_frame_BFCHW, audio_like_BTC, past)
        modalities = tuple(m for m, given in zip(MODALITIES, (first_frame_BFCHW, audio_like_BTC), strict=True) if given is not None)
        self._net, self._config, self._noise = net, config, noise
        self._first, self._audio = first_frame_BFCHW, audio_like_BTC
        self._twice = config.mode == "multi" and config.guidance != 1.0
        self._controls, self._controls_changed = controls, False
        self._stream = net.start(self._texts(), modalities)
        self._mover = _ChunkMover(self._stream, config, noise)
        self._grid = few_grid(config.moves).tolist()
        self._made: AV | None = None
        if first_frame_BFCHW is not None:
            self._mover.commit(AV(video=first_frame_BFCHW), FIRST_FRAME_CHUNK)
        for chunk, clean in enumerate(past):  # all of them: through the layers, keys in the window depend on chunks before it
            self._mover.commit(clean, chunk)
        self.chunk = len(past)

    @torch.no_grad()
    def next_chunk(self) -> AV:
        """The latents of chunk `chunk`, which then counts one more."""
        self._settle()
        chunk = self.chunk
        x = self._noise.normal_like(_empty_chunk(self._net, chunk, self._first, self._audio), "chunk", chunk)
        for i in range(self._config.moves):
            x = self._mover.move(x, self._grid[i], self._grid[i + 1], chunk, i)
        self._made, self.chunk = x, chunk + 1
        return x

    def control(self, controls: Controls) -> None:
        """Other text from the next chunk on: what is made already stays as it was under the text before, in what is remembered too.

        Raises:
            ValueError: the controls are of another number of clips.
        """
        if len(controls.words_time_BW2) != len(self._controls.words_time_BW2):
            raise ValueError(f"controls: of {len(controls.words_time_BW2)} clips, {len(self._controls.words_time_BW2)} are in the making")
        self._controls, self._controls_changed = controls, True

    @torch.no_grad()
    def keep(self, clips: Sequence[int]) -> None:
        """Go on with some of the clips alone, in this order; each goes on as it would have, but for rounding."""
        self._settle()
        batch = len(self._controls.words_time_BW2)
        assert clips, "some clip goes on"
        assert all(0 <= clip < batch for clip in clips), (clips, batch)
        self._controls = self._controls.clips(clips)
        self._noise = self._noise.clips(clips)
        self._first = None if self._first is None else self._first[list(clips)]
        self._audio = None if self._audio is None else (len(clips), self._audio[1])
        self._stream.keep([*clips, *(clip + batch for clip in clips if self._twice)], self._texts())
        self._mover = _ChunkMover(self._stream, self._config, self._noise)

    def part(self, clips: Sequence[int]) -> Generation:
        """Some of the clips, in this order, as a generation of their own; this one is as it was."""
        self._settle()
        other = copy(self)
        other._stream = self._stream.twin()
        other.keep(clips)
        return other

    def _settle(self) -> None:
        """The last chunk becomes the past, under the text that it was made with; then other text counts."""
        if self._made is not None:
            self._mover.commit(self._made, self.chunk - 1)
            self._made = None
        if self._controls_changed:
            self._stream.control(self._texts())
            self._controls_changed = False

    def _texts(self) -> Controls:
        return self._controls.cat(self._controls.unconditional()) if self._twice else self._controls


def generate(
    net: AVTransformer,
    controls: Controls,
    first_frame_BFCHW: Tensor | None,
    audio_like_BTC: tuple[int, int] | None,
    chunks: int,
    config: SamplerConfig,
    noise: PositionalNoise,
    past: Sequence[AV] = (),
) -> Iterator[AV]:
    """Yield the latents of chunk 0, 1, ... of B clips, each as soon as it is made.

    first_frame_BFCHW: the clean first latent [B, 1, C, H, W], or None to generate audio alone; audio_like_BTC: (B, C) of the audio
    latents, or None to generate video alone. past: clean chunks 0, 1, ... that are there already; the clip goes on after them, up to
    chunk `chunks`.

    Raises:
        ValueError: the first frame or the past is not finite, counts of clips differ, or latents are of another codec than the network's.
    """
    clips = Generation(net, controls, first_frame_BFCHW, audio_like_BTC, config, noise, past)
    while clips.chunk < chunks:
        yield clips.next_chunk()


def _check_given(controls: Controls, first_frame: Tensor | None, audio_like: tuple[int, int] | None, past: Sequence[AV]) -> None:
    given = [("first frame", first_frame), *((f"past chunk {k}, {name}", x) for k, clean in enumerate(past) for name, x in clean.items())]
    for what, latents in given:
        if latents is not None and not bool(latents.isfinite().all().cpu()):
            raise ValueError(f"{what}: its latents are not all finite; encode it again")
    texts = len(controls.words_time_BW2)
    for what, clips in (("first frame", None if first_frame is None else len(first_frame)), ("audio", audio_like and audio_like[0])):
        if clips not in (None, texts):
            raise ValueError(f"{what}: of {clips} clips, the controls are of {texts}; give each clip its own")


def _empty_chunk(net: AVTransformer, chunk: int, first_frame: Tensor | None, audio_like: tuple[int, int] | None) -> AV:
    t = net.timeline
    span = t.audio_slice(chunk)
    return AV(
        video=None if first_frame is None else first_frame.expand(-1, t.chunk_video, -1, -1, -1),
        audio=None if audio_like is None else torch.empty(audio_like[0], span.stop - span.start, audio_like[1]),
    )


def few_mode(objective: ObjectiveConfig, moves: int | None = None) -> SamplerConfig:
    """The few-step mode that an objective trains, with its own number of moves or another."""
    return SamplerConfig("few", moves or objective.few.moves, objective.few.sampler, path=objective.path)


@torch.no_grad()
def roll_out(
    net: AVTransformer,
    latents: AV,
    controls: Controls,
    layout: Layout,
    objective: ObjectiveConfig,
    noise: PositionalNoise,
    version: int,
) -> Rollout:
    """Few-step histories of B real clips under their own controls, with one exit state a chunk (method 5).

    A history's chunk starts from the real chunk noised to the clip's strength; with `history.source = real` the real chunk itself is the
    past. The exit state is reached from pure noise, because that is where inference starts. Both see the same past.
    """
    config, generated = few_mode(objective), objective.history.source == "generated"
    mover = _ChunkMover(net.start(controls, tuple(m for m, _ in latents.items())), config, noise)
    start_B, exit_BK = _branches(noise, layout, objective)
    grid = few_grid(config.moves)
    times = grid.tolist()
    history: list[AV] = []
    exits: list[AV] = []
    if latents.video is not None:
        mover.commit(chunk_latents(AV(video=latents.video), layout, FIRST_FRAME_CHUNK), FIRST_FRAME_CHUNK)
    for chunk in layout.chunk_range:
        real = chunk_latents(latents, layout, chunk)
        e = noise.normal_like(real, "chunk", chunk)
        if objective.w_dmd > 0:
            y, state = e, e
            for i in range(int(exit_BK[:, chunk].max())):
                state = mover.move(state, times[i], times[i + 1], chunk, i)
                y = _where(exit_BK[:, chunk] == i + 1, state, y)
            exits.append(y)
        x = real
        if generated:
            x = interpolate(real, e, _spread(shifted(grid[start_B][:, None].to(e.device), config.path, real), real))
            for i in range(int(start_B.min()), config.moves):
                x = _where(start_B <= i, mover.move(x, times[i], times[i + 1], chunk, i), x)
        history.append(x)
        if chunk != layout.chunk_range[-1]:
            mover.commit(x, chunk)
    made = _joined(history)
    if latents.video is not None and made.video is not None:
        made = AV(video=torch.cat([latents.video[:, :1], made.video], dim=1), audio=made.audio)
    return Rollout(made, _joined(exits) if exits else None, grid[exit_BK] if exits else None, ((version, version),) * made.batch)


def _joined(parts: list[AV]) -> AV:
    """Consecutive chunks as one clip."""
    return parts[0].map(lambda *x: torch.cat(x, dim=1), *parts[1:])


def _branches(noise: PositionalNoise, layout: Layout, objective: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Grid index where each clip's history starts [B], and the exit move of each chunk [B, K]."""
    moves, h = objective.few.moves, objective.history
    strength = h.strength_low + (h.strength_high - h.strength_low) * noise.uniform((), "strength")
    start = ((1 - strength) * moves).round().long().clamp(0, moves - 1)
    exit_move = (noise.uniform((layout.chunks,), "exit") * moves).long()
    if objective.few.sampler == "ode":
        last = noise.uniform((layout.chunks,), "exit-last") < objective.dmd.exit_last_share
        exit_move = torch.where(last, torch.full_like(exit_move, moves - 1), exit_move)
    return start.cpu(), exit_move.cpu()


def _where(keep_B: Tensor, new: AV, old: AV) -> AV:
    return new.map(lambda a, b: torch.where(keep_B.to(a.device).view(-1, *[1] * (a.dim() - 1)), a, b), old)
