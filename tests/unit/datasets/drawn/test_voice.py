"""The voice: loudness as planned, pitch as given, mouth shapes as spelled."""

import numpy as np
import pytest

from mutual_forcing.datasets.drawn.voice import LEXICON, PHONES, Segment, SpeechPlan, Voice, Word, articulate, plan_speech, speak, spell

RATE = 16000


def says(*phones: str, each: float = 0.4) -> SpeechPlan:
    """One word of these phones, each of the same length, after 0.2 s of silence."""
    segments = tuple(Segment(phone, 0.2 + i * each, 0.2 + (i + 1) * each, 1.0) for i, phone in enumerate(phones))
    return SpeechPlan((Word("test", 0.2, segments[-1].end),), segments, segments[-1].end + 0.2)


def middle(plan: SpeechPlan, index: int) -> float:
    return (plan.segments[index].start + plan.segments[index].end) / 2


def test_every_word_is_spelled_by_its_sounds():
    assert all("".join(spell(word)) == word for word in LEXICON)
    assert spell("doowa") == ["d", "oo", "w", "a"]
    with pytest.raises(ValueError, match="no sound for 'x'"):
        spell("max")


@pytest.mark.parametrize("seconds", [1.0, 2.0, 5.2, 20.0])
def test_plans_fill_time_without_overlap(seconds):
    for seed in range(20):
        plan = plan_speech(np.random.default_rng(seed), Voice(rate=0.85), seconds)
        edges = [t for word in plan.words for t in (word.start, word.end)]
        assert edges == sorted(edges)
        assert edges[0] > 0
        assert edges[-1] < seconds
        assert all(later.start >= earlier.end - 1e-9 for earlier, later in zip(plan.segments, plan.segments[1:], strict=False))


@pytest.mark.parametrize("pitch", [100.0, 150.0, 230.0])
@pytest.mark.parametrize("vowel", ["a", "ee", "oo"])
def test_pitch_is_that_of_the_voice(pitch, vowel):
    plan = says(vowel, each=0.6)
    sound = speak(plan, Voice(pitch, liveliness=0.0), np.random.default_rng(0), RATE, round(plan.seconds * RATE))
    part = sound[round(0.4 * RATE) : round(0.6 * RATE)]
    echo = np.correlate(part, part, "full")[len(part) :]
    shortest = RATE // 300
    period = shortest + 1 + int(np.argmax(echo[shortest : RATE // 80]))
    assert RATE / period == pytest.approx(pitch, rel=0.03)


def test_sound_is_as_loud_as_planned_and_silent_between():
    plan = plan_speech(np.random.default_rng(3), Voice(), 5.0)
    sound = speak(plan, Voice(), np.random.default_rng(0), RATE, 5 * RATE)
    times = np.arange(25, 475) / 100
    rms = np.array([np.sqrt(np.mean(sound[round((t - 0.02) * RATE) : round((t + 0.02) * RATE)] ** 2)) for t in times])
    loudness = articulate(plan, times).loudness
    assert np.corrcoef(rms, loudness)[0, 1] > 0.97
    assert rms[loudness < 1e-6].max(initial=0.0) < 0.03


@pytest.mark.parametrize("vowel", ["a", "e", "o"])
def test_spectrum_peaks_at_the_vowels_first_formant(vowel):
    plan = says(vowel, each=1.0)
    sound = speak(plan, Voice(100.0, liveliness=0.0), np.random.default_rng(0), RATE, round(plan.seconds * RATE))
    power = np.abs(np.fft.rfft(sound[RATE // 2 : RATE]) * 1.0) ** 2
    hertz = np.fft.rfftfreq(RATE // 2, 1 / RATE)
    assert hertz[np.argmax(power)] == pytest.approx(PHONES[vowel].formants[0], abs=110)
    assert power[hertz < 2500].sum() > 0.95 * power.sum()


def test_mouth_shapes_are_those_of_the_sounds():
    plan = says("a", "m", "ee", "oo")
    shape = articulate(plan, np.array([0.05, *(middle(plan, i) for i in range(4))]))
    rest, a, m, ee, oo = range(5)
    assert shape.opening[a] > 0.95
    assert shape.opening[[rest, m]].max() < 0.01
    assert shape.opening[m] < shape.opening[ee] < shape.opening[a]
    assert shape.width[oo] < shape.width[a] < shape.width[ee]
    assert shape.rounding[oo] > 0.9 > 0.1 > shape.rounding[ee]


def test_opening_is_symmetric_in_time_so_it_adds_no_lag():
    plan = says("a")
    centre = middle(plan, 0)
    offsets = np.linspace(0, 0.3, 31)
    np.testing.assert_allclose(articulate(plan, centre + offsets).opening, articulate(plan, centre - offsets).opening, atol=0.06)
