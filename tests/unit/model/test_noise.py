"""Randomness from position: the clip decides what is drawn, never its batch, its place there, or the order of the draws."""

from __future__ import annotations

import math
import subprocess
import sys

import torch
from hypothesis import given
from hypothesis import strategies as st
from model_material import latents

from mutual_forcing.model.noise import PositionalNoise, position_seed

positions = st.lists(st.integers(0, 10_000), min_size=1, max_size=6, unique=True)


def noise_of(*numbers: int) -> PositionalNoise:
    return PositionalNoise([(3, "mutual", number) for number in numbers])


@given(positions)
def test_a_clip_draws_the_same_in_any_batch(numbers: list[int]) -> None:
    together = noise_of(*numbers)
    normal, uniform = together.normal((4, 2), "a", 1), together.uniform((3,), "a", 1)
    for row, number in enumerate(numbers):
        alone = noise_of(number)
        assert torch.equal(alone.normal((4, 2), "a", 1)[0], normal[row])
        assert torch.equal(alone.uniform((3,), "a", 1)[0], uniform[row])
    back = noise_of(*reversed(numbers))
    assert torch.equal(back.normal((4, 2), "a", 1).flip(0), normal)


def test_a_draw_does_not_depend_on_earlier_draws() -> None:
    fresh, used = noise_of(1, 2), noise_of(1, 2)
    for k in range(5):
        used.normal((7,), "other", k)
    assert torch.equal(fresh.normal((7,), "x"), used.normal((7,), "x"))
    assert torch.equal(used.normal((7,), "x"), used.normal((7,), "x")), "asking again gives the same"


def test_clips_tags_and_modalities_are_drawn_apart() -> None:
    draws = [noise_of(*ps).normal((64,), *tag)[0] for ps in ((1,), (2,)) for tag in (("a",), ("b",), ("a", 0), ("a", 1))]
    both = noise_of(1).normal_like(latents(1, batch=1), "a")
    draws += [both.get("video").flatten()[:64], both.get("audio").flatten()[:35].repeat(2)[:64]]
    for i, x in enumerate(draws):
        for y in draws[:i]:
            assert abs(torch.corrcoef(torch.stack([x.double(), y.double()]))[0, 1]) < 0.6
            assert not torch.equal(x, y)


def test_normal_like_takes_shape_and_dtype() -> None:
    like = latents(2)
    drawn = noise_of(4, 5).normal_like(like, "e")
    for name, x in drawn.items():
        assert x.shape == like.get(name).shape
        assert x.dtype == like.get(name).dtype
    audio = noise_of(4, 5).normal_like(like.only(("audio",)), "e")
    assert audio.video is None
    assert torch.equal(audio.get("audio"), drawn.get("audio")), "a modality draws the same without the other"


def test_the_moments_are_those_of_the_laws() -> None:
    count = 20_000
    z, u = noise_of(9).normal((count,), "z")[0], noise_of(9).uniform((count,), "u")[0]
    assert abs(z.mean()) < 4 / math.sqrt(count)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / count)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * math.sqrt(1 / 12 / count)


@given(st.lists(st.one_of(st.integers(-(10**9), 10**9), st.text(max_size=5)), min_size=1, max_size=4))
def test_seeds_fit_a_generator_and_tell_integers_from_strings(key: list[int | str]) -> None:
    seed = position_seed(*key)
    assert 0 <= seed < 2**63
    torch.Generator().manual_seed(seed)
    other = [str(k) if isinstance(k, int) else k + "x" for k in key]
    assert position_seed(*other) != seed
    assert position_seed(*key, 0) != seed


def test_another_process_draws_the_same() -> None:
    """Python salts its own hashes for each process; the seeds must not."""
    code = (
        "from mutual_forcing.model.noise import PositionalNoise, position_seed\n"
        "x = PositionalNoise([(3, 'mutual', 8)]).normal((3,), 'a')\n"
        "print(position_seed(3, 'mutual', 8, 'a'), x.tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == f"{position_seed(3, 'mutual', 8, 'a')} {noise_of(8).normal((3,), 'a').tolist()}"
