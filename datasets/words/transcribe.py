"""Words with times from sound, for sources that have no transcript: a Whisper network from a folder, or a plug-in of the user's.

    sound (pieces) -> windows, cut where it is quiet -> 16 kHz -> network -> tokens with times -> words -> what cannot be is left out

The words go the way of a sidecar's. Where a network tells no times of words, those of a phrase share its time by their letters; a note
says so. Windows overlap nowhere and are cut at their quietest moment, so no word is heard twice. Memory is that of one batch of windows,
however long the sound is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import gcd, isfinite

import numpy as np

from ...model.codecs.folder import DTYPES, needs
from ..encoding.pretrained_folder import local_folder
from ..intake.sidecars import TimedWords, _shared, is_text
from .plugins import TRANSCRIBERS, SpeechToText, Transcript, installed
from .whisper import RATE, STEP, Heard, Whisper

Clip = np.ndarray | Iterable[np.ndarray]
TOGETHER = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # written without spaces: characters count as words
BROKEN = "\N{REPLACEMENT CHARACTER}"
SILENT_DB = -60.0  # of full scale, below which a network that hears nothing makes words up
SHORTEST = 0.1  # seconds of sound that are looked into
QUIET = 0.1  # seconds of the moment at which a window is cut
REPEATS = 2.4  # text that becomes so many times smaller by compression goes round in circles (Radford et al. 2022, 4.5)
LONGEST = 100  # characters of a word


@dataclass(frozen=True)
class TranscribeConfig:
    """Words of sources without a transcript. folder: of a Whisper network, a path, s3://BUCKET/FOLDER or hf://OWNER/NAME@COMMIT/FOLDER;
    plugin: the name of an installed one (see plugins.py). Neither: such sources have no words.

    language: a code as "en"; empty: heard from the first window of each clip. device, dtype: of the network. batch: windows together.
    """

    folder: str = ""
    plugin: str = ""
    language: str = ""
    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 4

    def __post_init__(self) -> None:
        if self.folder and self.plugin:
            raise ValueError(f"data.transcribe.folder={self.folder!r} and data.transcribe.plugin={self.plugin!r}: give one of them")
        if self.dtype not in DTYPES:
            raise ValueError(f"data.transcribe.dtype={self.dtype!r}: is not one of {', '.join(DTYPES)}; bfloat16 suits a GPU")
        if self.batch < 1:
            raise ValueError(f"data.transcribe.batch={self.batch}: must be at least 1")


@dataclass(frozen=True)
class Window:
    """A stretch of a clip's sound, float32 [S], and where it starts in seconds."""

    clip: int
    start_s: float
    samples: np.ndarray


@dataclass
class _Taken:
    """What has been heard of a clip so far."""

    words: list[tuple[str, float, float]] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)  # in order, each once
    language: str = ""
    seconds: float = 0.0


def open_transcriber(config: TranscribeConfig) -> SpeechToText | None:
    """The transcriber of a configuration, or None. Takes as long as reading and hashing the weights: once a process.

    Raises:
        ValueError: the folder or the plug-in is not there, or not what it should be.
    """
    if config.plugin:
        return installed(TRANSCRIBERS, "data.transcribe.plugin", config.plugin, config)
    return Transcriber(config) if config.folder else None


class Transcriber:
    """See the module. What a window says does not depend on those beside it in a batch, up to rounding."""

    def __init__(self, config: TranscribeConfig) -> None:
        """Raises ValueError, naming the field, where the folder is no Whisper network that can be read, or does not know the language."""
        self._config, name = config, "data.transcribe.folder"
        folder = local_folder(name, config.folder)
        try:
            self._network = Whisper.open(str(folder), config.device, config.dtype)
        except ValueError as error:
            raise ValueError(f"{name}={config.folder!r}: {error}") from error
        known = sorted(self._network.tokens.languages) or ["en"]
        if config.language and config.language not in known:
            raise ValueError(f"data.transcribe.language={config.language!r}: the network knows {', '.join(known)}")

    @property
    def identity(self) -> str:
        return f"{self._network.identity}:{self._config.language}"

    def words(self, audio: Clip, sample_rate: int) -> TimedWords:
        """Words of one clip, as `transcribe`."""
        return self.transcribe([audio], sample_rate)[0].words

    def transcribe(self, clips: Sequence[Clip], sample_rate: int) -> list[Transcript]:
        """Words of each clip, float32 [S] mono at `sample_rate` per second, or pieces of it one after the other.

        Raises:
            ValueError: a piece is no sound: of another form, or not finite.
        """
        taken = [_Taken(language=self._config.language) for _ in clips]
        waiting = list[Window]()
        for i, clip in enumerate(clips):
            for window in windows(i, clip, sample_rate, self._network.seconds):
                taken[i].seconds = window.start_s + len(window.samples) / sample_rate
                if len(window.samples) >= SHORTEST * sample_rate and level_db(window.samples) >= SILENT_DB:
                    waiting.append(window)
                if len(waiting) == self._config.batch:
                    self._listen(waiting, sample_rate, taken)
                    waiting = []
        if waiting:
            self._listen(waiting, sample_rate, taken)
        return [Transcript(possible(t.words, t.seconds), t.language, tuple(t.notes)) for t in taken]

    def _listen(self, batch: Sequence[Window], sample_rate: int, taken: Sequence[_Taken]) -> None:
        sounds = [resampled(window.samples, sample_rate) for window in batch]
        found, spoken = self._network.hear(sounds, [taken[window.clip].language for window in batch])
        again = []
        for i, (window, language) in enumerate(zip(batch, spoken, strict=True)):
            clip = taken[window.clip]
            clip.language = clip.language or language  # that of its first window
            again += [i] if language != clip.language else []
        if again:  # later windows of a clip that was not known in another language than its first
            heard, _ = self._network.hear([sounds[i] for i in again], [taken[batch[i].clip].language for i in again])
            for i, one in zip(again, heard, strict=True):
                found[i] = one
        for window, heard in zip(batch, found, strict=True):
            self._take(window, heard, len(window.samples) / sample_rate, taken[window.clip])

    def _take(self, window: Window, heard: Heard, seconds: float, clip: _Taken) -> None:
        together = clip.language in TOGETHER
        if heard.ends is None:
            words = phrases(heard, self._network, seconds, together)
            clip.notes["the network tells no times of words: those of a phrase share its time by their letters"] = None
        else:
            words = spelled(heard, self._network, together)
        if circles(" ".join(word for word, _, _ in words)):
            clip.notes[f"{window.start_s:.1f} s to {window.start_s + seconds:.1f} s: left out, the network repeats itself"] = None
            return
        limited = ((word, min(start, seconds), min(end, seconds)) for word, start, end in words)
        clip.words += [(word, start + window.start_s, end + window.start_s) for word, start, end in limited]


def windows(clip: int, sound: Clip, sample_rate: int, seconds: float) -> Iterator[Window]:
    """Sound in stretches of at most so many seconds, cut at the quietest moment of the last sixth that they could have.

    Raises:
        ValueError: a piece is no sound.
    """
    most, done, held = int(seconds * sample_rate), 0, np.zeros(0, np.float32)
    for piece in [sound] if isinstance(sound, np.ndarray) else sound:
        if piece.ndim != 1 or piece.dtype != np.float32 or not np.isfinite(piece).all():
            raise ValueError(f"sound: {piece.dtype} {piece.shape}; expected float32 [S], all of it finite")
        for start in range(0, len(piece), most):  # in pieces of its own: what is held stays small
            held = np.concatenate([held, piece[start : start + most]])
            while len(held) > most:
                cut = quietest(held[:most], sample_rate)
                yield Window(clip, done / sample_rate, held[:cut])
                done, held = done + cut, held[cut:]
    if len(held):
        yield Window(clip, done / sample_rate, held)


def quietest(samples: np.ndarray, sample_rate: int) -> int:
    """The middle of the quietest moment in the last sixth of a stretch."""
    first, width = len(samples) - len(samples) // 6, max(1, int(QUIET * sample_rate))
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples[first:], dtype=np.float64))])
    if len(energy) <= width:
        return len(samples)
    return first + int(np.argmin(energy[width:] - energy[:-width])) + width // 2


def level_db(samples: np.ndarray) -> float:
    """Of sound, in dB of full scale."""
    return float(20 * np.log10(np.sqrt(np.mean(np.square(samples, dtype=np.float64))) + 1e-12))


def resampled(samples: np.ndarray, sample_rate: int, wanted: int = RATE) -> np.ndarray:
    """At the rate that a network hears; without another word at that of Whisper."""
    if sample_rate == wanted:
        return samples
    with needs("scipy"):
        from scipy.signal import resample_poly

    common = gcd(sample_rate, wanted)
    return resample_poly(samples, wanted // common, sample_rate // common).astype(np.float32)


def spelled(heard: Heard, network: Whisper, together: bool) -> list[tuple[str, float, float]]:
    """Tokens that have times -> words: a blank begins one; where none are written, each character does, and punctuation stays behind it.

    The attention of a window's first token begins with the window, whenever somebody begins to speak: so the first word of a phrase starts
    no earlier, and its last ends no later, than the network says of the phrase.
    """
    assert heard.ends is not None
    words, held, begins, phrase, fresh = list[tuple[str, float, float]](), list[int](), 0.0, 0.0, True
    starts = [0.0, *heard.ends[:-1]]
    for token, start, end in zip(heard.tokens, starts, heard.ends, strict=True):
        if token > network.tokens.no_times:
            phrase = (token - network.tokens.no_times - 1) * STEP
            if words and not fresh:
                word, first, last = words[-1]
                words[-1] = (word, first, max(first, min(last, phrase)))
            held, fresh = [], True
            continue
        begins = begins if held else start
        held.append(token)
        text = network.text(held)
        if text.endswith(BROKEN) or not text.strip():  # the rest of the character, or of the word, comes with the next token
            continue
        held = []
        if fresh or text[0].isspace() or (together and any(c.isalnum() for c in text)):
            words.append((text.strip(), max(begins, min(phrase, end)) if fresh else begins, end))
            fresh = False
        else:
            word, first, _ = words[-1]
            words[-1] = (word + text.strip(), first, end)
    return words


def phrases(heard: Heard, network: Whisper, seconds: float, together: bool) -> list[tuple[str, float, float]]:
    """Tokens among which times of phrases stand -> words that share the time of their phrase by their letters."""
    words, held, begins = list[tuple[str, float, float]](), list[int](), 0.0

    def said(end: float) -> list[tuple[str, float, float]]:
        text = network.text(held).replace(BROKEN, "")
        return _shared(list("".join(text.split())) if together else text.split(), begins, max(begins, end))

    for token in heard.tokens:
        if token > network.tokens.no_times:
            time = (token - network.tokens.no_times - 1) * STEP
            words, held, begins = words + said(time), [], time
        else:
            held.append(token)
    return words + said(seconds)


def circles(text: str) -> bool:
    """Whether a text goes round in circles, as networks do that have lost the thread."""
    written = text.encode(errors="replace")
    return len(written) > REPEATS * len(zlib.compress(written))


def possible(words: Iterable[tuple[str, float, float]], seconds: float) -> TimedWords:
    """Words as a transcript may have them: text that is some, within the sound, none before the one that it follows."""
    kept, latest = list[tuple[str, float, float]](), 0.0
    for word, start, end in words:
        text = "".join(c for c in word if c.isprintable() and c != BROKEN).strip()
        if not text or len(text) > LONGEST or not is_text(text) or not (isfinite(start) and isfinite(end)):
            continue
        latest = min(max(round(start, 3), latest), seconds)
        kept.append((text, latest, min(max(round(end, 3), latest), seconds)))
    return tuple(kept)
