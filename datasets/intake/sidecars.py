"""Text beside a media file, on its clock: a caption, and what is said when.

    talk.json             {"caption": ..., "transcript": [{"word", "start", "end"}, ...]}, such a list alone, or what WhisperX or Emilia
                          write
    talk.txt              a caption
    talk.srt, talk.vtt    subtitles: the words of a cue share its time by their letters

A file may have several, but one caption and one transcript: which of two that differ is right is not ours to say. Fields of the JSON that
are text or numbers become tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import webvtt

MAX_SIDECAR_BYTES = 4 << 20
MAX_SECONDS = 1e6
MAX_SPOKEN_S = 60.0  # words without times are shared out over no more than this: in an hour they would be minutes from where they sound
MAX_TAGS = 64
MAX_TAG = 512  # characters of a tag's value
MAX_TAG_NAME = 64
LICENCE, CONSENT = "licence", "consent"
RIGHTS = (LICENCE, CONSENT)  # tags that say under which terms a source is used, and to what those who are seen and heard agreed
SIDECARS = (".json", ".txt", ".srt", ".vtt")

TimedWords = tuple[tuple[str, float, float], ...]


Tags = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sidecar:
    """Text of a source: a caption; words with start and end in seconds on the video clock, or what is spoken without times; tags."""

    caption: str = ""
    words: TimedWords = ()
    spoken: str = ""
    tags: Tags = ()

    def over(self, seconds: float) -> Sidecar:
        """The same with times for what is spoken: its words share the whole source by their letters. seconds: of the source.

        Raises:
            ValueError: the source is too long for that.
        """
        if not self.spoken:
            return self
        return replace(self, words=shared_words(self.spoken, 0.0, seconds), spoken="")


def shared_words(spoken: str, start_s: float, end_s: float) -> TimedWords:
    """Words that are spoken somewhere between two times share them by their letters.

    Raises:
        ValueError: they are further apart than `MAX_SPOKEN_S`.
    """
    if spoken and end_s - start_s > MAX_SPOKEN_S:
        raise ValueError(
            f"transcript: words without times for {end_s - start_s:.0f} s; at most {MAX_SPOKEN_S:.0f} s: "
            "give words with start and end, or shorter spans"
        )
    return spread_words(spoken, start_s, end_s)


def spread_words(spoken: str, start_s: float, end_s: float) -> TimedWords:
    """The same, however far apart they are."""
    return tuple(_shared(spoken.split(), start_s, end_s))


def sidecars_of(media: Path) -> list[Path]:
    """The files beside a media file that hold its text."""
    return [path for suffix in SIDECARS if (path := media.with_suffix(suffix)) != media and path.is_file()]


def read_sidecar(media: Path) -> Sidecar:
    """The text beside a media file, or an empty one.

    Raises:
        ValueError: a file cannot be read, is too large or not of the documented form; or there are two captions, or two transcripts.
    """
    try:
        found = sidecars_of(media)
    except OSError as error:
        raise ValueError(f"sidecar {media.stem}: cannot be looked for ({error.strerror}); change the folder's permissions") from error
    return merged([(path.name, parse_file(_bytes(path), path.name)) for path in found])


def merged(parts: Iterable[tuple[str, Sidecar]]) -> Sidecar:
    """Texts of one source as one, by where they are from. Of tags of one name the first counts, but two licences must be the same, and so
    must two consents.

    Raises:
        ValueError: there are two captions, two transcripts, two licences or two consents that differ.
    """
    told: dict[str, tuple[str, object]] = {}
    tags: dict[str, str] = {}
    caption, words, spoken = "", (), ""
    for name, one in parts:
        given = {"caption": one.caption, "transcript": one.words or one.spoken, **{right: dict(one.tags).get(right) for right in RIGHTS}}
        for what, value in given.items():
            other, there = told.setdefault(what, (name, value)) if value else (name, value)
            if there != value:
                raise ValueError(f"sidecar {name}: gives a {what} too: {other} does; remove one of them")
        caption, words, spoken = caption or one.caption, words or one.words, spoken or one.spoken
        tags = dict(one.tags) | tags
    return Sidecar(caption, words, spoken, tuple(tags.items()))


def tags_of(fields: Mapping[str, Any], label: str) -> Tags:
    """The fields that are text, numbers or truth values, in their order, as tags; `license` is spelt `licence`, that and `consent` in any
    case. Nested and long ones are left out.

    Raises:
        ValueError: there are more than `MAX_TAGS`, or one is no UTF-8; `label` begins the line.
    """
    tags: dict[str, str] = {}
    for name, value in fields.items():
        name = {"licence": LICENCE, "license": LICENCE, "consent": CONSENT}.get(name.lower(), name)
        if not isinstance(value, str | int | float) or value == "" or value != value:  # not a number: an empty cell
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if len(text) > MAX_TAG or not 0 < len(name) <= MAX_TAG_NAME:
            continue
        if not is_text(name) or not is_text(text):
            raise ValueError(f"{label}: field {name!r} is not UTF-8; write it again")
        if tags.setdefault(name, text) != text:
            raise ValueError(f"{label}: two {name}s, {tags[name]!r} and {text!r}; remove one of them")
    if len(tags) > MAX_TAGS:
        raise ValueError(f"{label}: {len(tags)} fields would become tags, at most {MAX_TAGS}; leave some out")
    return tuple(tags.items())


def parse_sidecar(data: Any, name: str) -> Sidecar:
    """Check what JSON holds: see the module docstring; caption and transcript may be absent.

    Raises:
        ValueError: it is of another form.
    """
    return parse_text(data, f"sidecar {name}")


def parse_text(data: Any, label: str) -> Sidecar:
    """The same; `label` begins the line of an error."""
    form = '{"caption": "...", "transcript": [{"word": "...", "start": 0.1, "end": 0.4}]}'
    if isinstance(data, dict) and ("segments" in data or "word_segments" in data):
        return _checked(Sidecar("", tuple(_whisperx(data, label)), tags=tags_of(_others(data), label)), label)
    if isinstance(data, dict) and _is_emilia(data):
        rest = {key: value for key, value in data.items() if key not in ("id", "_id", "wav", "text", "duration")}
        return _checked(Sidecar(spoken=" ".join(data["text"].split()), tags=tags_of(rest, label)), label)
    if isinstance(data, list):
        data = {"transcript": data}
    if not isinstance(data, dict) or not isinstance(data.get("caption", ""), str) or not isinstance(data.get("transcript", []), list):
        raise ValueError(f"{label}: must look like {form}")
    words = []
    for i, word in enumerate(data.get("transcript", [])):
        try:
            words.append((str(word["word"]), float(word["start"]), float(word["end"])))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{label}: transcript[{i}]={repr(word)[:80]}: must look like {form}") from error
    return _checked(Sidecar(data.get("caption", ""), tuple(words), tags=tags_of(_others(data), label)), label)


def _others(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in ("caption", "transcript")}


def _is_emilia(data: dict[str, Any]) -> bool:
    """What Emilia has beside each sound file: https://huggingface.co/datasets/amphion/Emilia-Dataset, and the YODAS part of it."""
    return isinstance(data.get("text"), str) and {"speaker", "duration", "language"} <= data.keys()


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


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SIDECAR_BYTES + 1)
    except OSError as error:
        raise ValueError(f"sidecar {path.name}: cannot be read ({error.strerror}); change its permissions or remove it") from error


def parse_file(written: bytes, name: str) -> Sidecar:
    """What a file of this name holds, by its suffix: see the module docstring. written: at most `MAX_SIDECAR_BYTES` and one more.

    Raises:
        ValueError: it is too large, or of another form.
    """
    label, suffix = f"sidecar {name}", Path(name).suffix
    if len(written) > MAX_SIDECAR_BYTES:
        raise ValueError(f"{label}: larger than {MAX_SIDECAR_BYTES} bytes; shorten its transcript")
    if suffix == ".json":
        try:
            data = json.loads(written.decode())
        except (ValueError, RecursionError) as error:  # ValueError: also numbers of too many digits
            raise ValueError(f"{label}: not JSON ({error}); mend or remove it") from error
        return parse_text(data, label)
    try:
        text = written.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{label}: not UTF-8; write it again as UTF-8") from error
    if suffix == ".txt":
        return _checked(Sidecar(" ".join(text.split())), label)
    return _checked(Sidecar("", tuple(_subtitles(text, suffix, label))), label)


def _checked(sidecar: Sidecar, label: str) -> Sidecar:
    for i, (_, start, end) in enumerate(sidecar.words):
        if not 0 <= start <= end < MAX_SECONDS:
            raise ValueError(f"{label}: transcript[{i}]: need 0 <= start <= end, not from {start} to {end} s")
    if not all(is_text(text) for text in (sidecar.caption, sidecar.spoken, *(word for word, _, _ in sidecar.words))):
        raise ValueError(f"{label}: holds half of a surrogate pair, which is no character; write it again as UTF-8")
    return sidecar


def _subtitles(text: str, suffix: str, label: str) -> list[tuple[str, float, float]]:
    try:
        cues = webvtt.from_buffer(StringIO(text), format=suffix[1:])
    except Exception as error:  # whatever a parser makes of hostile text
        raise ValueError(f"{label}: no subtitles of its kind ({_line(error)}); mend or remove it") from error
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


def _whisperx(data: dict[str, Any], label: str) -> list[tuple[str, float, float]]:
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
        raise ValueError(f"{label}: not what WhisperX writes ({type(error).__name__}: {error}); mend or remove it") from error
    return words
