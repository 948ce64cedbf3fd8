"""Text beside a media file, on its clock: a caption, and what is said when.

    talk.json             {"caption": ..., "transcript": [{"word", "start", "end"}, ...]}, such a list alone, or what WhisperX writes
    talk.txt              a caption
    talk.srt, talk.vtt    subtitles: the words of a cue share its time by their letters

A file may have several, but one caption and one transcript: which of two is right is not ours to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import webvtt

MAX_SIDECAR_BYTES = 4 << 20
MAX_SECONDS = 1e6
SIDECARS = (".json", ".txt", ".srt", ".vtt")

TimedWords = tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Sidecar:
    """Text of a source: a caption, and words with start and end in seconds on the video clock."""

    caption: str = ""
    words: TimedWords = ()


def sidecars_of(media: Path) -> list[Path]:
    """The files beside a media file that hold its text."""
    return [path for suffix in SIDECARS if (path := media.with_suffix(suffix)) != media and path.is_file()]


def read_sidecar(media: Path) -> Sidecar:
    """The text beside a media file, or an empty one.

    Raises:
        ValueError: a file cannot be read, is too large or not of the documented form; or there are two captions, or two transcripts.
    """
    caption, words, told = "", (), dict[str, str]()
    try:
        found = sidecars_of(media)
    except OSError as error:
        raise ValueError(f"sidecar {media.stem}: cannot be looked for ({error.strerror}); change the folder's permissions") from error
    for path in found:
        one = _read(path)
        for what, there in (("caption", one.caption), ("transcript", one.words)):
            if there and (other := told.setdefault(what, path.name)) != path.name:
                raise ValueError(f"sidecar {path.name}: gives a {what}, as {other} does; remove one of them")
        caption, words = caption or one.caption, words or one.words
    return Sidecar(caption, words)


def parse_sidecar(data: Any, name: str) -> Sidecar:
    """Check what JSON holds: see the module docstring; caption and transcript may be absent.

    Raises:
        ValueError: it is of another form.
    """
    form = '{"caption": "...", "transcript": [{"word": "...", "start": 0.1, "end": 0.4}]}'
    if isinstance(data, dict) and ("segments" in data or "word_segments" in data):
        return _checked("", _whisperx(data, name), name)
    if isinstance(data, list):
        data = {"transcript": data}
    if not isinstance(data, dict) or not isinstance(data.get("caption", ""), str) or not isinstance(data.get("transcript", []), list):
        raise ValueError(f"sidecar {name}: must look like {form}")
    words = []
    for i, word in enumerate(data.get("transcript", [])):
        try:
            words.append((str(word["word"]), float(word["start"]), float(word["end"])))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"sidecar {name}: transcript[{i}]={repr(word)[:80]} must look like {form}") from error
    return _checked(data.get("caption", ""), words, name)


def cut_words(words: TimedWords, start_s: float, seconds: float) -> TimedWords:
    """The words that sound within [start, start + seconds), on the clock of that cut."""
    return tuple((w, s - start_s, e - start_s) for w, s, e in words if e > start_s and s < start_s + seconds)


def is_text(name: str) -> bool:
    """Whether a string can be written as UTF-8: a file name of other bytes, or half of a surrogate pair in JSON, cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(path: Path) -> Sidecar:
    try:
        with path.open("rb") as file:
            written = file.read(MAX_SIDECAR_BYTES + 1)
    except OSError as error:
        raise ValueError(f"sidecar {path.name}: cannot be read ({error.strerror}); change its permissions or remove it") from error
    if len(written) > MAX_SIDECAR_BYTES:
        raise ValueError(f"sidecar {path.name}: larger than {MAX_SIDECAR_BYTES} bytes; shorten its transcript")
    if path.suffix == ".json":
        try:
            data = json.loads(written.decode())
        except (ValueError, RecursionError) as error:  # ValueError: also numbers of too many digits
            raise ValueError(f"sidecar {path.name}: not JSON ({error}); mend or remove it") from error
        return parse_sidecar(data, path.name)
    try:
        text = written.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"sidecar {path.name}: not UTF-8; write it again as UTF-8") from error
    if path.suffix == ".txt":
        return _checked(" ".join(text.split()), [], path.name)
    return _checked("", _subtitles(text, path), path.name)


def _checked(caption: str, words: Iterable[tuple[str, float, float]], name: str) -> Sidecar:
    sidecar = Sidecar(caption, tuple(words))
    for i, (_, start, end) in enumerate(sidecar.words):
        if not 0 <= start <= end < MAX_SECONDS:
            raise ValueError(f"sidecar {name}: transcript[{i}] from {start} to {end} s: need 0 <= start <= end")
    if not all(is_text(text) for text in (sidecar.caption, *(word for word, _, _ in sidecar.words))):
        raise ValueError(f"sidecar {name}: holds half of a surrogate pair, which is no character; write it again as UTF-8")
    return sidecar


def _subtitles(text: str, path: Path) -> list[tuple[str, float, float]]:
    try:
        cues = webvtt.from_buffer(StringIO(text), format=path.suffix[1:])
    except Exception as error:  # whatever a parser makes of hostile text
        raise ValueError(f"sidecar {path.name}: no subtitles of its kind ({_line(error)}); mend or remove it") from error
    words = [word for cue in cues for word in _shared(cue.text.split(), _seconds(cue.start_time), _seconds(cue.end_time))]
    return sorted(words, key=lambda word: word[1])


def _seconds(time: webvtt.models.Timestamp) -> float:
    return time.hours * 3600 + time.minutes * 60 + time.seconds + time.milliseconds / 1000


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


def _shared(words: list[str], start: float, end: float) -> list[tuple[str, float, float]]:
    """Words that share a time by their letters, each with the gap after it."""
    if not words:
        return []
    letters = [len(word) + 1 for word in words]
    ends = [start + (end - start) * sum(letters[: i + 1]) / sum(letters) for i in range(len(words))]
    return list(zip(words, [start, *ends[:-1]], ends, strict=True))


def _whisperx(data: dict[str, Any], name: str) -> list[tuple[str, float, float]]:
    """Words with their times; those that could not be aligned (numerals, mostly) share the time between their neighbours."""
    try:
        segments = data.get("segments") or [{"words": data["word_segments"]}]
        words: list[tuple[str, float, float]] = []
        for segment in segments:
            listed = segment.get("words")
            if not listed:
                words += _shared(str(segment["text"]).split(), float(segment["start"]), float(segment["end"]))
                continue
            known = [(float(w["start"]), float(w["end"])) if "start" in w and "end" in w else None for w in listed]
            times = [x for x in known if x is not None]
            low = float(segment["start"]) if "start" in segment else times[0][0]
            high = float(segment["end"]) if "end" in segment else times[-1][1]
            waiting: list[str] = []
            for word, at in zip(listed, known, strict=True):
                if at is None:
                    waiting.append(str(word["word"]))
                    continue
                words += [*_shared(waiting, low, max(low, at[0])), (str(word["word"]), *at)]
                waiting, low = [], at[1]
            words += _shared(waiting, low, max(low, high))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"sidecar {name}: not what WhisperX writes ({type(error).__name__}: {error}); mend or remove it") from error
    return words
