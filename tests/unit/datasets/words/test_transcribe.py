"""Words with times from a Whisper folder in the real format. Some networks here say a script, so that what is heard is known."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer, pipeline
from whisper_material import GERMAN, JAPANESE, NO_TIMES, SECONDS, at, letters, whisper_folder

from mutual_forcing.datasets.intake.sidecars import cut_words
from mutual_forcing.datasets.words import transcribe
from mutual_forcing.datasets.words.plugins import TRANSCRIBERS, Transcript
from mutual_forcing.datasets.words.transcribe import TranscribeConfig, Transcriber, circles, open_transcriber, possible, quietest, windows

RATE = 16000
SCRIPT = [at(10), *letters(" good", 15, 30), *letters(" morning,", 40, 60), at(70), at(75), *letters(" you", 80, 90), at(95)]


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper_folder(tmp_path_factory.mktemp("nets") / "whisper", SCRIPT)


@pytest.fixture(scope="module")
def transcriber(folder: Path) -> Transcriber:
    return Transcriber(TranscribeConfig(str(folder)))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# --- what is heard, and when ------------------------------------------------------------------------------------------------


def test_words_have_the_times_that_transformers_own_pipeline_finds(folder: Path, transcriber: Transcriber) -> None:
    network = WhisperForConditionalGeneration.from_pretrained(folder)
    parts = {"tokenizer": WhisperTokenizer.from_pretrained(folder), "feature_extractor": WhisperFeatureExtractor.from_pretrained(folder)}
    theirs: Any = pipeline("automatic-speech-recognition", model=network, **parts)  # pyright: ignore[reportCallIssue, reportArgumentType]
    sound = noise(2)
    kwargs = {"language": "en", "max_new_tokens": 50, "num_beams": 1}
    found = theirs({"raw": sound.copy(), "sampling_rate": RATE}, return_timestamps="word", generate_kwargs=kwargs)
    wanted = [(chunk["text"].strip(), *chunk["timestamp"]) for chunk in found["chunks"]]
    (made,) = transcriber.transcribe([sound], RATE)
    assert [word for word, _, _ in made.words] == [word for word, _, _ in wanted] == ["good", "morning,", "you"]
    phrases = {"good": (0.2, 2.0), "morning,": (0.0, 1.4), "you": (1.5, 1.9)}  # where theirs begin before anybody speaks, ours do not
    for (word, start, end), (_, first, last) in zip(made.words, wanted, strict=True):
        low, high = phrases[word]
        assert start == pytest.approx(max(first, low), abs=1e-3)
        assert end == pytest.approx(min(last, high), abs=1e-3)
    assert (made.language, made.notes) == ("en", ())


def test_long_sound_is_heard_window_by_window_on_its_own_clock(transcriber: Transcriber) -> None:
    sound = noise(7.3)
    sound[int(1.9 * RATE) : int(2.0 * RATE)] = 0  # a pause at the end of the first window
    (made,) = transcriber.transcribe([sound], RATE)
    starts = [w.start_s for w in windows(0, sound, RATE, SECONDS)]
    assert starts[1] == pytest.approx(1.95, abs=0.01)
    assert len(starts) in (4, 5)
    one = transcriber.words(noise(2), RATE)
    for i, start in enumerate(starts[:-1]):
        for (word, first, _), (same, then, _) in zip(made.words[3 * i :], one, strict=False):
            assert (word, first) == (same, pytest.approx(start + then, abs=0.002))
    times = [time for _, start, end in made.words for time in (start, end)]
    assert times == sorted(times)
    assert times[-1] <= 7.3
    assert cut_words(made.words, starts[1], 2.0)[0][0] == "good", "they go the way of a sidecar's"
    pieces = (sound[i : i + 5000] for i in range(0, len(sound), 5000))
    assert transcriber.transcribe([pieces], RATE) == [made], "a source that comes in pieces"


def test_clips_do_not_hear_each_other_and_silence_says_nothing(folder: Path, transcriber: Transcriber) -> None:
    clips = [noise(2.5, seed=1), np.zeros(3 * RATE, np.float32), noise(1.3, seed=2), noise(0.05), np.zeros(0, np.float32), noise(4.1)]
    together = transcriber.transcribe(clips, RATE)
    assert together == [transcriber.transcribe([clip], RATE)[0] for clip in clips]
    assert together == Transcriber(TranscribeConfig(str(folder), batch=1)).transcribe(clips, RATE)
    assert [bool(t.words) for t in together] == [True, False, True, False, False, True]
    assert all(0 <= start <= end <= 1.3 for _, start, end in together[2].words), "a network that goes on past the end is cut"


@pytest.mark.parametrize("rate", [44100, 22050, 48000])
def test_other_rates_have_the_same_times(transcriber: Transcriber, rate: int) -> None:
    assert transcriber.words(noise(2, rate), rate) == transcriber.words(noise(2), RATE)


def test_the_spectrum_survives_resampling() -> None:
    """The other tests hear the same whatever is played; here the sound itself is compared."""
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100).astype(np.float32)
    there = transcribe.resampled(tone, 44100)
    wanted = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert there.dtype == np.float32
    assert np.abs(there - wanted)[500:-500].max() < 2e-3


def test_without_alignment_heads_a_phrase_is_shared_by_letters_and_a_note_says_so(tmp_path: Path) -> None:
    made = Transcriber(TranscribeConfig(str(whisper_folder(tmp_path / "net", SCRIPT, heads=False)))).transcribe([noise(2)], RATE)[0]
    first, second, third = made.words
    assert (first[0], *second[:1], third) == ("good", "morning,", ("you", 1.5, 1.9))
    assert first[1:] == (0.2, pytest.approx(0.2 + 1.2 * 5 / 14, abs=1e-3))
    assert second[1:] == (first[2], 1.4)
    assert made.notes == ("the network tells no times of words: those of a phrase share its time by their letters",)


def test_a_language_without_blanks_has_a_word_a_character(tmp_path: Path) -> None:
    script = [at(0), *letters("おは。", 10, 70), at(80)]
    for heads in (True, False):
        net = whisper_folder(tmp_path / f"net{heads}", script, language=JAPANESE, heads=heads)
        made = Transcriber(TranscribeConfig(str(net))).transcribe([noise(2)], RATE)[0]
        assert made.language == "ja"
        assert [word for word, _, _ in made.words] == (["お", "は。"] if heads else ["お", "は", "。"])


def test_the_language_is_heard_or_given(tmp_path: Path) -> None:
    net = str(whisper_folder(tmp_path / "net", SCRIPT, language=GERMAN))
    assert Transcriber(TranscribeConfig(net)).transcribe([noise(5)], RATE)[0].language == "de"
    assert Transcriber(TranscribeConfig(net, language="en")).transcribe([noise(2)], RATE)[0].language == "en"
    with pytest.raises(ValueError, match=r"data\.transcribe\.language='fr': the network knows de, en, ja"):
        Transcriber(TranscribeConfig(net, language="fr"))
    english = Transcriber(TranscribeConfig(str(whisper_folder(tmp_path / "english", SCRIPT, multilingual=False))))
    assert [word for word, _, _ in english.words(noise(2), RATE)] == ["good", "morning,", "you"]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_clip_is_in_the_language_of_its_first_window(tmp_path: Path, batch: int) -> None:
    time = np.arange(2 * RATE) / RATE
    low, high = (np.sin(2 * np.pi * hertz * time).astype(np.float32) / 4 for hertz in (200, 4000))
    net = Transcriber(TranscribeConfig(str(whisper_folder(tmp_path / "net", SCRIPT, language=None)), batch=batch))
    clips = [low, high, np.concatenate([low, high, high]), np.concatenate([high, low, low])]
    assert [made.language for made in net.transcribe(clips, RATE)] == ["de", "en", "de", "en"]


def test_a_network_that_goes_round_in_circles_is_left_out_with_a_note(tmp_path: Path) -> None:
    script = [at(5), *letters(" a a a a a a a a a a a a a a a a a a a a a a", 10, 80), at(90)]
    made = Transcriber(TranscribeConfig(str(whisper_folder(tmp_path / "net", script)))).transcribe([noise(1.5)], RATE)[0]
    assert made == Transcript((), "en", ("0.0 s to 1.5 s: left out, the network repeats itself",))
    assert not circles("to be or not to be, that is the question: whether it is nobler in the mind to suffer")


@pytest.mark.parametrize("heads", [True, False])
def test_whatever_random_weights_say_is_a_transcript(tmp_path: Path, heads: bool) -> None:
    for seed in range(3):
        net = Transcriber(TranscribeConfig(str(whisper_folder(tmp_path / str(seed), heads=heads, seed=seed))))
        for made in net.transcribe([noise(5, seed=seed), noise(1, seed=seed)], RATE):
            times = [time for _, *both in made.words for time in both]
            assert all(0 <= time <= 5 for time in times)
            assert all(word.strip() == word != "" for word, _, _ in made.words)


# --- rules ------------------------------------------------------------------------------------------------------------------


TIMES = st.floats(-1e3, 1e3) | st.sampled_from([float("nan"), float("inf"), -float("inf")])


@given(st.lists(st.tuples(st.text(max_size=5) | st.just("x" * 101), TIMES, TIMES)), st.floats(0, 100))
def test_what_is_kept_could_stand_in_a_sidecar(words: list[tuple[str, float, float]], seconds: float) -> None:
    kept = possible(words, seconds)
    latest = 0.0
    for word, start, end in kept:
        assert latest <= start <= end <= seconds
        assert 0 < len(word) <= transcribe.LONGEST
        assert word.encode().decode().isprintable()
        latest = start
    good = [word for word, start, end in words if word.isalnum() and len(word) < 100 and abs(start) < 1e4 and abs(end) < 1e4]
    assert [word for word, _, _ in kept if word in good] == good, "no word is lost that could be one"


@given(st.lists(st.integers(0, 900), max_size=8), st.integers(0, 5))
def test_windows_are_the_sound_cut_once_however_it_comes(lengths: list[int], seed: int) -> None:
    rate, seconds = 100, 3.0
    sound = noise(sum(lengths) / rate, rate, seed)
    pieces = np.split(sound, np.cumsum(lengths)[:-1]) if lengths else []
    cut = list(windows(4, iter(pieces), rate, seconds))
    assert all(0 < len(w.samples) <= rate * seconds and w.clip == 4 for w in cut)
    assert np.array_equal(np.concatenate([np.zeros(0, np.float32), *(w.samples for w in cut)]), sound)
    starts = np.cumsum([0, *(len(w.samples) for w in cut)])[:-1] / rate
    assert [w.start_s for w in cut] == pytest.approx(list(starts))
    whole = list(windows(4, sound, rate, seconds))
    assert [len(w.samples) for w in whole] == [len(w.samples) for w in cut]


def test_a_window_ends_in_the_pause_near_its_end() -> None:
    sound = noise(30)
    sound[int(1.0 * RATE) : int(1.3 * RATE)] = 0  # too early to be its end
    sound[int(27.2 * RATE) : int(27.4 * RATE)] *= 0.01
    assert 27.2 <= quietest(sound, RATE) / RATE <= 27.4


@pytest.mark.parametrize("sound", [np.zeros(5), np.zeros((5, 2), np.float32), np.array([0, np.nan], np.float32)])
def test_what_is_no_sound_is_refused(transcriber: Transcriber, sound: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected float32 \[S\], all of it finite"):
        transcriber.transcribe([noise(1), sound], RATE)


# --- strangers' folders, plug-ins, settings ---------------------------------------------------------------------------------


def edit(folder: Path, name: str, **change: Any) -> None:
    data = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(data | change))


def poison(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.encoder.conv1.bias"][0] = float("inf")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


G, P = "generation_config.json", "preprocessor_config.json"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "holds a pickle"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json cannot be read|tokenizer.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json is no tokenizer"),
        (lambda f: (f / G).write_text("["), r"generation_config\.json is not JSON"),
        (lambda f: (f / G).write_text("[]"), "list is no JSON object"),
        (lambda f: edit(f, G, alignment_heads=[[0, 5]]), "alignment_heads=.*must be pairs"),
        (lambda f: edit(f, G, alignment_heads=[[0.5, 0]]), "alignment_heads=.*must be pairs"),
        (lambda f: edit(f, G, lang_to_id={"<|en|>": 10**6}), "lang_to_id=1000000: is no token"),
        (lambda f: edit(f, G, task_to_id={}), "task_to_id has no 'transcribe'"),
        (lambda f: edit(f, G, no_timestamps_token_id=None), "no_timestamps_token_id=None: is no token"),
        (lambda f: edit(f, G, suppress_tokens="all"), "suppress_tokens is no list"),
        (lambda f: edit(f, P, chunk_length=30), "chunk_length=30: is not max_source_positions=100 / 50 s"),
        (lambda f: edit(f, P, n_fft=4), "n_fft=4: only 400 is read"),
        (lambda f: edit(f, "config.json", model_type="bert"), "model_type='bert' is not 'whisper'"),
        (lambda f: edit(f, "config.json", decoder_layers=10**9), "decoder_layers=1000000000: must be an integer"),
        (lambda f: edit(f, "config.json", d_model=128), "this network needs"),
        (lambda f: edit(f, "config.json", activation_function="os.system"), "only 'gelu' is read"),
        (poison, "not all values are finite"),
    ],
)
def test_a_strangers_folder_is_refused_in_one_line(copy: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=words) as refused:
        Transcriber(TranscribeConfig(str(copy)))
    assert str(refused.value).startswith(f"data.transcribe.folder={str(copy)!r}: ")
    assert "\n" not in str(refused.value)


def test_how_tokens_are_chosen_is_not_the_folders_to_say(copy: Path, transcriber: Transcriber) -> None:
    edit(copy, G, num_beams=10**9, do_sample=True, temperature=9.0, max_length=10**9, forced_decoder_ids=[[1, NO_TIMES]])
    changed = Transcriber(TranscribeConfig(str(copy)))
    assert changed.transcribe([noise(2)], RATE) == transcriber.transcribe([noise(2)], RATE)
    assert changed.identity != transcriber.identity


def test_identity_is_the_content_and_the_language(copy: Path, transcriber: Transcriber) -> None:
    assert Transcriber(TranscribeConfig(str(copy), batch=1)).identity == transcriber.identity
    assert Transcriber(TranscribeConfig(str(copy), language="de")).identity != transcriber.identity
    assert Transcriber(TranscribeConfig(str(copy), dtype="bfloat16")).identity != transcriber.identity


PLUGIN = """
from mutual_forcing.datasets.words.plugins import Transcript

class Mine:
    identity = "mine"
    def __init__(self, language): self.language = language
    def transcribe(self, clips, sample_rate):
        return [Transcript((("word", 0.0, 1.0),), self.language) for _ in clips]

def make(config):
    return Mine(config.language)
"""


def test_an_installed_package_may_give_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_package.py").write_text(PLUGIN)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{TRANSCRIBERS}]\nmine = their_package:make\nbroken = their_package:nothing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    made = open_transcriber(TranscribeConfig(plugin="mine", language="fr"))
    assert made is not None
    assert made.transcribe([noise(1)], RATE) == [Transcript((("word", 0.0, 1.0),), "fr")]
    with pytest.raises(ValueError, match=r"plugin='other': 0 installed packages name it .* \(there are: broken, mine\)"):
        open_transcriber(TranscribeConfig(plugin="other"))
    with pytest.raises(ValueError, match=r"plugin='broken': their_package:nothing cannot be imported \(AttributeError"):
        open_transcriber(TranscribeConfig(plugin="broken"))
    sys.modules.pop("their_package", None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"folder": "a", "plugin": "b"}, "give one of them"),
        ({"dtype": "int8"}, "data.transcribe.dtype='int8': is not one of"),
        ({"batch": 0}, "data.transcribe.batch=0: must be at least 1"),
    ],
)
def test_settings_that_make_no_transcripts_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TranscribeConfig(**change)
    assert open_transcriber(TranscribeConfig()) is None
