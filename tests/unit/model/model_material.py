"""Small networks, clips and texts for the tests of the mathematics: random weights everywhere, so that nothing is zero by chance."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.testing import assert_close

from mutual_forcing.model.blocks import BranchConfig
from mutual_forcing.model.execution import ExecutionConfig
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.sampler import chunk_latents
from mutual_forcing.model.stream import Stream
from mutual_forcing.model.text import TextConfig, Word, make_controls
from mutual_forcing.model.timeline import FIRST_FRAME_CHUNK, Layout, Timeline
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.model.types import AV, AVBatch, Controls

CLOCK = Timeline(fps=24, video_stride=4, sample_rate=16000, audio_hop=1024, chunk_frames=12)  # 7 or 8 audio latents a chunk
CHANNELS = {"video": 3, "audio": 5}
TEXT = TextConfig(max_caption_words=3, max_words=6, max_bytes=6)
FEATURES = 6
FOREIGN = BranchConfig("all", 1e-6, 20, 40, "table", "velocity", FEATURES)


class LateTimeline(Timeline):
    """The same clock with all timestamps seven seconds later; chunks keep their numbers."""

    def video_times(self, latents: slice) -> list[float]:
        return [t + 7.0 for t in super().video_times(latents)]

    def audio_times(self, latents: slice) -> list[float]:
        return [t + 7.0 for t in super().audio_times(latents)]


def assert_near(actual: Tensor | AV, expected: Tensor | AV, atol: float = 0.0, rtol: float = 0.0) -> None:
    """Equal to a tolerance: one tensor, or the same modalities of two records. Dtypes may differ."""
    if isinstance(actual, Tensor):
        assert_close(actual, expected, atol=atol, rtol=rtol, check_dtype=False)
        return
    assert isinstance(expected, AV)
    assert [m for m, _ in actual.items()] == [m for m, _ in expected.items()]
    for m, x in actual.items():
        assert_close(x, expected.get(m), atol=atol, rtol=rtol, check_dtype=False, msg=lambda text, m=m: f"{m}: {text}")


def rows_of(text: Controls, rows: list[int]) -> Controls:
    """The controls of some clips, in this order, repeated at will."""
    return Controls(
        text.caption_BWL[rows], text.caption_mask_BW[rows], text.words_BWL[rows], text.words_mask_BW[rows], text.words_time_BW2[rows]
    )


def small_config(window: int = 8, lookahead: float = 0.3) -> TransformerConfig:
    return TransformerConfig(
        video_channels=CHANNELS["video"],
        audio_channels=CHANNELS["audio"],
        video_width=16,
        audio_width=24,
        depth=2,
        heads=2,
        head_dim=16,
        ffn_ratio=2,
        window=window,
        word_lookahead_s=lookahead,
        text=TEXT,
    )


def network(
    config: TransformerConfig | None = None, clock: Timeline = CLOCK, dtype: torch.dtype = torch.float64, seed: int = 0
) -> AVTransformer:
    """A network whose every weight is drawn at random, the zero-initialised ones too."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = AVTransformer(config or small_config(), clock)
        for p in net.parameters():
            p += 0.3 * torch.randn(p.shape)
    return net.to(dtype).eval()


def foreign(window: int = 8, audio: BranchConfig | None = None, lookahead: float = 0.3) -> TransformerConfig:
    """The video branch does everything as a pretrained network does it; the audio branch nothing, or what is given."""
    return replace(small_config(window, lookahead), video=FOREIGN, audio=audio or BranchConfig())


def with_features(text: Controls, seed: int = 5) -> Controls:
    """The same text, with caption features as `FOREIGN` takes them."""
    g = torch.Generator().manual_seed(seed)
    return replace(text, caption_features_BLE=torch.randn(text.caption_BWL.shape[0], 5, FEATURES, generator=g, dtype=torch.float64))


def latents(chunks: int, batch: int = 2, seed: int = 1, dtype: torch.dtype = torch.float64, clock: Timeline = CLOCK) -> AV:
    """Random clean latents of clips that begin with chunk 0; video latent 0 is the first frame."""
    g = torch.Generator().manual_seed(seed)
    return AV(
        video=torch.randn(batch, clock.video_latents(chunks), CHANNELS["video"], 4, 4, generator=g, dtype=dtype),
        audio=torch.randn(batch, clock.audio_latents(chunks), CHANNELS["audio"], generator=g, dtype=dtype),
    )


def controls(batch: int = 2, offset: float = 0.0) -> Controls:
    """Captions and transcripts of up to two clips; every word moved by `offset` seconds (times in fp64)."""
    captions = ["a calm voice", "an old man"][:batch]
    spoken = [
        [("hello", 0.05, 0.3), ("big", 0.6, 0.9), ("world", 1.2, 1.6)],
        [("so", 0.2, 0.4), ("it", 0.7, 0.75), ("is", 1.1, 1.3), ("said", 1.9, 2.4)],
    ][:batch]
    made = make_controls(captions, [[Word(*word) for word in words] for words in spoken], TEXT)
    exact = torch.zeros(*made.words_mask_BW.shape, 2, dtype=torch.float64)
    for b, words in enumerate(spoken):
        for i, (_, start, end) in enumerate(words):
            exact[b, i] = torch.tensor([start + offset, end + offset], dtype=torch.float64)
    return Controls(made.caption_BWL, made.caption_mask_BW, made.words_BWL, made.words_mask_BW, exact)


def clip_batch(chunks: int = 3, batch: int = 2, dtype: torch.dtype = torch.float64) -> AVBatch:
    ids = tuple(f"clip-{i}" for i in range(batch))
    return AVBatch(latents(chunks, batch, dtype=dtype), controls(batch), Layout(CLOCK, chunks), tuple(range(batch)), ids)


def clip_noise(batch: int = 2, stage: str = "test") -> PositionalNoise:
    return PositionalNoise([(7, stage, position) for position in range(batch)])


def times(chunks: int, like: AV, seed: int = 3) -> tuple[AV, AV]:
    """Times (t, r) [B, K] of each modality; the first clip is in MULTI mode (r = t), the others in FEW mode."""
    g = torch.Generator().manual_seed(seed)
    t = 0.1 + 0.8 * torch.rand(like.batch, chunks, generator=g, dtype=torch.float64)
    r = t * torch.rand(like.batch, chunks, generator=g, dtype=torch.float64)
    r[0] = t[0]
    return like.map(lambda _: t), like.map(lambda _: r)


def flexed(net: AVTransformer) -> AVTransformer:
    """The same weights under the other back-end of the parallel passes."""
    other = AVTransformer(net.config, net.timeline, ExecutionConfig(attention="flex")).to(next(net.parameters()).dtype).eval()
    other.load_state_dict(net.state_dict())
    return other


def parallel(net: AVTransformer, noisy: AV, context: AV, text: Controls, layout: Layout) -> AV:
    t, r = times(layout.chunks, noisy)
    with torch.no_grad():
        return net(noisy, context, t, r, text, layout)


def one_by_one(net: AVTransformer, noisy: AV, context: AV, text: Controls, layout: Layout) -> tuple[AV, Stream]:
    """The same velocities, chunk by chunk with the cache."""
    t, r = times(layout.chunks, noisy)
    present = tuple(name for name, _ in noisy.items())
    padded = AV(video=None if noisy.video is None else torch.cat([context.get("video")[:, :1], noisy.video], dim=1), audio=noisy.audio)
    made = []
    with torch.no_grad():
        stream = net.start(text, present)
        if noisy.video is not None:
            stream.commit(chunk_latents(AV(video=context.video), layout, FIRST_FRAME_CHUNK), FIRST_FRAME_CHUNK)
        for k in layout.chunk_range:
            at = slice(k, k + 1)
            now = [x.map(lambda y, at=at: y[:, at]) for x in (t, r)]
            made.append(stream.velocity(chunk_latents(padded, layout, k), now[0], now[1], k))
            stream.commit(chunk_latents(context, layout, k), k)
    return made[0].map(lambda *parts: torch.cat(parts, dim=1), *made[1:]), stream


def assert_same(a: AV, b: AV) -> None:
    assert_near(a, b, atol=1e-9)
