"""The sync measure: lags that were put in come out, own pairs stand out, and nothing depends on level, blur or identity."""

from functools import cache

import numpy as np
import pytest

from mutual_forcing.datasets.drawn.sync import lagged_correlation, matched_and_shuffled, mouth_signal, sync_score, voice_envelope
from mutual_forcing.datasets.drawn.synthetic import SyntheticClip, SyntheticConfig, make_character_clip

CONFIG = SyntheticConfig(count=12, seed=11)
FRAME = 1 / CONFIG.fps


@cache
def clips() -> tuple[SyntheticClip, ...]:
    return tuple(make_character_clip(CONFIG, index) for index in range(CONFIG.count))


def blurred(frames: np.ndarray) -> np.ndarray:
    """What a weak generator gives: a quarter of the resolution."""
    n, height, width, _ = frames.shape
    small = frames.reshape(n, height // 4, 4, width // 4, 4, 3).mean((2, 4))
    return small.repeat(4, 1).repeat(4, 2).astype(np.uint8)


def delayed(audio: np.ndarray, seconds: float) -> np.ndarray:
    shift = round(seconds * CONFIG.sample_rate)
    return np.pad(audio, (max(shift, 0), max(-shift, 0)))[max(-shift, 0) :][: len(audio)]


def test_injected_lags_come_back():
    lags = np.array([-0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2])
    found = np.array(
        [[sync_score(c.frames, delayed(c.audio, lag), CONFIG.fps, CONFIG.sample_rate, 0.3)[1] for lag in lags] for c in clips()[:6]]
    )
    error = found - lags
    bias = np.median(error)
    assert np.abs(error - bias).max() < FRAME
    assert abs(bias) < FRAME / 2
    assert np.polyfit(lags, found.mean(0), 1)[0] == pytest.approx(1.0, abs=0.03)


def test_own_pairs_stand_well_above_all_others():
    summary = matched_and_shuffled([(c.frames, c.audio) for c in clips()], CONFIG.fps, CONFIG.sample_rate)
    print(summary)
    assert summary.clips == CONFIG.count
    assert summary.matched > 0.7
    assert summary.shuffled < 0.35
    assert summary.low > 0.3
    assert summary.low < summary.gap < summary.high


def test_blurry_pictures_still_tell():
    summary = matched_and_shuffled([(blurred(c.frames), c.audio) for c in clips()], CONFIG.fps, CONFIG.sample_rate)
    assert summary.low > 0.3


def test_swapped_voices_are_unmatched():
    """The summary follows the pairing, not the clips: with every voice moved to the next mouth the gap is gone."""
    pairs = [(c.frames, clips()[i - 1].audio) for i, c in enumerate(clips())]
    assert matched_and_shuffled(pairs, CONFIG.fps, CONFIG.sample_rate).gap < 0.1


@pytest.mark.parametrize("spoil", [lambda f: f, blurred], ids=["sharp", "blurred"])
def test_mouth_signal_follows_the_true_opening(spoil):
    for clip in clips():
        assert np.corrcoef(mouth_signal(spoil(clip.frames)), clip.mouth_N)[0, 1] > 0.88


def test_envelope_ignores_level_and_sits_on_the_frame_clock():
    audio, rate, frames = clips()[0].audio, CONFIG.sample_rate, CONFIG.frames
    envelope = voice_envelope(audio, rate, CONFIG.fps, frames)
    np.testing.assert_allclose(voice_envelope(audio * 0.01, rate, CONFIG.fps, frames), envelope, rtol=1e-5, atol=1e-7)
    click = np.zeros(CONFIG.samples, np.float32)
    click[round(50 * rate / CONFIG.fps)] = 1.0
    assert np.argmax(voice_envelope(click, rate, CONFIG.fps, frames)) == 50


def test_envelope_of_short_sound_ends_in_silence():
    envelope = voice_envelope(np.ones(8000, np.float32), 16000, 24, 48)
    assert len(envelope) == 48
    assert (envelope[:12] > 0).all()
    assert (envelope[14:] == 0).all()


@pytest.mark.parametrize("shift", [-4, -1, 0, 3])
def test_lag_changes_sign_when_the_signals_change_places(shift):
    rng = np.random.default_rng(shift + 10)
    wave = np.convolve(rng.standard_normal(140), np.hanning(9), "same")
    early, late = wave[10:130], wave[10 - shift : 130 - shift]
    peak, lag = lagged_correlation(early, late, CONFIG.fps)
    back, gal = lagged_correlation(late, early, CONFIG.fps)
    assert peak == pytest.approx(1.0)
    assert lag == pytest.approx(shift * FRAME, abs=0.2 * FRAME)
    assert (back, gal) == (pytest.approx(peak), pytest.approx(-lag))


def test_a_still_mouth_or_silence_correlates_zero():
    clip = clips()[0]
    still = np.repeat(clip.frames[:1], CONFIG.frames, axis=0)
    assert sync_score(still, clip.audio, CONFIG.fps, CONFIG.sample_rate) == (0.0, 0.0)
    assert sync_score(clip.frames, np.zeros_like(clip.audio), CONFIG.fps, CONFIG.sample_rate) == (0.0, 0.0)


def test_unusable_input_is_named():
    clip = clips()[0]
    with pytest.raises(ValueError, match="at least 2"):
        matched_and_shuffled([(clip.frames, clip.audio)], CONFIG.fps, CONFIG.sample_rate)
    with pytest.raises(ValueError, match="too few"):
        lagged_correlation(np.zeros(5), np.zeros(5), CONFIG.fps)
    with pytest.raises(ValueError, match="same clock"):
        lagged_correlation(np.zeros(50), np.zeros(51), CONFIG.fps)
    with pytest.raises(ValueError, match="finite mono"):
        voice_envelope(np.full(100, np.nan), 16000, 24, 10)
    with pytest.raises(ValueError, match="frames have shape"):
        mouth_signal(np.zeros((4, 64, 64), np.uint8))
