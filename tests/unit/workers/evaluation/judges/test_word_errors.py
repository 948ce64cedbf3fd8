"""Word error rate: edits of known texts, what counts as the same word, and a Whisper folder whose network says a known sentence."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_material import clip
from whisper_material import at, letters, whisper_folder

from mutual_forcing.workers.evaluation.clip import NotApplicable
from mutual_forcing.workers.evaluation.judges.judges import open_judge
from mutual_forcing.workers.evaluation.judges.weights import find_weights
from mutual_forcing.workers.evaluation.judges.wer import WordErrors, word_edits

SCRIPT = [at(10), *letters(" The", 12, 20), *letters(" colour,", 22, 30), *letters(" it's", 32, 40), *letters(" 20!", 42, 50), at(60)]
WORDS = st.lists(st.sampled_from("abc"), max_size=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = whisper_folder(tmp_path_factory.mktemp("nets") / "whisper", SCRIPT)
    (made / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    return made


@pytest.fixture(scope="module")
def judge(folder: Path) -> Any:
    return open_judge("wer", str(folder))


@pytest.mark.parametrize(
    ("wanted", "said", "edits"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "", 3),
        ("a", "b c d", 3),
        ("the cat sat on the mat", "the cat sit on mat", 2),
        ("a b c d", "b c d e", 2),
        ("x y", "a x y b", 2),
    ],
)
def test_edits_of_known_texts(wanted: str, said: str, edits: int) -> None:
    assert word_edits(wanted.split(), said.split()) == edits


@given(WORDS, WORDS, WORDS)
def test_edits_are_a_distance(a: list[str], b: list[str], c: list[str]) -> None:
    assert word_edits(a, b) == word_edits(b, a)
    assert (word_edits(a, b) == 0) == (a == b)
    assert word_edits(a, c) <= word_edits(a, b) + word_edits(b, c)
    assert abs(len(a) - len(b)) <= word_edits(a, b) <= max(len(a), len(b))


@pytest.mark.parametrize(
    ("words", "edits", "count"),
    [
        (("the", "color", "it", "is", "twenty"), 0, 5),
        (("The", "COLOUR", "it's", "20"), 0, 5),
        (("the", "colour", "is", "twenty"), 1, 4),
        (("no", "colour"), 4, 2),
    ],
)
def test_what_is_heard_is_compared_with_what_should_be_said(judge: Any, words: tuple[str, ...], edits: int, count: int) -> None:
    found = judge.of_clip(clip(2, words=words, rate=24000))
    assert found == {"wer": edits / count, "wer_edits": edits, "wer_words": count}
    assert set(found) == {about.name for about in judge.about}


def test_another_language_is_normalised_without_english_rules(folder: Path) -> None:
    judge: Any = open_judge("wer:de", str(folder))
    assert judge.about[0].protocol.startswith("Whisper, de, greedy"), "what it compares must say in which language"
    assert judge.of_clip(clip(2, words=("the", "colour", "it", "s", "20")))["wer"] == 0
    assert judge.of_clip(clip(2, words=("the", "color", "it's", "20")))["wer_edits"] == 1
    assert "Basic" in judge.about[0].protocol


def test_a_clip_without_words_or_sound_is_not_judged(judge: Any) -> None:
    with pytest.raises(NotApplicable, match="no words"):
        judge.of_clip(clip(2))
    with pytest.raises(NotApplicable, match="no words"):
        judge.of_clip(clip(2, words=("[laughs]", "...")))
    with pytest.raises(NotApplicable, match="silent"):
        judge.of_clip(replace(clip(2, words=("a",)), samples=np.zeros(32000, np.float32)))


def test_a_folder_without_spellings_or_network_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "normalizer.json").unlink()
    with pytest.raises(ValueError, match=r"judge 'wer', where=.*: normalizer.json is missing"):
        open_judge("wer", str(copy))
    (copy / "normalizer.json").write_text('{"colour": 1}')
    with pytest.raises(ValueError, match=r"normalizer\.json does not say words for words"):
        open_judge("wer", str(copy))
    (copy / "normalizer.json").write_text("{}")
    (copy / "generation_config.json").unlink()
    with pytest.raises(ValueError, match=r"judge 'wer', where=.*generation_config.json cannot be read") as caught:
        open_judge("wer", str(copy))
    assert "data.transcribe" not in str(caught.value)
    with pytest.raises(ValueError, match="language='xx'"):
        WordErrors(find_weights("wer", str(folder)), language="xx")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wer:", "judge 'wer:': a language may follow the colon"),
        ("dino:de", "judge 'dino:de': nothing may follow it; give dino=FOLDER"),
        ("wer:xx", "language='xx': the network knows"),
    ],
)
def test_what_follows_a_judge_is_checked(folder: Path, name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        open_judge(name, str(folder))
