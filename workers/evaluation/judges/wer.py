"""Word error rate of what a clip says: its sound -> a Whisper network -> words, against the words that it should say.

    clip.words ------------------------> normalised -+
                                                     +-> least edits / words that should be said
    clip.samples -> 16 kHz -> Whisper -> normalised -+

What is compared is normalised on both sides as Whisper's authors do (Radford et al. 2022, appendix C): transformers' EnglishTextNormalizer
with the folder's own `normalizer.json` (British spellings), for other languages BasicTextNormalizer; signs that stand alone are no words.
Decoding is greedy, in windows of 30 s that are cut where it is quiet (`datasets/words/transcribe`), without the reference's fallback to
higher temperatures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ....datasets.words.transcribe import TranscribeConfig, Transcriber
from ....model.codecs.folder import needs
from ..clip import About, EvalClip, NotApplicable
from .material import heard
from .weights import Weights, read_object

SPELLINGS = "normalizer.json"
PROTOCOL = "Whisper, {language}, greedy, {normal}; edits / words; version 1"
ENGLISH, OTHERS = "EnglishTextNormalizer of transformers", "BasicTextNormalizer of transformers"
MAX_WORDS = 20_000  # of a clip


class WordErrors:
    """See the module. Its weights: a Whisper folder as transformers writes it (openai/whisper-*), `normalizer.json` among its files."""

    def __init__(self, weights: Weights, language: str = "en") -> None:
        """language: that is spoken, a code as "en" (on the command line `wer:de=FOLDER`); empty: what the network hears.

        Raises:
            ValueError: the folder is no Whisper network, or does not know the language.
        """
        with weights.named():
            normal = ENGLISH if language == "en" else OTHERS
            self._normalise = normaliser(weights, language)
            folder = str(weights.folder)
            try:
                self._hear = Transcriber(TranscribeConfig(folder, language=language, device=weights.device, batch=8))
            except ValueError as error:  # without the settings of another command
                raise ValueError(
                    str(error).removeprefix(f"data.transcribe.folder={folder!r}: ").removeprefix("data.transcribe.")
                ) from error
        protocol = PROTOCOL.format(language=language or "in the language that it hears", normal=normal)
        self.about = (
            About("wer", "ratio", False, protocol, ("sound", "text")),
            About("wer_edits", "words", None, f"{protocol}; the rate of a set is their sum / that of words", ("sound", "text")),
            About("wer_words", "words", None, protocol, ("sound", "text")),
        )

    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """wer: may exceed 1, where more is said than should be. Raises: NotApplicable."""
        wanted = self._words(word for word, _, _ in clip.words)
        if not wanted:
            raise NotApplicable("it has no words that should be said")
        if len(wanted) > MAX_WORDS:
            raise NotApplicable(f"it has {len(wanted)} words, at most {MAX_WORDS} are compared")
        sound = heard(clip, 16000, 0.1)
        said = self._words(word for word, _, _ in self._hear.words(sound, 16000))
        edits = word_edits(wanted, said)
        return {"wer": edits / len(wanted), "wer_edits": float(edits), "wer_words": float(len(wanted))}

    def _words(self, words: Iterable[str]) -> list[str]:
        return [word for word in self._normalise(" ".join(words)).split() if any(c.isalnum() for c in word)]


def normaliser(weights: Weights, language: str) -> Callable[[str], str]:
    """A text as it is compared.

    Raises:
        ValueError: English is asked for, and the folder has no table of spellings.
    """
    with needs("transformers"):
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    if language != "en":
        return BasicTextNormalizer()
    table = read_object(weights.folder, SPELLINGS)
    if not all(isinstance(word, str) for word in table.values()):
        raise ValueError(f"{SPELLINGS} does not say words for words; get it again")
    return EnglishTextNormalizer(table)


def word_edits(wanted: Sequence[str], said: Sequence[str]) -> int:
    """The least number of words that must be put in, left out or changed (Levenshtein 1966), a row of the table at a time."""
    names = {word: i for i, word in enumerate({*wanted, *said})}
    heard_S = np.array([names[word] for word in said], dtype=np.int64)
    steps_S = np.arange(len(said) + 1)
    row_S = steps_S.copy()
    for n, word in enumerate(wanted):
        best_S = np.empty_like(row_S)
        best_S[0] = n + 1
        best_S[1:] = np.minimum(row_S[:-1] + (heard_S != names[word]), row_S[1:] + 1)
        row_S = np.minimum.accumulate(best_S - steps_S) + steps_S  # words that are put in: from the left, one each
    return int(row_S[-1])
