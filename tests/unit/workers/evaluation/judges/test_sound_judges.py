"""CLAP, AST and Audiobox Aesthetics: against transformers' own use of the folder, and against WavLM written from its equations."""

from __future__ import annotations

import json
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
from judge_material import AXES, ast_folder, audiobox_folder, audiobox_tensors, clap_folder, clip
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from mutual_forcing.workers.evaluation.clip import FeatureMetric, NotApplicable
from mutual_forcing.workers.evaluation.judges.audiobox import AestheticsNetwork, published_to_own
from mutual_forcing.workers.evaluation.judges.distances import divergence, frechet_of
from mutual_forcing.workers.evaluation.judges.judges import open_judge
from mutual_forcing.workers.evaluation.judges.material import heard, windows

SHARES = st.lists(st.floats(0.01, 1), min_size=4, max_size=4).map(lambda x: torch.tensor(x, dtype=torch.float64) / sum(x))


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nets")
    clap_folder(root / "clap")
    ast_folder(root / "ast")
    audiobox_folder(root / "audiobox")
    return root


# --- windows ----------------------------------------------------------------------------------------------------------------


def test_sound_is_cut_into_windows_that_lose_nothing_but_a_short_end() -> None:
    sound = np.arange(25, dtype=np.float32)
    assert [len(part) for part in windows(sound, 1, 10, 1)] == [10, 10, 5]
    assert [len(part) for part in windows(sound, 1, 10, 6)] == [10, 10]
    assert [len(part) for part in windows(sound[:3], 1, 10, 6)] == [3]
    assert np.array_equal(np.concatenate(windows(sound, 1, 10, 1)), sound)


def test_a_tone_stays_one_at_another_rate() -> None:
    one = clip(1, rate=44100)
    tone = replace(one, samples=np.sin(2 * np.pi * 440 * np.arange(44100) / 44100).astype(np.float32))
    found = heard(tone, 48000, 0.5)
    assert len(found) == 48000
    assert np.abs(found - np.sin(2 * np.pi * 440 * np.arange(48000) / 48000))[500:-500].max() < 2e-3
    with pytest.raises(NotApplicable, match="no more than 600 s"):
        heard(replace(tone, samples=np.ones(601 * 8, np.float32), sample_rate=8), 16000, 1)


# --- distances --------------------------------------------------------------------------------------------------------------


@given(SHARES, SHARES)
def test_divergence_is_0_of_equal_shares_and_above_otherwise(p: Tensor, q: Tensor) -> None:
    assert divergence(p, p) == pytest.approx(0, abs=1e-12)
    assert divergence(p, q) >= -1e-12


def test_divergence_of_known_shares() -> None:
    half, other = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.25, 0.75]).double()
    assert divergence(half, other) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert divergence(torch.tensor([1.0, 0.0]).double(), half) == pytest.approx(math.log(2))
    assert divergence(half, torch.tensor([1.0, 0.0]).double()) > 100, "a share that the other has not is told, not infinite"


def test_frechet_distance_of_known_sets() -> None:
    a = np.random.default_rng(0).normal(size=(50, 3))
    assert frechet_of(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_of(a, a + np.array([3, 0, 4])) == pytest.approx(25)
    assert frechet_of(a, 2 * a - a.mean(0)) == pytest.approx(np.var(a, axis=0, ddof=1).sum(), rel=1e-6)
    with pytest.raises(NotApplicable, match="1 generated"):
        frechet_of(a, a[:1])
    with pytest.raises(NotApplicable, match="finite"):
        frechet_of(a, np.full((3, 3), np.nan))


# --- CLAP -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.3, 10.0, 14.0])
def test_clap_is_transformers_own_cosine(nets: Path, seconds: float) -> None:
    from tokenizers import Tokenizer
    from transformers import ClapFeatureExtractor, ClapModel

    judge: Any = open_judge("clap", str(nets / "clap"))
    one = clip(seconds, rate=48000, caption="a dog barks")
    network: Any = ClapModel.from_pretrained(nets / "clap")
    extract: Any = ClapFeatureExtractor.from_pretrained(nets / "clap")
    ids = torch.tensor([Tokenizer.from_file(str(nets / "clap" / "tokenizer.json")).encode("a dog barks").ids])
    cosines = []
    for part in np.split(one.samples, [480000]) if seconds > 10 else [one.samples]:
        with torch.no_grad():
            made = network.eval()(input_ids=ids, **extract(part, sampling_rate=48000, return_tensors="pt"))
        cosines.append(float(made.audio_embeds[0] @ made.text_embeds[0]))
    assert judge.of_clip(one)["clap"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert judge.of_clip(replace(one, caption="rain"))["clap"] != pytest.approx(np.mean(cosines), abs=1e-4)
    assert judge.of_clip(one) == judge.of_clip(one), "no part is chosen by chance"


def test_clap_reads_a_fused_folder_and_long_captions(tmp_path: Path) -> None:
    judge: Any = open_judge("clap", str(clap_folder(tmp_path / "clap", fused=True)))
    assert -1 <= judge.of_clip(clip(2, caption="word " * 5000))["clap"] <= 1
    settings = tmp_path / "clap" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("fusion", "rand_trunc"))
    with pytest.raises(ValueError, match="truncation='rand_trunc': the network wants 'fusion'"):
        open_judge("clap", str(tmp_path / "clap"))


def test_clap_needs_a_caption_and_sound(nets: Path) -> None:
    judge: Any = open_judge("clap", str(nets / "clap"))
    with pytest.raises(NotApplicable, match="no caption"):
        judge.of_clip(clip(2, caption="  "))
    with pytest.raises(NotApplicable, match=r"at least 0\.5 s"):
        judge.of_clip(clip(0.2))


# --- AST --------------------------------------------------------------------------------------------------------------------


def test_features_and_classes_are_those_of_transformers(nets: Path) -> None:
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    fd: Any = open_judge("audio_fd", str(nets / "ast"))
    kl: Any = open_judge("audio_kl", str(nets / "ast"))
    network: Any = ASTForAudioClassification.from_pretrained(nets / "ast")
    extract: Any = ASTFeatureExtractor.from_pretrained(nets / "ast")
    a, b = clip(11.5, seed=1, id="x"), replace(clip(3, seed=2, id="x"), samples=0.05 * clip(3, seed=2).samples)
    shares = []
    for one in (a, b):
        logits = []
        for part in np.split(one.samples, [160000]) if len(one.samples) > 160000 else [one.samples]:
            with torch.no_grad():
                logits.append(network.eval()(**extract(part, sampling_rate=16000, return_tensors="pt")).logits[0].double())
        shares.append(torch.stack(logits).softmax(-1).mean(0))
    wanted = float((shares[0] * (shares[0] / shares[1]).log()).sum())
    assert wanted > 1e-4
    assert kl.of_sets([a], [b, clip(2, id="other")])["audio_kl"] == pytest.approx(wanted, rel=1e-3)
    assert kl.of_sets([a], [a])["audio_kl"] == pytest.approx(0, abs=1e-9)
    assert fd.features(a).shape == (2, 16)
    assert isinstance(fd, FeatureMetric)
    with pytest.raises(NotApplicable, match="the same ids"):
        kl.of_sets([a], [replace(a, id="y")])


def test_equal_sets_of_sound_have_no_distance_and_others_have(nets: Path) -> None:
    judge: Any = open_judge("audio_fd", str(nets / "ast"))
    real = [clip(1.5, seed=i) for i in range(3)]
    assert judge.of_sets(real, real)["audio_fd"] == pytest.approx(0, abs=1e-6)
    soft = [replace(one, samples=0.05 * one.samples) for one in real]
    assert judge.of_sets(real, soft)["audio_fd"] > 1e-3
    with pytest.raises(NotApplicable, match="0 generated"):
        judge.of_sets(real, [])


# --- Audiobox Aesthetics ----------------------------------------------------------------------------------------------------


def test_the_published_sizes_have_the_published_324_tensors() -> None:
    """Names and shapes, without memory: what the file holds is what the network takes, one for one."""
    shapes = audiobox_tensors(layers=12, width=768, inner=3072, heads=12, channels=512, reach=128, groups=16)
    assert len(shapes) == 324
    config = {"nth_layer": 13, "proj_num_layer": 5}
    with torch.device("meta"):
        network = AestheticsNetwork(shapes, config)
    assert {published_to_own(name): shape for name, shape in shapes.items()} == {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert 103e6 < sum(p.numel() for p in network.parameters()) < 105e6


@pytest.mark.parametrize("seconds", [0.5, 10.0, 12.3])
def test_scores_are_those_of_the_equations(nets: Path, seconds: float) -> None:
    one = clip(seconds, seed=3)
    tensors = {name: x.double() for name, x in load_file(nets / "audiobox" / "model.safetensors").items()}
    target = json.loads((nets / "audiobox" / "config.json").read_text())["target_transform"]
    wanted: dict[str, float] = dict.fromkeys(AXES, 0.0)
    for start in range(0, len(one.samples), 160000):
        part = torch.from_numpy(one.samples[start : start + 160000]).double()
        for axis, score in _scores(tensors, part).items():
            wanted[axis] += (score * target[axis]["std"] + target[axis]["mean"]) * len(part) / len(one.samples)
    judge: Any = open_judge("audiobox", str(nets / "audiobox"))
    found = judge.of_clip(one)
    assert found == {f"audiobox_{axis.lower()}": pytest.approx(wanted[axis], abs=1e-4) for axis in AXES}
    assert max(abs(wanted[axis] - target[axis]["mean"]) for axis in AXES) > 0.1, "the scores say something"


def _scores(w: dict[str, Tensor], part: Tensor) -> dict[str, float]:
    """One window of the published network, by its names: Chen et al. 2022 (WavLM), then Tjandra et al. 2025."""
    m = {name.removeprefix("wavlm_model."): x for name, x in w.items()}
    heads, size = m["encoder.layers.0.self_attn.relative_attention_bias.weight"].shape[1], 160000
    x = F.pad(part, (0, size - len(part)))[None, None]
    for i, stride in enumerate((5, 2, 2, 2, 2, 2, 2)):
        x = F.conv1d(x, m[f"feature_extractor.conv_layers.{i}.0.weight"], stride=stride)
        if i == 0:
            norm = "feature_extractor.conv_layers.0.2"
            x = F.group_norm(x, x.shape[1], m[f"{norm}.weight"], m[f"{norm}.bias"])
        x = F.gelu(x)
    x = x[0].T
    steps, width = len(x), m["encoder.layer_norm.bias"].numel()
    reach = size // steps
    filled = torch.zeros(size, dtype=torch.bool)
    filled[len(part) :] = True
    filling = filled[: reach * steps].view(steps, reach).all(-1)
    x = F.layer_norm(x, x.shape[-1:], m["layer_norm.weight"], m["layer_norm.bias"])
    x = F.linear(x, m["post_extract_proj.weight"], m["post_extract_proj.bias"])
    x[filling] = 0
    v, g = m["encoder.pos_conv.0.weight_v"], m["encoder.pos_conv.0.weight_g"]
    kernel = v * g / v.square().sum((0, 1), keepdim=True).sqrt()
    x = x + F.gelu(
        F.conv1d(x.T[None], kernel, m["encoder.pos_conv.0.bias"], padding=len(g[0, 0]) // 2, groups=width // v.shape[1])[0, :, :-1].T
    )
    x = F.layer_norm(x, x.shape[-1:], m["encoder.layer_norm.weight"], m["encoder.layer_norm.bias"])
    apart = torch.arange(steps)[None] - torch.arange(steps)[:, None]  # key - query
    far = apart.abs()
    large = (80 + (far.clamp(min=1) / 80).float().log() / math.log(800 / 80) * 80).long().clamp(max=159)
    bucket = (apart > 0) * 160 + torch.where(far < 80, far, large)
    bias = m["encoder.layers.0.self_attn.relative_attention_bias.weight"][bucket].permute(2, 0, 1)
    states, layer = [x], 0
    while f"encoder.layers.{layer}.fc1.weight" in m:
        p = {k.removeprefix(f"encoder.layers.{layer}."): t for k, t in m.items() if k.startswith(f"encoder.layers.{layer}.")}

        def project(name: str, y: Tensor, p: dict[str, Tensor] = p) -> Tensor:
            return F.linear(y, p[f"{name}.weight"], p[f"{name}.bias"])

        apiece = x.view(steps, heads, -1).transpose(0, 1)
        gates = project("self_attn.grep_linear", apiece).view(heads, steps, 2, 4).sum(-1).sigmoid()
        gate = gates[..., :1] * (gates[..., 1:] * p["self_attn.grep_a"][0] - 1) + 2
        q, k, value = (project(f"self_attn.{name}_proj", x).view(steps, heads, -1).transpose(0, 1) for name in "qkv")
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + gate * bias
        scores[..., filling] = -math.inf
        mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(steps, width)
        x = F.layer_norm(
            x + project("self_attn.out_proj", mixed), (width,), p["self_attn_layer_norm.weight"], p["self_attn_layer_norm.bias"]
        )
        x = F.layer_norm(x + project("fc2", F.gelu(project("fc1", x))), (width,), p["final_layer_norm.weight"], p["final_layer_norm.bias"])
        states.append(x)
        layer += 1
    found = {}
    for axis in AXES:
        y = torch.einsum("ltc,l->tc", torch.stack(states), w[f"layer_weights.{axis}"].softmax(0))[~filling].mean(0)
        y = y / y.norm()
        for i in range(4):
            y = F.linear(y, w[f"proj_layer.{axis}.{3 * i}.weight"], w[f"proj_layer.{axis}.{3 * i}.bias"])
            y = F.gelu(F.layer_norm(y, y.shape, w[f"proj_layer.{axis}.{3 * i + 1}.weight"], w[f"proj_layer.{axis}.{3 * i + 1}.bias"]))
        found[axis] = float(F.linear(y, w[f"proj_layer.{axis}.12.weight"], w[f"proj_layer.{axis}.12.bias"]))
    return found


# --- folders that are not what they should be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", {"nth_layer": 4}, r"nth_layer=4: the network has 3 hidden states"),
        ("config.json", {"proj_ln": False}, "proj_ln=False: only True is read"),
        ("config.json", {"proj_num_layer": 99}, "proj_num_layer=99"),
        ("config.json", {"target_transform": {"CE": {"mean": 1, "std": 0}}}, "target_transform.CE"),
        ("model.safetensors", "proj_layer.CE.12.bias", "lacks tensor 'proj_layer.CE.12.bias'"),
        ("model.safetensors", "wavlm_model.post_extract_proj.weight", "'wavlm_model.post_extract_proj.weight' is missing"),
        ("model.safetensors", "wavlm_model.encoder.layers.1.fc1.weight", "lacks tensor 'wavlm.encoder.layers.1.feed_forward"),
    ],
)
def test_a_wrong_audiobox_folder_is_refused(nets: Path, tmp_path: Path, file: str, change: Any, words: str) -> None:
    copy = Path(shutil.copytree(nets / "audiobox", tmp_path / "copy"))
    if file == "config.json":
        (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | change))
    else:
        tensors = load_file(copy / file)
        del tensors[change]
        save_file(tensors, copy / file)
    with pytest.raises(ValueError, match=words) as caught:
        open_judge("audiobox", str(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("judge", "net", "file", "change", "words"),
    [
        ("clap", "clap", "preprocessor_config.json", {"sampling_rate": 16000}, "sampling_rate=16000: only 48000 is read"),
        ("clap", "clap", "preprocessor_config.json", {"truncation": "x"}, "truncation='x'"),
        ("clap", "clap", "preprocessor_config.json", {"frequency_max": 1e9}, "are no band of Hz"),
        ("clap", "ast", "config.json", {}, "model_type='audio-spectrogram-transformer' is not 'clap'"),
        ("audio_fd", "ast", "preprocessor_config.json", {"mean": "x"}, "mean and std must be numbers"),
        ("audio_kl", "ast", "config.json", {"hidden_size": 32}, "they are not of one release"),
        ("audio_kl", "ast", "config.json", {"num_hidden_layers": 10**6}, "num_hidden_layers=1000000: larger than"),
        ("audio_kl", "ast", "config.json", {"hidden_size": 10**9}, "hidden_size=1000000000: larger than"),
        ("audio_kl", "ast", "config.json", {"hidden_size": "x"}, "config.json: its fields make no network"),
    ],
)
def test_wrong_settings_are_refused(nets: Path, tmp_path: Path, judge: str, net: str, file: str, change: Any, words: str) -> None:
    copy = Path(shutil.copytree(nets / net, tmp_path / "copy"))
    (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | change))
    with pytest.raises(ValueError, match=words) as caught:
        open_judge(judge, str(copy))
    assert "\n" not in str(caught.value)
    assert f"judge {judge!r}, where={str(copy)!r}" in str(caught.value)
