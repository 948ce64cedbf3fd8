"""Painting: exact areas, no clipped edges, frames independent of their neighbours, the same picture at every size."""

from dataclasses import replace

import numpy as np
import pytest

from mutual_forcing.datasets.drawn.canvas import Canvas, ellipse, rounded_box
from mutual_forcing.datasets.drawn.characters import Motion, describe, draw_identity, move
from mutual_forcing.datasets.drawn.portrait import paint_portrait
from mutual_forcing.datasets.drawn.voice import Articulation, Voice, articulate, plan_speech

WHITE = (1.0, 1.0, 1.0)
BLACK_64 = np.zeros((3, 64, 64), np.float32)


def scene(seed: int, frames: int):
    """An identity with its motion and articulation."""
    rng = np.random.default_rng(seed)
    who, times = draw_identity(rng), np.arange(frames) / 24
    said = articulate(plan_speech(rng, Voice(), max(2.0, frames / 24)), times)
    return who, move(rng, who, said, times), said


@pytest.mark.parametrize("roll", [0.0, 0.4])
def test_painted_area_is_the_shapes_area(roll):
    canvas = Canvas(BLACK_64, 1)
    canvas.place(np.array([0.1]), np.array([-0.07]), np.array([roll]))
    canvas.paint((-0.5, 0.5, -0.3, 0.3), lambda x, y: ellipse(x, y, 0.5, 0.3), WHITE)
    assert canvas.image[0].sum() / 32**2 == pytest.approx(np.pi * 0.5 * 0.3, rel=0.01)


def test_rounded_box_is_a_circle_when_its_corners_are():
    x, y = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41))
    np.testing.assert_allclose(rounded_box(x, y, 0.4, 0.4, 0.4), np.hypot(x, y) - 0.4, atol=1e-12)
    np.testing.assert_allclose(ellipse(x, y, 0.4, 0.4), np.hypot(x, y) - 0.4, atol=2e-4)


def test_colour_and_opacity_blend():
    canvas = Canvas(np.full((3, 8, 8), 0.5, np.float32), 2)
    canvas.paint((-2, 2, -2, 2), lambda x, y: np.full_like(x, -9.0), (1.0, 0.0, 0.5), 0.5)
    assert canvas.frames().reshape(-1, 3).tolist() == [[191, 64, 128]] * 128


@pytest.mark.parametrize("seed", range(6))
def test_a_frame_does_not_depend_on_the_frames_painted_with_it(seed):
    who, motion, said = scene(seed, 40)
    together = paint_portrait(who, motion, said, 64, 64)
    for index in (0, 17, 39):
        moved, spoken = Motion(*(t[[index]] for t in vars(motion).values())), Articulation(*(t[[index]] for t in vars(said).values()))
        alone = paint_portrait(who, moved, spoken, 64, 64)
        np.testing.assert_allclose(alone[0].astype(int), together[index], atol=1)


@pytest.mark.parametrize("seed", range(6))
def test_the_same_picture_at_every_size(seed):
    who, motion, said = scene(seed, 8)
    small = paint_portrait(who, motion, said, 64, 64).astype(float)
    large = paint_portrait(who, motion, said, 256, 256).reshape(8, 64, 4, 64, 4, 3).mean((2, 4))
    assert np.abs(small - large).mean() < 1.5


def test_every_caption_word_shows_in_the_picture():
    """Changing one named attribute changes the picture, and the caption."""
    who, motion, said = scene(4, 2)
    who = replace(who, hair_style="short")
    before, words = paint_portrait(who, motion, said, 64, 64), describe(who)
    changes = {"skin": ("fair", "dark"), "hair": ("red", "black"), "hair_style": ("long", "bald"), "eyes": ("blue", "brown")}
    changes |= {"shirt": ("red", "navy"), "background": ("teal", "pink"), "glasses": (True, False)}
    for name, (one, two) in changes.items():
        value = two if vars(who)[name] == one else one
        other = replace(who, **{name: value})
        assert np.abs(paint_portrait(other, motion, said, 64, 64).astype(int) - before).max() > 40, name
        assert name == "skin" or describe(other) != words
