"""Features that nobody trained: the same everywhere, one for every half second, and they tell clips of one kind from another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_material import character, clip, moving, noise

from mutual_forcing.model.timeline import Timeline
from mutual_forcing.model.types import AV
from mutual_forcing.workers.evaluation.clip import EvalClip, NotApplicable
from mutual_forcing.workers.evaluation.latent_features import LatentFeatures
from mutual_forcing.workers.evaluation.random_features import VIEWS, RandomFeatures, View, projection

CLOCK = Timeline()


def stacked(metric: RandomFeatures, clips: list[EvalClip]) -> np.ndarray:
    return np.concatenate([metric.features(c) for c in clips])


@pytest.mark.parametrize("view", VIEWS)
def test_one_vector_for_every_half_second(view: View) -> None:
    metric = RandomFeatures(view)
    features = metric.features(character(0))
    assert features.shape == (10, 32)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(metric.features(character(0).cut(2.0, 3.0)), features[4:6], atol=1e-5)


def test_weights_are_the_same_everywhere() -> None:
    """The first numbers of NumPy's PCG64 at these seeds: another generator, or another order of drawing, would change every figure."""
    np.testing.assert_allclose(projection(4)[0, :3].numpy(), [0.08908163, 0.26919973, -0.08211223], rtol=1e-5)
    assert projection(4) is projection(4)


@pytest.mark.parametrize(
    ("view", "spoil", "seen"),
    [
        ("video", lambda c: replace(c, frames=c.frames // 2), True),
        ("video", lambda c: replace(c, frames=c.frames[:, ::4, ::4].repeat(4, 1).repeat(4, 2)), True),
        ("video", lambda c: replace(c, frames=c.frames ^ np.uint8(16)), True),
        ("video", lambda c: replace(c, samples=c.samples[::-1].copy()), False),
        ("audio", lambda c: replace(c, samples=c.samples * 0.05), True),
        ("audio", lambda c: replace(c, samples=noise(5.2, 1)), True),
        ("audio", lambda c: replace(c, frames=c.frames // 2), False),
        ("joint", lambda c: replace(c, frames=c.frames // 2), True),
        ("joint", lambda c: replace(c, samples=noise(5.2, 1)), True),
    ],
)
def test_what_spoils_a_clip_stands_far_above_other_real_clips(view: View, spoil, seen: bool) -> None:
    metric = RandomFeatures(view)
    reference, real = (stacked(metric, [character(i) for i in some]) for some in (range(8), range(8, 16)))
    spoiled = stacked(metric, [spoil(character(i)) for i in range(8, 16)])
    name = metric.about[0].name
    floor, found = (metric.between(reference, x)[name] for x in (real, spoiled))
    assert (found > 1.5 * floor) if seen else found == pytest.approx(floor, rel=1e-5)


def test_what_is_not_there_has_no_features() -> None:
    picture, short = clip(moving(60)), clip(moving(11))
    cases: list[tuple[View, EvalClip]] = [("video", clip(samples=noise(2))), ("audio", picture), ("joint", picture), ("video", short)]
    for view, bad in cases:
        with pytest.raises(NotApplicable, match=r"less than 0\.5 s"):
            RandomFeatures(view).features(bad)


def latent_clip(seed: int, chunks: int = 4) -> EvalClip:
    g = torch.Generator().manual_seed(seed)
    video = torch.randn(1, CLOCK.video_latents(chunks), 3, 4, 4, generator=g)
    latents = AV(video, torch.randn(1, CLOCK.audio_latents(chunks), 5, generator=g))
    media = (moving(CLOCK.frames(chunks)), noise(CLOCK.seconds(chunks)))
    return EvalClip.of(str(seed), media, CLOCK, chunks, latents=latents)


@pytest.mark.parametrize("view", VIEWS)
def test_latents_of_the_chunks_of_a_window(view: View) -> None:
    metric = LatentFeatures(view)
    features = metric.features(latent_clip(0))
    assert features.shape == (4, 32)
    np.testing.assert_array_equal(metric.features(latent_clip(0).cut(1.0, 2.0)), features[2:4])
    real, other = (np.concatenate([metric.features(latent_clip(s)) for s in some]) for some in (range(20), range(20, 40)))
    figures = metric.between(real, other)
    assert figures[metric.about[0].name] < 0.6 < metric.between(real, 3 * other)[metric.about[0].name]


def test_latents_of_one_modality_have_no_joint_features() -> None:
    one = latent_clip(0)
    assert one.latents is not None
    alone = replace(one, latents=AV(video=one.latents.video))
    missing: tuple[View, ...] = ("audio", "joint")
    for view in missing:
        with pytest.raises(NotApplicable, match="its latents have no"):
            LatentFeatures(view).features(alone)
    with pytest.raises(NotApplicable, match="no chunk's latents"):
        LatentFeatures("video").features(replace(one, latents=None))
    with pytest.raises(NotApplicable, match="no chunk is"):
        LatentFeatures("video").features(one.cut(0.0, 0.2))
