"""The worlds of the ablation's scales, and `small`: its clips, its figures, and a whole run that learns nothing."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mutual_forcing.benchmarks import _records, _runs, _small, _small_training, _small_world, ablation
from mutual_forcing.benchmarks._judge import Judge
from mutual_forcing.benchmarks._toy_training import TOY
from mutual_forcing.benchmarks._training import Scale, start_settings
from mutual_forcing.benchmarks._world import HELD_OUT, World
from mutual_forcing.datasets.drawn.sync import sync_score
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import AV, AVBatch

ROOT = Path(__file__).resolve().parents[3]
CHUNKS = 6
CLIPS = 8
WINDOW = (2, CHUNKS)
BARE = ("torch", "numpy", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec")


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> _small.Characters:
    return _small.Characters(str(tmp_path_factory.mktemp("clips")), corpus=16, fitted=4, chunks=CHUNKS)


@pytest.fixture(scope="module")
def small(characters: _small.Characters) -> Scale:
    scale = _small_training.quick_small(characters.folder)
    return replace(scale, world=_small_world.world(characters, scale.world.network))


@pytest.fixture(scope="module")
def real(small: Scale) -> AV:
    return small.world.clips(HELD_OUT, CLIPS, CHUNKS).latents


@pytest.fixture(params=["toy", "small"])
def scale(request: pytest.FixtureRequest, small: Scale) -> Scale:
    return {"toy": TOY, "small": small}[request.param]


def same(a: AVBatch, b: AVBatch) -> bool:
    latents = all(torch.equal(x, b.latents.get(name)) for name, x in a.latents.items())
    return latents and all(torch.equal(x, b.controls.tensors()[name]) for name, x in a.controls.tensors().items())


def test_a_world_gives_clips_that_its_network_takes(scale: Scale) -> None:
    world, clock = scale.world, scale.world.clock
    batch = world.clips(HELD_OUT + 3, 2, CHUNKS)
    assert batch.layout == Layout(clock, CHUNKS)
    assert batch.positions == (HELD_OUT + 3, HELD_OUT + 4)
    assert batch.latents.get("video").shape[:3] == (2, clock.video_latents(CHUNKS), world.network.video_channels)
    assert batch.latents.get("audio").shape == (2, clock.audio_latents(CHUNKS), world.network.audio_channels)
    starts = batch.controls.words_time_BW2[..., 0]
    assert bool((starts < float(CHUNKS * clock.chunk)).all()), "a word of what is not shown"
    assert float(clock.chunk) == 0.5, "windows are in seconds"


def test_a_world_travels_to_another_process_and_gives_the_same_clips(scale: Scale) -> None:
    there: World = pickle.loads(pickle.dumps(scale.world))
    assert same(there.clips(5, 3, CHUNKS), scale.world.clips(5, 3, CHUNKS))
    assert not torch.equal(there.clips(5, 1, CHUNKS).latents.get("video"), there.clips(6, 1, CHUNKS).latents.get("video"))


def test_real_clips_compare_with_themselves(scale: Scale) -> None:
    reading = scale.world.read(scale.world.clips(HELD_OUT, CLIPS, CHUNKS).latents, WINDOW)
    figures = scale.world.figures(reading, reading)
    assert figures["sync_minus_real"] == 0
    assert figures["motion"] == figures["loudness"] == 1
    assert {"sync", "sync_lag_s", "identity_drift"} <= figures.keys()
    json.dumps(figures, allow_nan=False)


def test_records_and_starts_say_which_world_made_them_except_the_toys(small: Scale) -> None:
    """Those of the toy began before there was another, and must be found again."""
    assert set(TOY.settings()) == {f.name for f in fields(Scale)} - {"world", "objective"}
    assert set(start_settings(TOY)) == {"network", "clock", "steps", "batch", "optimizer", "objective"}
    for settings in (small.settings(), start_settings(small)):
        assert settings["world"] == "small"
        assert settings["characters"]["corpus"] == 16
        json.dumps(settings)


def test_the_same_clips_are_drawn_anywhere(characters: _small.Characters, tmp_path: Path) -> None:
    elsewhere = replace(characters, folder=str(tmp_path))
    _small.prepare(elsewhere, [(HELD_OUT, 2, CHUNKS)])
    files = {p.name: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pt")}
    assert len(files) == 3, "two blocks of the corpus and one that is judged"
    _small.prepare(elsewhere, [(HELD_OUT, 2, CHUNKS)])
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pt")} == files, "nothing is drawn twice"
    assert same(_small.clips(elsewhere, HELD_OUT, 2, CHUNKS), _small.clips(characters, HELD_OUT, 2, CHUNKS))
    assert replace(characters, corpus=24).place != characters.place, "another corpus does not take its place"


def test_training_visits_the_corpus_again_and_again_in_another_order(characters: _small.Characters) -> None:
    visits = [_small.clips(characters, first, 16, CHUNKS).sample_ids for first in (0, 16, 1_000_000)]
    assert {frozenset(v) for v in visits} == {frozenset(f"character-{i}" for i in range(16))}
    assert len(set(visits)) == 3


def test_text_sound_and_picture_stand_on_one_clock(characters: _small.Characters, real: AV) -> None:
    video, audio = _small.codecs(characters)
    frames, sound = video.decode(real.get("video")).numpy(), audio.decode(real.get("audio")).numpy()
    clock = _small.CLOCK
    scores = np.array([sync_score(f, s, clock.fps, clock.sample_rate) for f, s in zip(frames, sound, strict=True)])
    assert scores[:, 0].mean() > 0.75
    assert abs(np.median(scores[:, 1])) < 0.02
    for i in range(CLIPS):
        drawn = _small.draw(HELD_OUT + i, CHUNKS)
        at = np.arange(len(drawn.samples)) / clock.sample_rate
        spoken = np.any([(w.start <= at) & (at < w.end) for w in drawn.words], axis=0)
        power = np.square(sound[i])
        assert power[spoken].mean() > 20 * power[~spoken].mean(), "it sounds where the transcript has words"


def test_a_window_is_read_as_it_stands_in_the_whole_clip(characters: _small.Characters, small: Scale, real: AV) -> None:
    clock = small.world.clock
    whole, window = small.world.read(real, (0, CHUNKS)), small.world.read(real, WINDOW)
    assert window.mouth_BN.shape == (CLIPS, (CHUNKS - WINDOW[0]) * clock.chunk_frames)
    np.testing.assert_allclose(window.mouth_BN, whole.mouth_BN[:, WINDOW[0] * clock.chunk_frames :], atol=1e-5)
    _, audio = _small.codecs(characters)
    for first, last in (WINDOW, (2, 4), (0, CHUNKS)):
        sound = _small_world._sound(audio, real.get("audio"), (first, last), (last - first) * clock.chunk_frames)
        at = round(clock.frames(first) * clock.sample_rate / clock.fps)
        expected = audio.decode(real.get("audio"))[:, at : at + sound.shape[1]]
        torch.testing.assert_close(sound, expected, atol=1e-5, rtol=0)
        frame = clock.sample_rate // clock.fps
        assert sound.shape[1] > (last - first) * clock.sample_rate // 2 - frame, "less than a frame lacks its sound"


def test_each_flaw_moves_its_own_figure(small: Scale, real: AV) -> None:
    world, video, audio = small.world, real.get("video"), real.get("audio")
    reading = world.read(real, WINDOW)

    def figures(v: torch.Tensor, a: torch.Tensor) -> dict[str, float]:
        return world.figures(world.read(AV(v, a), WINDOW), reading)

    base = figures(video, audio)
    assert base["sync"] > base["sync_shuffled"] + 0.3
    other_voice = figures(video, audio.roll(1, dims=0))
    assert other_voice["sync_minus_real"] < -0.3
    assert other_voice["motion"] == 1
    late = figures(torch.cat([video[:, :1], video[:, :-1]], dim=1), audio)
    assert late["sync_lag_s"] == pytest.approx(world.clock.video_stride / world.clock.fps, abs=0.02)
    from_3 = world.clock.video_slice(3).start
    others = torch.cat([video[:, :from_3], video.roll(1, dims=0)[:, from_3:]], dim=1)
    assert figures(others, audio)["identity_drift"] > 3 * base["identity_drift"]
    frozen = torch.cat([video[:, :1], video[:, :1].expand(-1, video.shape[1] - 1, -1, -1, -1)], dim=1)
    assert figures(frozen, audio)["motion"] == 0, "a first frame has no coefficients of change"
    assert figures(video, 0.5 * audio)["loudness"] == pytest.approx(0.5, abs=0.05)


def test_the_network_has_the_parameters_that_its_file_names() -> None:
    with torch.device("meta"):
        network = AVTransformer(_small_training.NETWORK, _small.CLOCK)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(29.3e6, rel=0.01)


def test_small_wants_a_gpu_or_quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"--scale=small.*--device cuda, or --quick"):
        ablation.main(["--scale", "small", "--clips", str(tmp_path)])
    with pytest.raises(ValueError, match=r"--device='cuda'.*no GPU"):
        ablation.main(["--scale", "small", "--device", "cuda", "--clips", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scale", [TOY, _small_training.small("clips")], ids=["toy", "small"])
def test_windows_hold_enough_chunks_in_few_components(scale: Scale) -> None:
    assert scale.clips * scale.per_clip >= 4000
    assert scale.world.components <= 32


def test_who_somebody_is_does_not_count_where_features_are_movement() -> None:
    """The toy's people with another constant picture each: far away as they stand, the same as they move."""
    world = TOY.world
    real, other = world.clips(0, 24, 4).latents, world.clips(1000, 24, 4).latents
    shift = 3 * torch.randn(24, 1, *real.get("video").shape[2:], generator=torch.Generator().manual_seed(0))
    made = AV(real.get("video") + shift, real.audio)
    found = {}
    for moving in (False, True):
        judge = Judge(replace(world, moving=moving), real, other, 4, {"0-2": (0, 4)})
        found[moving] = judge.figures(made)["0-2"]["frechet_video"]
    assert found[False] > 1
    assert abs(found[True]) < 1e-3


@pytest.mark.slow
def test_a_quick_start_and_a_recipe(tmp_path: Path) -> None:
    scale = _small_training.quick_small(str(tmp_path / "clips"))
    place = _runs.Place(tmp_path / "out", tmp_path / "starts", "cpu")
    start, others = ablation.arms(scale, ["mutual"], [])
    for arm in (start, *others):
        _runs.run_arm(scale, arm, 0, place)
    summary = ablation.summarise(_records.read_records(place.out, scale, [start, *others]))
    assert list(summary["recipes"]["mutual"]["few4"]) == ["0-1", "1-2"]
    assert summary["targets"]
    json.dumps(summary, allow_nan=False)


@pytest.mark.slow
def test_quick_from_the_command_line_on_a_machine_with_pytorch_alone(tmp_path: Path) -> None:
    """-S: without the environment; PyTorch and what it is installed with stand in a folder of their own."""
    site = tmp_path / "site"
    site.mkdir()
    for name in BARE:
        for entry in Path(torch.__file__).parents[1].glob(f"{name}*"):
            (site / entry.name).symlink_to(entry)
    folders = [x for name in ("out", "starts", "clips") for x in (f"--{name}", str(tmp_path / name))]
    command = [sys.executable, "-S", str(ROOT), "bench", "ablation", "--scale", "small", "--quick", "--device", "cpu", "--json", *folders]
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures["recipes"]) == {"joint", *ablation.RECIPES}
