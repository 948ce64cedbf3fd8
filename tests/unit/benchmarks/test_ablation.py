"""The ablation's toy world, its judge and its book-keeping: known answers before any of its figures is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mutual_forcing.benchmarks import _records, _runs, _toy_training, _training, ablation
from mutual_forcing.benchmarks._judge import Judge
from mutual_forcing.benchmarks._toy import CHUNKS, CLOCK, collate, make_clip, truth
from mutual_forcing.benchmarks._toy_world import WORLD, sync
from mutual_forcing.benchmarks._world import HELD_OUT, OTHER, PICK
from mutual_forcing.model.types import AV

WINDOWS = {"0-5": (0, 10), "5-10": (10, 20)}
CLIPS = 60


def clips(first: int, chunks: int = 20, count: int = CLIPS) -> AV:
    return collate([make_clip(first + i, chunks) for i in range(count)], chunks, range(first, first + count)).latents


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(WORLD, clips(0), clips(1000), 10, WINDOWS)


def test_a_clip_is_its_seed() -> None:
    one, again, other = make_clip(3, CHUNKS), make_clip(3, CHUNKS), make_clip(4, CHUNKS)
    assert (one.video == again.video).all()
    assert one.words == again.words
    assert (one.video != other.video).any()


def test_a_longer_clip_has_its_words_within_its_length() -> None:
    clip = make_clip(5, 50)
    assert clip.video.shape == (CLOCK.video_latents(50), 8)
    assert clip.audio.shape == (CLOCK.audio_latents(50), 8)
    assert all(0 <= w.start < w.end and w.start < 25 for w in clip.words)


def test_the_processes_come_back_from_the_latents() -> None:
    found = truth(clips(0))
    assert float(found.identity.std(dim=1).mean()) < 0.1, "a person stays who they are"
    assert float(found.gaze.abs().mean()) > 0.8, "gaze rests on either side"
    height, lag = sync(found.mouth[:, 1:], found.loudness, 0)
    assert height > 0.85, "two clocks of 4 and 5 latents a second blur it a little"
    assert abs(lag) <= 0.05


def test_a_delayed_mouth_is_found_with_its_lag() -> None:
    """One video latent is a quarter of a second: the mouth moved back by one is 0.25 s behind the voice."""
    found = truth(clips(0))
    late = torch.cat([found.mouth[:, 1:2], found.mouth[:, 1:-1]], dim=1)
    assert sync(late, found.loudness, 0)[1] == pytest.approx(0.25, abs=0.051)


def test_the_real_clips_themselves_have_no_excess_and_other_people_are_no_worse_in_kind(judge: Judge) -> None:
    assert all(window["frechet_joint"] == 0 for window in judge.figures(clips(0)).values())
    for window in judge.figures(clips(2000)).values():
        assert abs(window["frechet_joint"]) < window["floor_joint"], "what is left is the spread between sixty people and sixty others"
        assert window["seam_jump_video"] == pytest.approx(1.0, abs=0.15)
        assert window["seam_correlation_audio"] == pytest.approx(1.0, abs=0.15)
        assert window["sync_minus_real"] == pytest.approx(0.0, abs=0.03)
        assert window["motion"] == pytest.approx(1.0, abs=0.15)


def test_each_flaw_moves_its_own_figure(judge: Judge) -> None:
    real = clips(0)
    first = judge.windows["0-5"]
    base = judge.figures(real)["0-5"]
    video, audio = real.get("video"), real.get("audio")
    shuffled = judge.figures(AV(video, audio.roll(1, dims=0)))["0-5"]
    assert shuffled["sync"] < base["sync"] - 0.3
    assert shuffled["frechet_joint"] > base["frechet_joint"] + 0.1
    forgetful = video.clone()
    for k in range(*first):
        forgetful[:, CLOCK.video_slice(k)] = forgetful[:, CLOCK.video_slice(k)].roll(k, dims=0)  # every chunk from another clip
    broken = judge.figures(AV(forgetful, audio))["0-5"]
    assert broken["seam_jump_video"] > 1.5 * base["seam_jump_video"]
    assert broken["seam_correlation_video"] < 0.5 * base["seam_correlation_video"]
    assert broken["identity_drift"] > base["identity_drift"] + 0.5
    assert abs(broken["frechet_video"] - base["frechet_video"]) < 0.3, "chunks alone cannot see it: that is why seams are measured"


def test_an_interval_is_the_students() -> None:
    found = _records.interval([1.0, 2.0, 3.0])
    assert found == {"mean": 2.0, "half": pytest.approx(4.303 / 3**0.5), "seeds": 3}
    assert _records.interval([1.0])["half"] is None


MICRO = replace(_toy_training.QUICK, joint_steps=2, steps=1, batch=2, clips=16, pick_clips=4, multi_steps=1)


@pytest.mark.slow
def test_what_is_measured_is_kept_and_not_measured_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    place = _runs.Place(out, tmp_path / "starts", "cpu")
    start, others = ablation.arms(MICRO, ["sc-tf", "dmd-sf"], ["sc-tf", "dmd-sf"])
    for arm in (start, *others):
        _runs.run_arm(MICRO, arm, 0, place)
    files = {p: p.stat().st_mtime_ns for p in out.rglob("*.json")}
    assert {p.stem for p in files} == {"joint", "sc-tf", "dmd-sf"}
    kept = place.start(MICRO, 0)
    other_start = replace(MICRO, joint_steps=3)
    assert kept.is_file()
    assert kept != place.start(other_start, 0), "another start does not take its place"
    kept.unlink()  # figures without weights are still figures
    _runs.run_all(MICRO, start, others, [0], place, jobs=1)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.json")} == files
    with pytest.raises(ValueError, match="measured with other settings"):
        _runs.run_all(replace(MICRO, steps=2), start, others, [0], place, jobs=1)
    records = _records.read_records(out, MICRO, [start, *ablation.arms(MICRO, ["sc-tf", "mutual", "dmd-sf"], [])[1]])
    assert list(records) == ["joint", "sc-tf", "dmd-sf"], "in the order of the arms"
    summary = ablation.summarise(records)
    assert "multi" in summary["recipes"]["sc-tf"]
    assert "multi" not in summary["recipes"]["dmd-sf"], "DMD alone does not hold the MULTI mode in place"
    json.dumps(summary, allow_nan=False)
    page = tmp_path / "page.md"
    page.write_text(
        "".join(
            f"<!-- {name} -->\n<!-- /{name} -->\n"
            for name in ("windows", "windows-video", "windows-audio", "guidance", "paired", "late", "targets")
        )
    )
    ablation.write_page(summary, page)
    ablation.plot(records, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as drawn:
        assert len(set(drawn.convert("RGB").resize((200, 100)).get_flattened_data())) > 100, "lines and dots of three colours"
    assert page.read_text().count("| dmd-sf |") == 3 + 1, "one way of sampling in four tables"
    assert page.read_text().count("| sc-tf |") == 3 * 3 + 1 + 1, "three ways in three tables, one in the late one, one by guidance"


def test_recipes_see_the_same_clips_and_training_never_sees_what_judges_it() -> None:
    scale, training = _toy_training.TOY, _training.training_batch
    used = [training(scale, seed, stage, 0).positions for seed in (0, 1) for stage in ("joint", "mutual")]
    assert len({p for positions in used for p in positions}) == 4 * scale.batch
    last = training(scale, 30, "mutual", 0).positions[-1]
    assert last < min(HELD_OUT, OTHER, PICK)


@pytest.mark.parametrize(
    "words", [["--recipes", "mutual,best"], ["--multi", "best"], ["--seeds", "0"], ["--jobs", "0"], ["--set", "fake.kind=lora"]]
)
def test_impossible_options_are_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]):
        ablation.main(words)


def test_steps_and_learning_rate_reach_the_recipes_and_leave_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(ablation, "run_all", lambda scale, *rest: seen.append(scale))
    for more in ([], ["--steps", "7", "--lr", "5e-4"]):
        assert ablation.main(["--out", str(tmp_path), *more]) == 0
    plain, other = seen
    assert (other.steps, other.optimizer.lr) == (7, 5e-4)
    assert replace(other, steps=plain.steps, optimizer=plain.optimizer) == plain
    place = _runs.Place(tmp_path, tmp_path, "cpu")
    assert place.start(other, 0) == place.start(plain, 0)
    for option, value in (("--steps", "0"), ("--seeds", "0"), ("--jobs", "-1")):
        with pytest.raises(ValueError, match=f"{option}={value}: must be at least 1"):
            ablation.main([option, value])
    with pytest.raises(ValueError, match=r"optimizer\.lr=-1\.0: must be positive"):
        ablation.main(["--lr", "-1"])
