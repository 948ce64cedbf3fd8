"""DINOv2, CLIP and LAION's predictor against transformers' own use of the folder; I3D by its published names; FVD of known sets."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judge_material import clip, clip_folder, dino_folder, pickled, shaken
from PIL import Image
from torch.nn import functional as F

from mutual_forcing.workers.evaluation.clip import EvalClip, FeatureMetric, NotApplicable
from mutual_forcing.workers.evaluation.judges.fvd import FrechetVideo, rescaled
from mutual_forcing.workers.evaluation.judges.i3d import I3D, same
from mutual_forcing.workers.evaluation.judges.identity import consistency
from mutual_forcing.workers.evaluation.judges.judges import open_judge
from mutual_forcing.workers.evaluation.judges.material import View

HEAD = "sac+logos+ava1-l14-linearMSE.pth"
I3D_PARAMETERS = 12_697_264
NAMES = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nets")
    dino_folder(root / "dino")
    clip_folder(root / "clip")
    clip_folder(root / "aesthetics", projection=768)
    torch.manual_seed(0)
    sizes, places = (768, 1024, 128, 64, 16, 1), (0, 2, 4, 6, 7)
    tensors = dict[str, torch.Tensor]()
    for i, place in enumerate(places):
        tensors |= {f"layers.{place}.weight": torch.randn(sizes[i + 1], sizes[i]) / sizes[i] ** 0.5}
        tensors |= {f"layers.{place}.bias": torch.randn(sizes[i + 1])}
    pickled(root / "aesthetics" / HEAD, tensors)
    pickled(root / "fvd" / "rgb_imagenet.pt", shaken(I3D()), old=True)
    return root


def features(folder: Path, frames: np.ndarray, judge: str) -> torch.Tensor:
    """Unit vectors of frames by transformers' own classes and its image processor for Pillow."""
    from transformers import CLIPModel, Dinov2Model
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    prepare: Any = CLIPImageProcessorPil.from_pretrained(folder)
    pixels = prepare([Image.fromarray(frame) for frame in frames], return_tensors="pt").pixel_values
    network: Any = (Dinov2Model if judge == "dino" else CLIPModel).from_pretrained(folder)
    with torch.no_grad():
        made = network.eval()(pixel_values=pixels) if judge == "dino" else network.eval().get_image_features(pixel_values=pixels)
    return F.normalize(made.pooler_output, dim=-1)


# --- identity ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", ["dino", "clip"])
@pytest.mark.parametrize("size", [(48, 64), (100, 70), (64, 64)])
def test_cosines_are_those_of_transformers_own_features(nets: Path, judge: str, size: tuple[int, int]) -> None:
    metric: Any = open_judge(judge, str(nets / judge))
    one = clip(1, fps=24, size=size)
    shown = features(nets / judge, one.frames[::3], judge)
    first, before = shown[1:] @ shown[0], (shown[1:] * shown[:-1]).sum(-1)
    found = metric.of_clip(one)
    assert found[f"{judge}_identity"] == pytest.approx(float(first.mean()), abs=1e-5)
    assert found[f"{judge}_consistency"] == pytest.approx(float((first.clamp(min=0) + before.clamp(min=0)).mean() / 2), abs=1e-5)
    assert set(found) == {about.name for about in metric.about}
    assert found[f"{judge}_identity"] < 0.9999, "noise is not the same picture"


def test_a_still_clip_keeps_its_identity_and_a_window_is_held_against_the_first_frame_of_all(nets: Path) -> None:
    metric: Any = open_judge("dino", str(nets / "dino"))
    one = clip(2, fps=8)
    still = replace(one, frames=np.repeat(one.frames[:1], 16, axis=0))
    assert metric.of_clip(still) == {"dino_identity": pytest.approx(1, abs=1e-5), "dino_consistency": pytest.approx(1, abs=1e-5)}
    later = replace(still, frames=np.repeat(one.frames[5:6], 8, axis=0), first=one.frames[0])
    shown = features(nets / "dino", one.frames[[0, 5]], "dino")
    assert metric.of_clip(later)["dino_identity"] == pytest.approx(float(shown[0] @ shown[1]), abs=1e-5)
    assert metric.of_clip(later)["dino_consistency"] == pytest.approx(1, abs=1e-5)
    begun = replace(one, first=one.frames[0])
    assert metric.of_clip(begun)["dino_identity"] == pytest.approx(metric.of_clip(one)["dino_identity"], abs=1e-6)
    with pytest.raises(NotApplicable, match="1 pictures"):
        metric.of_clip(replace(one, frames=one.frames[:1]))


def test_consistency_of_known_vectors() -> None:
    e = torch.eye(3)
    assert consistency(torch.stack([e[0], e[0], e[1], e[1]])) == pytest.approx((1 + 1 + 0 + 0 + 0 + 1) / 6)
    assert consistency(torch.stack([e[0], -e[0]])) == 0


def test_a_view_is_refused_that_is_not_read(nets: Path, tmp_path: Path) -> None:
    data = json.loads((nets / "dino" / "preprocessor_config.json").read_text())
    for change, words in [
        ({"resample": 2}, "resample=2: only 3 is read"),
        ({"do_center_crop": False}, "do_center_crop=False"),
        ({"size": {"shortest_edge": 10**6}}, "size.shortest_edge=1000000: must be pixels in 16..1024"),
        ({"crop_size": {"height": 200, "width": 56}}, "crop_size=200x56: is larger than size=64"),
        ({"image_mean": [0.5, 2.0, 0.5]}, "image_mean"),
        ({"image_std": None}, "image_std=None"),
    ]:
        with pytest.raises(ValueError, match=words):
            View.of("preprocessor_config.json", data | change)
    copy = Path(shutil.copytree(nets / "clip", tmp_path / "copy"))
    write = json.loads((copy / "preprocessor_config.json").read_text()) | {"size": 64, "crop_size": 64}
    (copy / "preprocessor_config.json").write_text(json.dumps(write))
    with pytest.raises(ValueError, match=r"judge 'clip'.*crop_size=64x64: the network sees 32x32"):
        open_judge("clip", str(copy))


# --- aesthetics -------------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_five_linear_layers_on_clips_own_features(nets: Path) -> None:
    metric: Any = open_judge("aesthetics", str(nets / "aesthetics"))
    one = clip(2, fps=25)
    x = features(nets / "aesthetics", one.frames[::12], "clip")
    layers = torch.load(nets / "aesthetics" / HEAD, weights_only=True)
    for place in (0, 2, 4, 6, 7):
        x = x @ layers[f"layers.{place}.weight"].T + layers[f"layers.{place}.bias"]
    assert metric.of_clip(one) == {"aesthetics": pytest.approx(float(x.mean()), abs=1e-4)}


def test_the_predictor_needs_clips_features_and_its_own_file(nets: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"judge 'aesthetics'.*holds neither sac\+logos\+ava1-l14-linearMSE.pth"):
        open_judge("aesthetics", str(nets / "clip"))
    copy = Path(shutil.copytree(nets / "clip", tmp_path / "copy"))
    shutil.copy(nets / "aesthetics" / HEAD, copy)
    with pytest.raises(ValueError, match="projection_dim=12: the predictor reads 768; give the folder of CLIP ViT-L/14"):
        open_judge("aesthetics", str(copy))


# --- FVD --------------------------------------------------------------------------------------------------------------------


def test_i3d_has_the_published_names_and_number_of_parameters() -> None:
    wanted = {"logits.conv3d.weight", "logits.conv3d.bias"}
    blocks = [f"Mixed_{name}.b{branch}" for name in NAMES for branch in ("0", "1a", "1b", "2a", "2b", "3b")]
    for unit in ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", *blocks]:
        wanted |= {f"{unit}.conv3d.weight", *(f"{unit}.bn.{x}" for x in ("weight", "bias", "running_mean", "running_var"))}
    network = I3D()
    assert {name for name in network.state_dict() if not name.endswith("num_batches_tracked")} == wanted
    assert sum(p.numel() for p in network.parameters()) == I3D_PARAMETERS
    shapes = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    assert shapes["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7)
    assert shapes["Mixed_4e.b1b.conv3d.weight"] == (288, 144, 3, 3, 3)
    assert shapes["logits.conv3d.weight"] == (400, 1024, 1, 1, 1)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"), [(16, 7, 2, 2, 3), (9, 7, 2, 3, 3), (7, 2, 2, 0, 1), (8, 3, 1, 1, 1)]
)
def test_padding_is_tensorflows_same(size: int, kernel: int, stride: int, before: int, after: int) -> None:
    found = same(torch.ones(1, 1, 1, 1, size), (1, 1, kernel), (1, 1, stride)).flatten()
    assert found.tolist() == [0.0] * before + [1.0] * size + [0.0] * after
    assert (len(found) - kernel) // stride + 1 == -(-size // stride)


def test_frames_become_a_square_between_minus_one_and_one() -> None:
    frames = np.zeros((16, 30, 40, 3), np.uint8)
    frames[3, :, 20:, 2] = 255
    found = rescaled(frames)
    assert found.shape == (3, 16, 224, 224)
    assert (float(found.min()), float(found.max())) == (-1, pytest.approx(1))
    assert torch.allclose(found[2, 3, :, 120:], torch.ones(()))
    assert (found[:2] == -1).all()


@pytest.mark.slow
def test_rows_of_sixteen_frames_have_logits_and_equal_sets_no_distance(nets: Path) -> None:
    judge = open_judge("fvd", str(nets / "fvd"))
    assert isinstance(judge, FrechetVideo)
    assert isinstance(judge, FeatureMetric)
    one = clip(40 / 25)
    found = judge.features(one)
    assert found.shape == (2, 400)
    with torch.no_grad():
        network = I3D()
        network.load_state_dict(torch.load(nets / "fvd" / "rgb_imagenet.pt", weights_only=True))
        wanted = network.eval()(torch.stack([rescaled(one.frames[:16]), rescaled(one.frames[16:32])]))
    assert np.allclose(found, wanted.double().numpy(), rtol=1e-3, atol=1e-3)
    assert judge.of_sets([one], [one])["fvd"] == pytest.approx(0, abs=1e-6 * np.abs(found).max() ** 2)


def test_what_fvd_does_not_apply_to_has_a_reason(nets: Path) -> None:
    judge: Any = open_judge("fvd", str(nets / "fvd"))
    with pytest.raises(NotApplicable, match="it has 15 pictures to look at, at least 16"):
        judge.features(clip(15 / 25))
    with pytest.raises(NotApplicable, match="0 real and 0 generated"):
        judge.of_sets([], [])
    long = EvalClip("long", np.zeros((601, 4, 4, 3), np.uint8), 1.0, np.zeros(0, np.float32), 16000)
    with pytest.raises(NotApplicable, match="no more than 600 s"):
        judge.features(long)
    assert judge.between(np.zeros((3, 4)), np.zeros((3, 4)) + 2)["fvd"] == pytest.approx(16)
