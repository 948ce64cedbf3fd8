"""An imported Wan network is that network: with r = t it gives what Wan gives, against a reference written from Wan's equations."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from model_material import CLOCK, assert_near, controls, small_config
from torch import Tensor
from wan_material import TINY, TRUE_SHAPE, State, random_state, wan_forward

from mutual_forcing.model.pretrained import check, fill
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.model.types import AV, Controls
from mutual_forcing.model.wan import NEW, wan_shape

CLIPS, HEIGHT, WIDTH = 2, 4, 6
FIRST = CLOCK.video_latents(0)  # the first frame
CHUNK = CLOCK.chunk_video


class Held:
    """Tensors in memory as a source that notes what is read, and how many of them are alive at once."""

    def __init__(self, state: State) -> None:
        self.state, self.given, self.most = state, [], 0
        self._alive: list[weakref.ref[Tensor]] = []

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(x.shape) for name, x in self.state.items()}

    def read(self, name: str) -> Tensor:
        x = self.state[name].clone()
        self.given.append(name)
        self._alive = [*(r for r in self._alive if r() is not None), weakref.ref(x)]
        self.most = max(self.most, len(self._alive))
        return x


def imported(state: State, wan: dict = TINY, base: TransformerConfig | None = None, dtype: torch.dtype = torch.float64) -> AVTransformer:
    shape = wan_shape(wan)
    torch.manual_seed(1)
    net = AVTransformer(shape.adapted(base or small_config(), CLOCK), CLOCK).to(dtype)
    copies, source = shape.copies(), Held(state)
    check(copies, source.shapes)
    fill(net.branches["video"], copies, source)
    return net.eval()


def clip(frames: int, seed: int, wan: dict = TINY, dtype: torch.dtype = torch.float64, clips: int = CLIPS) -> Tensor:
    """Video latents [B, F, C, H, W]."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(clips, frames, wan["in_channels"], HEIGHT, WIDTH, generator=g, dtype=dtype)


def text(words: bool = False, clips: int = CLIPS, wan: dict = TINY, rows: int = 5, dtype: torch.dtype = torch.float64) -> Controls:
    """Captions as features, padded with zeros as Wan's are; transcripts only where asked for."""
    g = torch.Generator().manual_seed(9)
    features = torch.randn(clips, rows, wan["text_dim"], generator=g, dtype=dtype)
    features[-1, rows // 2 :] = 0
    made = replace(controls(clips), caption_features_BLE=features)
    return made.drop(torch.zeros(clips, dtype=torch.bool), torch.full((clips,), not words))


def wan_velocity(
    state: State, video: Tensor, t_BF: Tensor, c: Controls, wan: dict = TINY, place: Tensor | None = None, see: Tensor | None = None
) -> Tensor:
    features = c.caption_features_BLE
    assert features is not None
    return wan_forward(state, wan, video.transpose(1, 2), 1000 * t_BF, features, place, see).transpose(1, 2)


def positions(frames: int) -> Tensor:
    """Where our latents stand, counted in latents: the first frame spans one frame alone, so its middle is earlier than Wan's."""
    return torch.tensor(CLOCK.video_times(slice(0, frames)), dtype=torch.float64) * CLOCK.fps / CLOCK.video_stride


@torch.no_grad()
def first_chunk(net: AVTransformer, noisy: Tensor, t_B1: Tensor, r_B1: Tensor, c: Controls) -> Tensor:
    """Velocity of chunk 0 without any history."""
    return net.start(c, ("video",)).velocity(AV(noisy), AV(t_B1), AV(r_B1), 0).get("video")


# --- r = t is Wan -----------------------------------------------------------------------------------------------------------


def test_a_chunk_without_history_is_wans_text_to_video() -> None:
    """Every token sees every token, at Wan's own positions: relative ones are all that counts."""
    state = random_state(TINY)
    net, noisy, c = imported(state), clip(CHUNK, 2), text()
    t = torch.tensor([[0.437], [0.91]], dtype=torch.float64)
    expected = wan_velocity(state, noisy, t.expand(-1, CHUNK), c)
    assert expected.std() > 0.5
    assert_near(first_chunk(net, noisy, t, t, c), expected, atol=1e-10)


def test_a_chunk_after_the_first_frame_is_wans_image_to_video() -> None:
    """The first frame stands at time 0, as in Wan2.2's TI2V, and does not see what is made from it."""
    state, frames = random_state(TINY), FIRST + CHUNK
    net, clean, noisy, c = imported(state), clip(frames, 3), clip(CHUNK, 2), text()
    t = torch.tensor([[0.3], [0.85]], dtype=torch.float64)
    times = torch.cat([torch.zeros(CLIPS, FIRST, dtype=torch.float64), t.expand(-1, CHUNK)], dim=1)
    see = torch.ones(frames, frames, dtype=torch.bool)
    see[:FIRST, FIRST:] = False
    expected = wan_velocity(state, torch.cat([clean[:, :FIRST], noisy], 1), times, c, place=positions(frames), see=see)[:, FIRST:]
    with torch.no_grad():
        made = net(AV(noisy), AV(clean), AV(t), AV(t), c, Layout(CLOCK, 1)).get("video")
    assert_near(made, expected, atol=1e-10)


def test_later_chunks_are_wan_under_the_chunk_mask() -> None:
    """Wan over both copies of the clip, told by a mask who sees whom."""
    state, chunks = random_state(TINY, seed=4), 3
    frames = CLOCK.video_latents(chunks)
    net, clean, noisy, c = imported(state), clip(frames, 3), clip(frames - FIRST, 2), text()
    t = torch.tensor([[0.3, 0.6, 0.2], [0.9, 0.1, 0.5]], dtype=torch.float64)
    kept = frames - CHUNK  # nothing sees the context copy of the last chunk
    chunk = torch.tensor([-1] * FIRST + [k for k in range(chunks) for _ in range(CHUNK)])
    chunk, is_clean = torch.cat([chunk[:kept], chunk[FIRST:]]), torch.arange(kept + frames - FIRST) < kept
    see = torch.zeros(len(chunk), len(chunk), dtype=torch.bool)
    for q in range(len(chunk)):
        for k in range(len(chunk)):
            past = is_clean[k] and (chunk[k] < chunk[q] or (is_clean[q] and chunk[k] == chunk[q]))
            see[q, k] = past or (not is_clean[q] and not is_clean[k] and chunk[q] == chunk[k])
    times = torch.cat([torch.zeros(CLIPS, kept, dtype=torch.float64), t.repeat_interleave(CHUNK, 1)], dim=1)
    place = torch.cat([positions(frames)[:kept], positions(frames)[FIRST:]])
    expected = wan_velocity(state, torch.cat([clean[:, :kept], noisy], 1), times, c, place=place, see=see)[:, kept:]
    with torch.no_grad():
        made = net(AV(noisy), AV(clean), AV(t), AV(t), c, Layout(CLOCK, chunks)).get("video")
    assert_near(made, expected, atol=1e-10)


def test_a_dropped_caption_is_wans_padding() -> None:
    state = random_state(TINY)
    net, noisy, c = imported(state), clip(CHUNK, 2), text()
    t = torch.full((CLIPS, 1), 0.5, dtype=torch.float64)
    features = c.caption_features_BLE
    assert features is not None
    expected = wan_velocity(state, noisy, t.expand(-1, CHUNK), replace(c, caption_features_BLE=torch.zeros_like(features)))
    assert_near(first_chunk(net, noisy, t, t, c.unconditional()), expected, atol=1e-10)


def test_words_and_intervals_begin_without_influence() -> None:
    net, noisy = imported(random_state(TINY)), clip(CHUNK, 2)
    t = torch.tensor([[0.437], [0.91]], dtype=torch.float64)
    plain = first_chunk(net, noisy, t, t, text())
    assert torch.equal(first_chunk(net, noisy, t, t, text(words=True)), plain)
    for r in (torch.zeros_like(t), t - 0.25):
        assert torch.equal(first_chunk(net, noisy, t, r, text()), plain)


def test_what_the_interval_embedder_learns_leaves_r_equal_t_alone() -> None:
    net, noisy = imported(random_state(TINY)), clip(CHUNK, 2)
    t = torch.tensor([[0.437], [0.91]], dtype=torch.float64)
    plain = first_chunk(net, noisy, t, t, text())
    with torch.no_grad():
        for p in (p for name, p in net.named_parameters() if ".time.end." in name):
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(8))
    assert torch.equal(first_chunk(net, noisy, t, t, text()), plain)
    assert (first_chunk(net, noisy, t, t / 2, text()) - plain).abs().max() > 1e-3


@pytest.mark.slow
def test_at_the_true_shape_the_import_is_wan() -> None:
    """Two of the thirty layers of Wan2.2-TI2V-5B, fp32: outputs near 1 agree to 2e-5 (largest error; both round after every product)."""
    state = random_state(TRUE_SHAPE, torch.float32)
    base = replace(small_config(), audio_width=8)
    net = imported(state, TRUE_SHAPE, base, torch.float32)
    noisy, c = clip(CHUNK, 2, TRUE_SHAPE, torch.float32, clips=1), text(clips=1, wan=TRUE_SHAPE, rows=32, dtype=torch.float32)
    t = torch.tensor([[0.437]])
    with torch.no_grad():
        expected = wan_velocity(state, noisy, t.expand(-1, CHUNK), c, TRUE_SHAPE)
    made = first_chunk(net, noisy, t, t, c)
    assert expected.std() > 0.5
    print(f"\nlargest error {(made - expected).abs().max():.2e}, outputs' standard deviation {expected.std():.3f}")
    assert_near(made, expected, atol=2e-5)
    assert torch.equal(first_chunk(net, noisy, t, t / 2, c), made)


# --- nothing is left out, nothing left over ---------------------------------------------------------------------------------


def test_every_tensor_is_read_once_and_every_parameter_is_copied_or_new() -> None:
    shape, state = wan_shape(TINY), random_state(TINY)
    net, source = AVTransformer(shape.adapted(small_config(), CLOCK), CLOCK).double(), Held(state)
    before = {name: p.detach().clone() for name, p in net.branches["video"].named_parameters()}
    fill(net.branches["video"], shape.copies(), source)
    assert sorted(source.given) == sorted(state)
    targets = [copy.target for copy in shape.copies()]
    assert len(targets) == len(set(targets))
    for name, p in net.branches["video"].named_parameters():
        assert (name in targets) != any(part in name if part.startswith(".") else name.startswith(part) for part in NEW), name
        assert torch.equal(p, before[name]) == (name not in targets), name
    assert source.most <= 3, "queries, keys and values of one projection, and no more, are in memory at once"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blocks.1.attn2.norm_k.weight"), r"lacks tensor 'blocks\.1\.attn2\.norm_k\.weight'"),
        (lambda s: [s.pop(n) for n in [*s] if n.startswith("blocks.1.")], r"lacks \d+ tensors, 'blocks\.1\.attn1"),
        (lambda s: s.update({"blocks.2.x": torch.zeros(1)}), r"holds tensor 'blocks\.2\.x', which nothing here takes"),
        (lambda s: s.update({"proj_out.bias": torch.zeros(13)}), r"'proj_out\.bias' is \[13\], this network needs \[12\]"),
    ],
    ids=["missing", "a layer missing", "extra", "shape"],
)
def test_a_source_with_other_tensors_is_refused(change, words: str) -> None:
    state = random_state(TINY)
    change(state)
    with pytest.raises(ValueError, match=words):
        check(wan_shape(TINY).copies(), Held(state).shapes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_by_its_tensor(value: float) -> None:
    state = random_state(TINY)
    state["blocks.1.attn1.to_k.weight"][3, 4] = value
    with pytest.raises(ValueError, match=r"blocks\.1\.attn1\.to_k\.weight.*not all values are finite"):
        imported(state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "WanVACETransformer3DModel"}, "_class_name='WanVACE"),
        ({"image_dim": 1280}, "image_dim=1280"),
        ({"added_kv_proj_dim": 48}, "added_kv_proj_dim=48"),
        ({"cross_attn_norm": False}, "cross_attn_norm=False"),
        ({"qk_norm": "rms_norm"}, "qk_norm='rms_norm'"),
        ({"out_channels": 4}, "out_channels=4"),
        ({"in_channels": 36, "out_channels": 16}, "out_channels=16"),
        ({"patch_size": [2, 2, 2]}, "patch_size="),
        ({"patch_size": [1, 2, 4]}, "patch_size="),
        ({"patch_size": "abc"}, "patch_size="),
        ({"num_layers": 0}, "num_layers=0"),
        ({"num_layers": "30"}, "num_layers='30'"),
        ({"num_layers": True}, "num_layers=True"),
        ({"attention_head_dim": 16}, "attention_head_dim=16"),
        ({"attention_head_dim": 20}, "attention_head_dim=20"),
        ({"freq_dim": 21}, "freq_dim=21"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"eps": 10**400}, "eps=1"),
        ({"eps": None}, "eps=None"),
        ({"vace_layers": [0, 1]}, "vace_layers is no field"),
    ],
)
def test_another_network_is_refused_by_the_field_that_differs(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        wan_shape(TINY | change)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [None, [], "x", {}])
def test_what_is_no_config_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="_class_name=None"):
        wan_shape(content)


def test_the_settings_of_the_published_network() -> None:
    """Wan2.2-TI2V-5B at 24 frames/s: time has 22 of the 64 rotary pairs, its wavelengths are 2 pi latents of 1/6 s and longer."""
    config = wan_shape(TRUE_SHAPE | {"num_layers": 30}).adapted(TransformerConfig(), CLOCK)
    assert (config.depth, config.video_width, config.heads, config.head_dim, config.patch) == (30, 3072, 24, 128, 2)
    assert (config.video_channels, config.video.ffn_width, config.video.caption_features) == (48, 14336, 4096)
    assert config.rope.time_share == 22 / 64
    assert config.rope.time_wavelengths == pytest.approx((2 * torch.pi / 6, 2 * torch.pi / 6 * 10_000 ** (21 / 22)))
    assert config.rope.space_wavelengths == pytest.approx((2 * torch.pi, 2 * torch.pi * 10_000 ** (20 / 21)))
    with torch.device("meta"):
        net = AVTransformer(config, CLOCK)
    copied = {copy.target for copy in wan_shape(TRUE_SHAPE | {"num_layers": 30}).copies()}
    assert copied <= {name for name, _ in net.branches["video"].named_parameters()}
