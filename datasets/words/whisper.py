"""A Whisper network from a folder: windows of sound -> tokens with times. Greedy, so the same sound gives the same tokens.

    folder/  config.json, generation_config.json, preprocessor_config.json, tokenizer.json, model.safetensors

The folder is opened as that of a codec (`model/codecs/folder.py`): safetensors alone, checked against the config, hashed, no code run.
Of its generation config only what names tokens and heads is taken; how tokens are chosen is ours.

Times of tokens come from the attention of some heads of the decoder to the sound (`alignment_heads` of the generation config). All
attentions are kept while a window is decoded: layers x heads x tokens x 1500 numbers, 0.2 GB for 100 tokens of large-v3 in bfloat16.
A folder without such heads gives the times of phrases, to 0.02 s, as tokens among the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from ...model.codecs.folder import CONFIG, FromFolder, Layout, Origin, Place, load_network, named, needs, on_meta, whole
from ...model.pretrained import Copy, same_names
from ...model.types import at_least_fp32
from ...model.weights import read_json

GENERATION, SOUND, TOKENIZER = "generation_config.json", "preprocessor_config.json", "tokenizer.json"
MAX_TOKENIZER = 64 * 2**20  # bytes
STEP = 0.02  # seconds between two times that a Whisper network can tell
RATE = 16000  # samples per second that it hears
HIGHEST = {  # of the numbers that make the network
    "vocab_size": 2**20,
    "num_mel_bins": 512,
    "encoder_layers": 128,
    "decoder_layers": 128,
    "encoder_attention_heads": 256,
    "decoder_attention_heads": 256,
    "encoder_ffn_dim": 2**17,
    "decoder_ffn_dim": 2**17,
    "d_model": 2**15,
    "max_source_positions": 2**14,
    "max_target_positions": 2**12,
}
IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


@dataclass(frozen=True)
class Tokens:
    """What the generation config says about tokens. heads: (layer, head) whose attention follows the sound; none: phrases have times."""

    start: int
    end: int
    no_times: int
    languages: dict[str, int]
    tasks: dict[str, int]
    heads: tuple[tuple[int, int], ...]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    latest_first: int | None

    @classmethod
    def of(cls, data: Any, config: dict[str, Any]) -> Tokens:
        """ValueError names the field that no Whisper network has so."""
        if not isinstance(data, dict):
            raise ValueError(f"{GENERATION}: {type(data).__name__} is no JSON object; get it again")
        vocabulary = config["vocab_size"]

        def token(value: Any, field: str) -> int:
            if type(value) is not int or not 0 <= value < vocabulary:
                raise ValueError(f"{GENERATION}: {field}={str(value)[:80]}: is no token of {vocabulary}; get it again")
            return value

        def named_tokens(field: str) -> dict[str, int]:
            found = data.get(field) or {}
            if not isinstance(found, dict):
                raise ValueError(f"{GENERATION}: {field} is no JSON object; get it again")
            return {str(name).strip("<|>"): token(value, field) for name, value in found.items()}

        def listed(field: str) -> tuple[int, ...]:
            found = data.get(field) or []
            if not isinstance(found, list):
                raise ValueError(f"{GENERATION}: {field} is no list; get it again")
            return tuple(token(value, field) for value in found if value != -1)  # -1: none

        ends = data.get("eos_token_id")
        heads = data.get("alignment_heads") or []
        deep, wide = config["decoder_layers"], config["decoder_attention_heads"]
        if not isinstance(heads, list) or not all(
            isinstance(h, list) and len(h) == 2 and all(type(x) is int for x in h) and 0 <= h[0] < deep and 0 <= h[1] < wide for h in heads
        ):
            raise ValueError(
                f"{GENERATION}: alignment_heads={str(heads)[:80]}: must be pairs of a layer below {deep} and a head below {wide}"
            )
        languages, tasks = named_tokens("lang_to_id"), named_tokens("task_to_id")
        if languages and "transcribe" not in tasks:
            raise ValueError(f"{GENERATION}: task_to_id has no 'transcribe'; get it again")
        latest = data.get("max_initial_timestamp_index")
        return cls(
            token(data.get("decoder_start_token_id"), "decoder_start_token_id"),
            token(ends[0] if isinstance(ends, list) and ends else ends, "eos_token_id"),
            token(data.get("no_timestamps_token_id"), "no_timestamps_token_id"),
            languages,
            tasks,
            tuple((h[0], h[1]) for h in heads),
            listed("suppress_tokens"),
            listed("begin_suppress_tokens"),
            None if latest is None else token(latest, "max_initial_timestamp_index"),
        )


@dataclass(frozen=True)
class Heard:
    """Tokens of a window without its prompt and end, and where there are alignment heads, when each ends: seconds from its beginning."""

    tokens: list[int]
    ends: list[float] | None


class Whisper(FromFolder):
    """See the module. One caller at a time."""

    kind: ClassVar[str] = "whisper"
    layout: ClassVar[Layout] = Layout(
        "model_type",
        "whisper",
        "model.safetensors",
        beside=(GENERATION, SOUND, TOKENIZER),
        fields=(*HIGHEST, *IDS, "activation_function", "scale_embedding", "median_filter_width"),
        keep=lambda name: name != "proj_out.weight",  # the table of embeddings once more
    )

    def __init__(self, network: Any, origin: Origin, tokens: Tokens, extractor: Any, tokenizer: Any) -> None:
        super().__init__(network, origin)
        self.tokens, self._extractor, self._tokenizer = tokens, extractor, tokenizer
        self._like = next(network.parameters()).new_empty(0)

    @staticmethod
    def build(config: dict[str, Any]) -> tuple[nn.Module, list[Copy]]:
        with needs("transformers"):
            from transformers import WhisperConfig, WhisperForConditionalGeneration

        for field, high in HIGHEST.items():
            whole(config, field, 1, high)
        if config.get("activation_function", "gelu") != "gelu":
            raise ValueError(f"{CONFIG}: activation_function={str(config['activation_function'])[:80]!r}: only 'gelu' is read")
        if type(config.get("scale_embedding", False)) is not bool:
            raise ValueError(f"{CONFIG}: scale_embedding={str(config['scale_embedding'])[:80]}: must be a truth value")
        whole({"median_filter_width": 7} | config, "median_filter_width", 1, 63)
        network = on_meta(lambda **fields: WhisperForConditionalGeneration(WhisperConfig(**fields)), config)
        return network, [copy for copy in same_names(network, "") if copy.target != "proj_out.weight"]

    @classmethod
    def open(cls, folder: str, device: str = "cpu", dtype: str = "float32") -> Self:
        """From a local folder.

        Raises:
            ValueError: it is missing, damaged, or of another network; a package or device is not there.
        """
        network: Any
        network, origin = load_network(cls.kind, cls.layout, Place(folder, device, dtype), cls.build)
        network.tie_weights()
        path = Path(folder).absolute()
        with named(path):
            tokens = Tokens.of(read_json(path / GENERATION), origin.config)
            extractor = _extractor(read_json(path / SOUND), origin.config)
            tokenizer = _tokenizer(path, origin.config["vocab_size"])
        if tokens.heads:
            network.config._attn_implementation = "eager"  # the others do not tell what they attend to
        network.generation_config = _greedy(tokens, origin.config)
        return cls(network, origin, tokens, extractor, tokenizer)

    @property
    def seconds(self) -> float:
        """Of a window, at most."""
        return self._extractor.n_samples / RATE

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say; a character that is not whole comes as U+FFFD, special tokens as nothing."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    @torch.no_grad()
    def hear(self, windows: Sequence[np.ndarray], languages: Sequence[str]) -> tuple[list[Heard], list[str]]:
        """What is said in windows, float32 [S] at 16 kHz, and in which language. languages: the codes that are known, "" to be heard."""
        found = self._extractor(list(windows), sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
        device, config = self._like.device, self.network.generation_config
        sound = self.network.model.encoder(found.input_features.to(self._like))
        asked: dict[str, Any] = {}
        spoken = list(languages)
        if self.tokens.languages:
            names = {token: name for name, token in self.tokens.languages.items()}
            if not all(spoken):
                guessed = self.network.detect_language(encoder_outputs=sound, generation_config=config).tolist()
                spoken = [name or names[guess] for name, guess in zip(spoken, guessed, strict=True)]
            asked = {"language": [f"<|{name}|>" for name in spoken], "task": "transcribe"}
        made = self.network.generate(
            encoder_outputs=sound,
            attention_mask=found.attention_mask.to(device),
            return_timestamps=True,
            return_token_timestamps=bool(self.tokens.heads),
            return_dict_in_generate=True,
            force_unique_generate_call=True,  # one pass a window: else what a network says about times decides how often it is asked
            **asked,
        )
        prompt = 3 if asked else 1
        ends = at_least_fp32(made["token_timestamps"]).tolist() if self.tokens.heads else [None] * len(windows)
        return [self._heard(t[prompt:], e and e[prompt:]) for t, e in zip(made["sequences"].tolist(), ends, strict=True)], spoken

    def _heard(self, tokens: list[int], ends: list[float] | None) -> Heard:
        stop = tokens.index(self.tokens.end) if self.tokens.end in tokens else len(tokens)
        return Heard(tokens[:stop], ends and ends[:stop])


def _greedy(tokens: Tokens, config: dict[str, Any]) -> Any:
    """The likeliest token each time, within the rules of timestamps."""
    from transformers import GenerationConfig

    known: dict[str, Any] = {"alignment_heads": [list(head) for head in tokens.heads]} if tokens.heads else {}
    if tokens.languages:
        languages, tasks = ({f"<|{name}|>": token for name, token in tokens.languages.items()}, tokens.tasks)
        known |= {"lang_to_id": languages, "task_to_id": tasks, "is_multilingual": True}
    else:
        known |= {"is_multilingual": False}
    if tokens.latest_first is not None:
        known["max_initial_timestamp_index"] = tokens.latest_first
    return GenerationConfig(
        decoder_start_token_id=tokens.start,
        eos_token_id=tokens.end,
        pad_token_id=tokens.end,
        bos_token_id=tokens.end,
        no_timestamps_token_id=tokens.no_times,
        suppress_tokens=list(tokens.suppressed),
        begin_suppress_tokens=list(tokens.suppressed_first),
        max_length=config["max_target_positions"],
        do_sample=False,
        num_beams=1,
        return_timestamps=True,
        **known,
    )


def _extractor(data: Any, config: dict[str, Any]) -> Any:
    """Sound -> the spectrogram that the network hears; only Whisper's own form of it."""
    with needs("transformers"):
        from transformers import WhisperFeatureExtractor

    known = {"sampling_rate": RATE, "hop_length": 160, "n_fft": 400, "feature_size": config["num_mel_bins"]}
    if not isinstance(data, dict):
        raise ValueError(f"{SOUND}: {type(data).__name__} is no JSON object; get it again")
    for field, value in known.items():
        if data.get(field, value) != value:
            raise ValueError(f"{SOUND}: {field}={str(data[field])[:80]}: only {value} is read, as {CONFIG} and Whisper have it")
    seconds = data.get("chunk_length", 30)
    if type(seconds) is not int or seconds * RATE // 160 != 2 * config["max_source_positions"]:
        raise ValueError(f"{SOUND}: chunk_length={str(seconds)[:80]}: is not max_source_positions={config['max_source_positions']} / 50 s")
    return WhisperFeatureExtractor(feature_size=config["num_mel_bins"], chunk_length=seconds)


def _tokenizer(folder: Path, most: int) -> Any:
    with needs("tokenizers"):
        from tokenizers import Tokenizer

    read_json(folder / TOKENIZER, MAX_TOKENIZER)
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{TOKENIZER} is no tokenizer ({error}); get it again") from error
    if (size := tokenizer.get_vocab_size()) > most:
        raise ValueError(f"{TOKENIZER} has {size} tokens, the network {most}; they are not of one release")
    return tokenizer
