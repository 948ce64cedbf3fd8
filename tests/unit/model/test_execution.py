"""Ways of computing the network: two masks, plans that are kept, layers recomputed or compiled, every precision; and its gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from model_material import (
    CHANNELS,
    CLOCK,
    FOREIGN,
    assert_near,
    assert_same,
    clip_noise,
    controls,
    flexed,
    foreign,
    latents,
    network,
    one_by_one,
    parallel,
    small_config,
    times,
    with_features,
)
from torch.func import functional_call

from mutual_forcing.model.blocks import modulated
from mutual_forcing.model.execution import VARIANTS, ExecutionConfig
from mutual_forcing.model.plan import before_last
from mutual_forcing.model.sampler import SamplerConfig, generate
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import AV, MODALITIES, future

# --- three back-ends, one mask --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", [MODALITIES, ("video",), ("audio",)], ids="+".join)
@pytest.mark.parametrize("window", [1, 8])
def test_flex_attention_equals_the_dense_mask(window: int, present: tuple[str, ...]) -> None:
    """The parallel forward and a reading; window 1 has copies of the sink."""
    layout, net = Layout(CLOCK, 5), network(small_config(window))
    other, context, noisy = flexed(net), latents(5).only(present), future(latents(5, seed=2)).only(present)
    assert_same(parallel(other, noisy, context, controls(), layout), parallel(net, noisy, context, controls(), layout))
    t, r = times(layout.chunks, noisy)
    assert_same(other.read(context, controls(), layout)(noisy, t, r), parallel(net, noisy, context, controls(), layout))


def test_flex_attention_is_not_trained_on_a_cpu() -> None:
    net, layout = flexed(network()), Layout(CLOCK, 2)
    t, r = times(2, latents(2))
    with pytest.raises(ValueError, match=r"execution\.attention='flex'.*set execution\.attention=dense"):
        net(future(latents(2)), latents(2), t, r, controls(), layout)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the backward of FlexAttention needs a GPU")
def test_gradients_through_flex_attention_equal_the_dense_ones() -> None:
    layout, net = Layout(CLOCK, 5), network(small_config(window=2), dtype=torch.float32).to("cuda")
    other, context, noisy = flexed(net).to("cuda"), latents(5, dtype=torch.float32).to("cuda"), future(latents(5, seed=2)).to("cuda")
    t, r = (x.to("cuda") for x in times(layout.chunks, noisy))
    for both in (net, other):
        u = both(noisy.map(torch.Tensor.float), context, t, r, controls().to("cuda"), layout)
        torch.stack([x.square().mean() for _, x in u.items()]).sum().backward()
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad is not None:
            assert_near(q.grad, p.grad, atol=1e-4 * float(p.grad.abs().max() + 1e-6))


def test_a_plan_serves_every_batch_of_its_shape_and_no_other() -> None:
    """Plans are kept by shape: two shapes in turn, then the first again, give what new networks give."""
    net = network(small_config(window=1))
    for chunks in (3, 5, 3):
        layout, noisy, context = Layout(CLOCK, chunks), future(latents(chunks, seed=chunks)), latents(chunks)
        fresh = parallel(network(small_config(window=1)), noisy, context, controls(), layout)
        assert_same(parallel(net, noisy, context, controls(), layout), fresh)
    video = latents(3).only(("video",))
    alone = parallel(net, future(video), video, controls(), Layout(CLOCK, 3))
    assert_same(alone, parallel(network(small_config(window=1)), future(video), video, controls(), Layout(CLOCK, 3)))


# --- gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 8])
def test_gradients_of_the_joint_attention_are_those_of_finite_differences(window: int) -> None:
    """One layer of both branches under the mask: by every weight and every latent, along a random direction."""
    layout, net = Layout(CLOCK, 3), network(replace(small_config(window), depth=1))
    noisy, context = future(latents(3, seed=2)), latents(3)
    t, r = times(3, noisy)
    inputs = {f"{kind} {name}": x for kind, av in (("noisy", noisy), ("context", context)) for name, x in av.items()}
    weights = {name: p.detach() for name, p in net.named_parameters()}
    g = torch.Generator().manual_seed(0)
    mix = noisy.map(lambda x: torch.randn(x.shape, generator=g, dtype=x.dtype))

    def mixed(changed: dict[str, torch.Tensor]) -> torch.Tensor:
        at = inputs | changed
        clips = [AV(at[f"{kind} video"], at[f"{kind} audio"]) for kind in ("noisy", "context")]
        made = functional_call(net, weights | {k: x for k, x in changed.items() if k in weights}, (*clips, t, r, controls(), layout))
        return torch.stack([(x * mix.get(name)).sum() for name, x in made.items()]).sum()

    for name, x in (weights | inputs).items():
        if name.endswith("words.byte.weight"):
            continue  # the byte of padding has no gradient by intention
        way, step = torch.randn(x.shape, generator=g, dtype=x.dtype), 1e-6
        tracked = x.clone().requires_grad_(True)
        (found,) = torch.autograd.grad(mixed({name: tracked}), tracked, allow_unused=True)
        slope = 0.0 if found is None else float((found * way).sum())
        with torch.no_grad():
            difference = float(mixed({name: x + step * way}) - mixed({name: x - step * way})) / (2 * step)
        assert slope == pytest.approx(difference, rel=1e-5, abs=1e-5), name


# --- how the network is computed changes nothing --------------------------------------------------------------------------


def gradients(net: AVTransformer, layout: Layout) -> tuple[list[torch.Tensor | None], int]:
    """Of a loss by every parameter, and the bytes that the forward kept for the backward."""
    noisy, context = future(latents(layout.chunks, seed=2)), latents(layout.chunks)
    t, r = times(layout.chunks, noisy)
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        u = net(noisy, context, t, r, controls(), layout)
        loss = torch.stack([x.square().mean() for _, x in u.items()]).sum()
    return list(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)), sum(kept.values())


@pytest.mark.parametrize(("every", "share"), [(1, 0.55), (2, 0.85)])
def test_recomputed_layers_give_the_same_gradients_from_fewer_bytes(every: int, share: float) -> None:
    layout, config = Layout(CLOCK, 4), replace(small_config(), depth=4)
    plain, other = network(config), AVTransformer(config, CLOCK, ExecutionConfig(checkpoint_every=every)).double()
    other.load_state_dict(plain.state_dict())
    (want, all_bytes), (found, fewer) = gradients(plain, layout), gradients(other, layout)
    for a, b in zip(found, want, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.equal(a, b)
    assert fewer < share * all_bytes, (fewer, all_bytes)


@pytest.mark.slow
def test_compiled_blocks_are_the_blocks() -> None:
    """Forward, backward and streaming, whose chunks have changing numbers of latents."""
    layout, plain = Layout(CLOCK, 4), network(small_config(window=2))
    other = AVTransformer(plain.config, CLOCK, ExecutionConfig(compile=True)).double()
    other.load_state_dict(plain.state_dict())
    for a, b in zip(gradients(other, layout)[0], gradients(plain, layout)[0], strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert_near(a, b, atol=1e-9)
    noisy, context = future(latents(4, seed=2)), latents(4)
    assert_same(one_by_one(other, noisy, context, controls(), layout)[0], parallel(plain, noisy, context, controls(), layout))


@pytest.mark.parametrize("bad", [{"attention": "fast"}, {"checkpoint_every": -1}])
def test_impossible_execution_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=rf"execution\.{next(iter(bad))}="):
        ExecutionConfig(**bad)


# --- precision ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("pretrained", [False, True], ids=["own", "as pretrained"])
def test_the_three_ways_agree_in_every_precision(dtype: torch.dtype, limit: float, pretrained: bool) -> None:
    """The parity table: root mean square error of cached, read and flex over that of the dense forward; states are fp32 or wider."""
    layout, net = Layout(CLOCK, 5), network(foreign(2, FOREIGN) if pretrained else small_config(window=2), dtype=dtype)
    text = with_features(controls()) if pretrained else controls()
    wide = torch.promote_types(dtype, torch.float32)
    noisy, context = (x.map(lambda y: y.to(wide)) for x in (future(latents(5, seed=2)), latents(5)))
    t, r = times(5, noisy)
    want = parallel(net, noisy, context, text, layout)
    ways = {
        "cached": one_by_one(net, noisy, context, text, layout)[0],
        "read": net.read(context, text, layout)(noisy, t, r),
        "flex": parallel(flexed(net), noisy, context, text, layout),
    }
    for way, made in ways.items():
        for name, x in made.items():
            assert x.dtype == wide
            error = float(((x - want.get(name)).square().mean() / want.get(name).square().mean()).sqrt())
            assert error < limit, f"{way}, {name}: {error:.2g}"


def test_what_needs_fp32_has_it_under_bf16_weights() -> None:
    """Angles of the rotations, features of a time, statistics of norms: each is that of fp32, where bf16 would be far off."""
    net = network(dtype=torch.bfloat16)
    layout = Layout(CLOCK, 2)
    plan = net.planner.both(before_last(latents(2), layout), future(latents(2)), layout, next(net.parameters()))
    assert plan.turn.cos.dtype == torch.float32
    branch = net._branch("video")
    t = torch.tensor([[0.5001, 0.5002]])
    features = branch.time(t, t)
    wide = copy.deepcopy(branch.time).float()
    assert features.dtype == torch.float32
    assert_near(features, wide(t, t), atol=1e-6)
    assert (features[:, 0] - features[:, 1]).abs().max() > 1e-3, "bf16 knows no time between 0.5 and 0.504"
    x = (300.0 + torch.randn(1, 64, 16, generator=torch.Generator().manual_seed(0))).bfloat16()
    normed = modulated(x, torch.zeros(()), torch.zeros(()))
    assert_near(normed, torch.nn.functional.layer_norm(x.float(), (16,)).bfloat16())


class Compilations:
    """A back-end of torch.compile that counts what it is given and runs it as it is."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        self.count += 1
        return graph.forward


@pytest.mark.slow
def test_every_form_that_a_stream_takes_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches of two widths, one clip and two, in both modes, from the first frame until the transcript is over: beyond its limit
    PyTorch would go on uncompiled, with a warning that nobody reads.
    """
    torch.compiler.reset()
    counted = Compilations()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counted))
    net = AVTransformer(small_config(window=2), CLOCK, ExecutionConfig(compile=True)).eval()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for clips in (1, 2):
            first = latents(1, clips, dtype=torch.float32).get("video")[:, :1]
            for config in (SamplerConfig("few", 2), SamplerConfig("multi", 2, guidance=3.0)):
                made = list(generate(net, controls(clips), first, (clips, CHANNELS["audio"]), 8, config, clip_noise(clips)))
                assert len(made) == 8
        compiled = counted.count
        assert 4 <= compiled <= VARIANTS
        list(generate(net, controls(2), first, (2, CHANNELS["audio"]), 8, config, clip_noise(2)))
        assert counted.count == compiled, "what was compiled once is used again"
    torch.compiler.reset()
