"""How good sound is: Meta's Audiobox Aesthetics, four scores of about 1 to 10.

    samples -> 16 kHz -> windows of 10 s, filled with zeros -> WavLM -> 13 hidden states, weighted by axis -> mean over what is no filling
        -> of length 1 -> four perceptrons -> score x deviation + mean -> mean over windows, by their length

Tjandra et al., "Meta Audiobox Aesthetics", arXiv 2502.05139 (facebook/audiobox-aesthetics). CE: content enjoyment; CU: content usefulness;
PC: production complexity; PQ: production quality.

Compared with Meta's source: the folder's config.json has the perceptrons' form and `target_transform`; model.safetensors has 324 tensors
under `wavlm_model.` (the names of Microsoft's WavLM), `proj_layer.AXIS.` and `layer_weights.AXIS`; each perceptron is four times linear,
layer norm, GELU and then linear. The sizes of WavLM stand in no file (they are those of WavLM Base), and are read from the tensors' shapes.
WavLM's blocks are transformers'; which steps are filling is decided as there (all of a step's 320 samples are). Names and shapes of the
324 tensors and the config's values agree with a public list of revision 9b1dd8e5 of that folder; the file itself was not at hand.
Against the package audiobox_aesthetics 0.0.4, at the published sizes with random weights that it wrote itself, scores agreed to 7e-7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....model.codecs.folder import CONFIG, needs
from ....model.weights import open_weights
from ..clip import About, EvalClip
from .material import heard, windows
from .weights import WEIGHTS, Weights, fill_network, must_be, read_object

AXES = {"CE": "content_enjoyment", "CU": "content_usefulness", "PC": "production_complexity", "PQ": "production_quality"}
RATE, SECONDS, LEAST_S = 16000, 10.0, 0.1
KNOWN = {  # the only form of the perceptrons that was published
    "proj_ln": True,
    "proj_act_fn": "gelu",
    "proj_dropout": 0,
    "use_weighted_layer_sum": True,
    "normalize_embed": True,
    "output_dim": 1,
}
PROTOCOL = "Audiobox Aesthetics on WavLM of transformers, windows of 10 s; version 1"
HIGHEST = {"layers": 64, "width": 2**13, "inner": 2**15, "heads": 128, "buckets": 4096, "channels": 4096}
RENAMED = (  # Microsoft's names -> transformers'
    (r"post_extract_proj", "feature_projection.projection"),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"mask_emb", "masked_spec_embed"),
    (r"conv_layers\.(\d+)\.0\.", r"conv_layers.\1.conv."),
    (r"conv_layers\.0\.2\.", "conv_layers.0.layer_norm."),
    (r"pos_conv\.0\.weight_g", "pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"pos_conv\.0\.weight_v", "pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"pos_conv\.0\.", "pos_conv_embed.conv."),
    (r"self_attn\.grep_linear", "attention.gru_rel_pos_linear"),
    (r"self_attn\.grep_a", "attention.gru_rel_pos_const"),
    (r"self_attn\.relative_attention_bias", "attention.rel_attn_embed"),
    (r"self_attn_layer_norm", "layer_norm"),
    (r"self_attn\.", "attention."),
    (r"\bfc1\b", "feed_forward.intermediate_dense"),
    (r"\bfc2\b", "feed_forward.output_dense"),
)


class AudioAesthetics:
    """See the module. Its weights: the folder as published: config.json and model.safetensors."""

    about = tuple(About(f"audiobox_{axis.lower()}", f"{name}, 1..10", True, PROTOCOL, ("sound",)) for axis, name in AXES.items())

    def __init__(self, weights: Weights) -> None:
        """Raises ValueError where the folder is not that of Audiobox Aesthetics."""
        with weights.named():
            config = read_object(weights.folder, CONFIG)
            must_be(CONFIG, config, KNOWN)
            self._scale = _target(config)
            source = open_weights(weights.folder, WEIGHTS)
            self._network = AestheticsNetwork(source.shapes, config)
            fill_network(self._network, {published_to_own(name): source.read(name) for name in source.shapes}, weights.device)
            self._device = weights.device

    @torch.no_grad()
    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """audiobox_ce, _cu, _pc, _pq. Raises: NotApplicable."""
        parts = windows(heard(clip, RATE, LEAST_S), RATE, SECONDS, 400 / RATE)  # 400 samples: the first step of WavLM
        size = round(RATE * SECONDS)
        found = dict.fromkeys(AXES, 0.0)
        for part in parts:
            sound = F.pad(torch.from_numpy(part)[None], (0, size - len(part))).to(self._device)
            scores = self._network(sound, torch.tensor([len(part)], device=self._device))
            for axis, score in scores.items():
                mean, deviation = self._scale[axis]
                found[axis] += (float(score) * deviation + mean) * len(part)
        total = sum(len(part) for part in parts)
        return {f"audiobox_{axis.lower()}": value / total for axis, value in found.items()}


class AestheticsNetwork(nn.Module):
    """WavLM, weights of its hidden states by axis, and a perceptron an axis."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> None:
        """shapes: of the published tensors, which say how large WavLM is. Raises ValueError where they are of no WavLM that is read."""
        super().__init__()
        with needs("transformers"):
            from transformers import WavLMConfig, WavLMModel

        sizes = wavlm_sizes(shapes)
        self.wavlm = WavLMModel(WavLMConfig(**sizes))
        states, depth, width = sizes["num_hidden_layers"] + 1, config.get("proj_num_layer"), sizes["hidden_size"]
        if (used := config.get("nth_layer")) != states:
            raise ValueError(f"{CONFIG}: nth_layer={str(used)[:40]}: the network has {states} hidden states; get it again")
        if type(depth) is not int or not 1 <= depth <= 16:
            raise ValueError(f"{CONFIG}: proj_num_layer={str(depth)[:40]}: must be an integer in 1..16; get it again")
        self.layer_weights = nn.ParameterDict({axis: nn.Parameter(torch.ones(states)) for axis in AXES})
        self.proj_layer = nn.ModuleDict({axis: _perceptron(width, depth) for axis in AXES})

    def forward(self, sound_BS: Tensor, length_B: Tensor) -> dict[str, Tensor]:
        """Sound [B, S] at 16 kHz of which the first `length` samples are no filling -> scores [B] by axis, to be scaled."""
        features_BTC = self.wavlm.feature_extractor(sound_BS).transpose(1, 2)
        step = sound_BS.shape[1] // features_BTC.shape[1]  # samples that belong to a hidden state
        starts_T = step * torch.arange(features_BTC.shape[1], device=sound_BS.device)
        real_BT = starts_T[None] < length_B[:, None]
        states = self._states(self.wavlm.feature_projection(features_BTC)[0], real_BT)
        made = {}
        for axis in AXES:
            mixed_BTC = torch.einsum("lbtc,l->btc", states, self.layer_weights[axis].softmax(-1))
            mean_BC = (mixed_BTC * real_BT[..., None]).sum(1) / real_BT.sum(1, keepdim=True).clamp(min=1)
            made[axis] = self.proj_layer[axis](F.normalize(mean_BC, dim=-1)).squeeze(-1)
        return made

    def _states(self, x_BTC: Tensor, real_BT: Tensor) -> Tensor:
        """What goes into the first block and what comes out of each, [L, B, T, C]."""
        encoder = self.wavlm.encoder
        x_BTC = x_BTC * real_BT[..., None]
        x_BTC = encoder.layer_norm(x_BTC + encoder.pos_conv_embed(x_BTC))
        states, bias = [x_BTC], None
        for layer in encoder.layers:
            x_BTC, bias = layer(x_BTC, attention_mask=real_BT, position_bias=bias)
            states.append(x_BTC)
        return torch.stack(states)


def published_to_own(name: str) -> str:
    """A name of the published file -> that of `AestheticsNetwork`."""
    if not name.startswith("wavlm_model."):
        return name
    name = name.removeprefix("wavlm_model.")
    for old, new in RENAMED:
        name, changed = re.subn(old, new, name, count=1)
        if changed:
            break
    return f"wavlm.{name}"


def wavlm_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The sizes of a WavLM from the shapes of its published tensors. Raises ValueError where one is missing or beyond what is read."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        found = shapes.get(f"wavlm_model.{name}")
        if found is None or len(found) != dimensions or 0 in found:
            raise ValueError(f"{WEIGHTS}: tensor 'wavlm_model.{name}' is missing or of another form; it is no Audiobox Aesthetics network")
        return found

    layers = len({name.split(".")[3] for name in shapes if name.startswith("wavlm_model.encoder.layers.") and name.count(".") > 3})
    convolutions = [shape(f"feature_extractor.conv_layers.{i}.0.weight", 3) for i in range(7)]
    width = shape("post_extract_proj.weight", 2)[0]
    buckets, heads = shape("encoder.layers.0.self_attn.relative_attention_bias.weight", 2)
    _, group, reach = shape("encoder.pos_conv.0.weight_v", 3)
    inner = shape("encoder.layers.0.fc1.weight", 2)[0]
    found = {"layers": layers, "width": width, "inner": inner, "heads": heads, "buckets": buckets}
    found["channels"] = max(x[0] for x in convolutions)
    if large := next((name for name, value in found.items() if not 1 <= value <= HIGHEST[name]), None):
        raise ValueError(f"{WEIGHTS}: {large}={found[large]}: must be in 1..{HIGHEST[large]}; it is no Audiobox Aesthetics network")
    if width % heads or width % group or reach > 1024:
        raise ValueError(f"{WEIGHTS}: width={width} with {heads} heads and groups of {group}: is no WavLM; get it again")
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "conv_dim": [x[0] for x in convolutions],
        "conv_kernel": [x[2] for x in convolutions],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "num_conv_pos_embeddings": reach,
        "num_conv_pos_embedding_groups": width // group,
        "num_buckets": buckets,
        "max_bucket_distance": 800,
        "conv_bias": False,
        "do_stable_layer_norm": False,
        "feat_extract_norm": "group",
    }


def _perceptron(width: int, depth: int) -> nn.Sequential:
    layers = list[nn.Module]()
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def _target(config: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Mean and deviation of each axis' scores among people."""
    target, found = config.get("target_transform"), {}
    for axis in AXES:
        one = target.get(axis) if isinstance(target, dict) else None
        numbers = [x for name in ("mean", "std") if isinstance(x := one.get(name), int | float)] if isinstance(one, dict) else []
        if len(numbers) != 2 or not all(abs(x) < 1e6 for x in numbers) or numbers[1] <= 0:
            raise ValueError(f"{CONFIG}: target_transform.{axis}={str(one)[:80]}: must have mean and std, std above 0; get it again")
        found[axis] = (float(numbers[0]), float(numbers[1]))
    return found
