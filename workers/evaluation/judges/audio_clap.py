"""How well a clip's sound fits its caption: the cosine between CLAP's points of the two.

    caption -> tokens -> text side  -> a unit vector -+
                                                      +-> cosine; mean over windows of 10 s
    samples -> 48 kHz -> audio side -> a unit vector -+

Wu et al., "Large-scale contrastive language-audio pretraining", ICASSP 2023; the CLAP score of AudioLDM 2, Stable Audio and others. The
network is transformers' ClapModel (laion/clap-htsat-unfused, laion/larger_clap_general, ...). Sound up to 10 s is repeated and filled as
there. Where the reference takes a random 10 s of what is longer, all windows count here, so the same clip has the same figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ....model.codecs.folder import needs
from ..clip import About, EvalClip, NotApplicable
from .material import heard, windows
from .weights import Weights, must_be, read_object, transformers_network

RATE, SECONDS, LEAST_S = 48000, 10.0, 0.5
SOUND, TOKENIZER = "preprocessor_config.json", "tokenizer.json"
KNOWN = {"sampling_rate": RATE, "hop_length": 480, "fft_window_size": 1024, "feature_size": 64, "max_length_s": 10, "padding": "repeatpad"}
MAX_TOKENIZER = 64 * 2**20  # bytes
MAX_CAPTION = 10_000  # characters
PROTOCOL = "CLAP of transformers, windows of 10 s; version 1"


def _classes() -> tuple[Any, Any]:
    from transformers import ClapConfig, ClapModel

    return ClapConfig, ClapModel


class ClapSimilarity:
    """See the module. Its weights: a CLAP folder as transformers writes it: config.json, model.safetensors, preprocessor_config.json and
    tokenizer.json.
    """

    about = (About("clap", "cosine", True, PROTOCOL, ("sound", "text")),)

    def __init__(self, weights: Weights) -> None:
        """Raises ValueError where the folder is no CLAP network."""
        with weights.named():
            self._network, _ = transformers_network(weights, "clap", _classes)
            self._extract = _extractor(weights, self._network.config.audio_config.enable_fusion)
            text = self._network.config.text_config
            self._tokenizer = _tokenizer(weights, text.vocab_size, text.max_position_embeddings - 2)
            self._device = weights.device

    @torch.no_grad()
    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """Raises: NotApplicable."""
        if not clip.caption.strip():
            raise NotApplicable("it has no caption")
        sound_ND = self.sound(windows(heard(clip, RATE, LEAST_S), RATE, SECONDS, LEAST_S))
        return {"clap": float((sound_ND @ self.text(clip.caption)).mean())}

    @torch.no_grad()
    def sound(self, parts: list[np.ndarray]) -> torch.Tensor:
        """Windows of sound, float32 [S] at 48 kHz, at most 10 s each -> unit vectors [n, D]."""
        found = []
        for part in parts:
            inputs = self._extract(part, sampling_rate=RATE, return_tensors="pt")
            made = self._network.get_audio_features(**{name: x.to(self._device) for name, x in inputs.items()})
            found.append(F.normalize(made.pooler_output.float().cpu(), dim=-1))
        return torch.cat(found)

    @torch.no_grad()
    def text(self, caption: str) -> torch.Tensor:
        """A caption -> a unit vector [D]; what is beyond the network's longest text is not read."""
        ids = torch.tensor([self._tokenizer.encode(caption[:MAX_CAPTION]).ids], device=self._device)
        made = self._network.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids))
        return F.normalize(made.pooler_output.float().cpu(), dim=-1)[0]


def _extractor(weights: Weights, fused: bool) -> Any:
    """Sound -> the spectrogram that the network hears; only CLAP's own form of it."""
    from transformers import ClapFeatureExtractor

    data = read_object(weights.folder, SOUND)
    must_be(SOUND, data, KNOWN)
    low, high, cut = data.get("frequency_min", 0), data.get("frequency_max", 14000), data.get("truncation", "fusion")
    if not (isinstance(low, int | float) and isinstance(high, int | float) and 0 <= low < high <= RATE / 2):
        raise ValueError(f"{SOUND}: frequency_min={str(low)[:40]}, frequency_max={str(high)[:40]}: are no band of Hz; get it again")
    if cut != (wanted := "fusion" if fused else "rand_trunc"):
        raise ValueError(f"{SOUND}: truncation={str(cut)[:80]!r}: the network wants {wanted!r}; get the folder again")
    return ClapFeatureExtractor(**KNOWN, frequency_min=low, frequency_max=high, truncation=cut)


def _tokenizer(weights: Weights, most: int, longest: int) -> Any:
    with needs("tokenizers"):
        from tokenizers import Tokenizer

    path = weights.folder / TOKENIZER
    if not path.is_file() or path.stat().st_size > MAX_TOKENIZER:
        raise ValueError(f"{TOKENIZER} is missing, or larger than {MAX_TOKENIZER} bytes; get the folder again")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{TOKENIZER} is no tokenizer ({error}); get it again") from error
    if (size := tokenizer.get_vocab_size()) > most:
        raise ValueError(f"{TOKENIZER} has {size} tokens, the network {most}; they are not of one release")
    tokenizer.enable_truncation(longest)
    tokenizer.no_padding()
    return tokenizer
