"""What is plainly wrong with a clip, made by hand: stills, black, silence, clicks and flicker at seams, drifts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evaluation_material import FPS, RATE, character, clip, moving, noise

from mutual_forcing.model.timeline import Timeline
from mutual_forcing.workers.evaluation.clip import EvalClip, NotApplicable
from mutual_forcing.workers.evaluation.condition import Drift, Faults, Motion, Seams, Sound

SEAMS = (13, 25, 37, 49)


def test_level_and_clipping() -> None:
    square = np.where(np.arange(RATE) % 2 == 0, 0.5, -0.5)
    figures = Sound().of_clip(clip(samples=square))
    assert figures == {"loudness_db": pytest.approx(20 * np.log10(0.5)), "clipped_share": 0.0}
    square[: RATE // 4] = 1.0
    assert Sound().of_clip(clip(samples=square))["clipped_share"] == 0.25
    with pytest.raises(NotApplicable, match="needs sound"):
        Sound().of_clip(clip(moving(4)))


def test_even_motion_has_no_jitter_and_alternation_has_two() -> None:
    even = Motion().of_clip(clip(moving(40, speed=2)))
    assert even == {"motion": pytest.approx(2, abs=0.1), "motion_jitter": pytest.approx(0, abs=0.05)}
    to_and_fro = np.where(np.arange(40)[:, None, None, None] % 2, 100, 110) * np.ones((40, 32, 32, 3))
    assert Motion().of_clip(clip(to_and_fro.astype(np.uint8)))["motion_jitter"] == pytest.approx(2)
    independent = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3)).astype(np.uint8)
    assert Motion().of_clip(clip(independent))["motion_jitter"] == pytest.approx(3**0.5, abs=0.05)
    assert Motion().of_clip(clip(moving(40, speed=0))) == {"motion": 0.0}, "what stands still has none"


def test_drift_is_measured_from_the_first_frame_of_the_whole_clip() -> None:
    brighter = clip(moving(200, speed=0.5))
    assert Drift().of_clip(brighter.cut(0, 1))["drift"] == pytest.approx(6, abs=1)
    assert Drift().of_clip(brighter.cut(4, 5))["drift"] == pytest.approx(54, abs=1)
    assert Drift().of_clip(clip(moving(40, speed=0)).cut(1, 1.5)) == {"drift": 0.0, "drift_contrast": 1.0, "drift_detail": 1.0}


def test_drift_tells_blur_from_noise_and_fading() -> None:
    sharp = np.random.default_rng(0).integers(100, 156, (1, 32, 32, 3)).astype(np.uint8)
    coarse = sharp[:, ::2, ::2].repeat(2, 1).repeat(2, 2)
    faded = (128 + (sharp.astype(int) - 128) // 2).astype(np.uint8)
    for worse, contrast, detail in ((coarse, (0.9, 1.1), (0.3, 0.7)), (faded, (0.4, 0.6), (0.4, 0.6))):
        figures = Drift().of_clip(replace(clip(worse.repeat(5, 0)), first=sharp[0]))
        assert contrast[0] < figures["drift_contrast"] < contrast[1]
        assert detail[0] < figures["drift_detail"] < detail[1]


def test_a_jump_at_every_seam_is_flicker() -> None:
    smooth = moving(60, speed=1)
    assert Seams().of_clip(clip(smooth, seams=SEAMS)) == {"seam_flicker": pytest.approx(1, abs=0.05)}
    jumps = smooth.copy()
    for n in SEAMS:
        jumps[n:] += 4
    assert Seams().of_clip(clip(jumps, seams=SEAMS))["seam_flicker"] == pytest.approx(5, abs=0.1), "1 and 4, over 1"
    elsewhere = smooth.copy()
    elsewhere[20:] += 8
    assert Seams().of_clip(clip(elsewhere, seams=SEAMS))["seam_flicker"] < 1
    with pytest.raises(NotApplicable, match="no chunk begins"):
        Seams().of_clip(clip(smooth))


def test_a_codec_that_jumps_at_every_latent_does_not_flicker_at_seams() -> None:
    """Pictures that stand for a latent of four and then jump: at seams as elsewhere."""
    clock = Timeline()
    held = moving(1 + 8 * 12, speed=1)[[0, *(1 + 4 * (n // 4) for n in range(96))]]
    whole = EvalClip.of("held", (held, noise(5)), clock, 8)
    assert Seams().of_clip(whole)["seam_flicker"] == pytest.approx(1, abs=0.05)
    assert Seams().of_clip(replace(whole, layout=None))["seam_flicker"] > 3, "which is what it would be over all pictures"


def test_a_click_at_every_seam_is_heard() -> None:
    sound = noise(2.5, level=0.01)
    calm = Seams().of_clip(clip(moving(60), sound, seams=SEAMS))["seam_click"]
    assert calm == pytest.approx(1, abs=0.3)
    for n in SEAMS:
        sound[round(n / FPS * RATE)] += 0.5
    assert Seams().of_clip(clip(moving(60), sound, seams=SEAMS))["seam_click"] > 2 * calm


@pytest.mark.parametrize(
    ("bad", "flags"),
    [
        (clip(moving(60), noise(2.5)), {}),
        (clip(np.zeros((60, 32, 32, 3), np.uint8), noise(2.5)), {"black": 1.0, "frozen": 1.0}),
        (clip(moving(60, speed=0), noise(2.5)), {"frozen": 1.0}),
        (clip(moving(60), np.zeros(40000)), {"silent": 1.0}),
        (clip(moving(60), np.sign(noise(2.5))), {"clipped": 1.0}),
    ],
)
def test_each_fault_is_flagged_whatever_else_is_wrong(bad: EvalClip, flags: dict[str, float]) -> None:
    assert Faults().of_clip(bad) == dict.fromkeys(("black", "frozen", "silent", "clipped"), 0.0) | flags


def test_faults_of_what_is_not_there_are_not_counted() -> None:
    assert Faults().of_clip(clip(samples=noise(1))) == {"silent": 0.0, "clipped": 0.0}


def test_a_talking_character_has_none() -> None:
    assert sum(Faults().of_clip(character(3)).values()) == 0
    assert Seams().of_clip(character(3))["seam_flicker"] == pytest.approx(1, abs=0.5)
