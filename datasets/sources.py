"""What the user gave: every file listed, media with their sidecars (`<stem>.json`: caption and transcript on the video clock)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SOURCES = 1_000_000
MAX_SIDECAR_BYTES = 4 << 20
NOT_MEDIA = {".json", ".csv", ".txt", ".md", ".jsonl", ".html", ".log", ".yaml", ".yml"}


@dataclass(frozen=True)
class Sidecar:
    """Text of a source: a caption, and words with start and end in seconds on the video clock."""

    caption: str = ""
    words: tuple[tuple[str, float, float], ...] = ()


def list_sources(folder: Path) -> list[Path]:
    """Everything below `folder` but folders, hidden files and the sidecars of listed files, sorted.

    Links are listed and not followed; so is a folder that cannot be opened. `unfollowed` says why such a one is refused.

    Raises:
        ValueError: the folder is missing, is no folder, is empty, or has a name that is not UTF-8.
    """
    if not is_text(str(folder)):
        raise ValueError(f"data.media={str(folder)!r}: this name is not UTF-8; rename the folder")
    if not folder.is_dir():
        raise ValueError(f"data.media={str(folder)!r}: no such folder; give one that holds video files")
    files = sorted(_walk(folder))
    stems = {p.with_suffix("") for p in files if p.suffix.lower() not in NOT_MEDIA}
    listed = [p for p in files if not (p.suffix == ".json" and (p.with_suffix("") in stems or _is_corpus_ticket(p)))]
    if not listed:
        raise ValueError(f"data.media={str(folder)!r}: the folder holds no files; put video files there")
    if len(listed) > MAX_SOURCES:
        raise ValueError(f"data.media={str(folder)!r}: {len(listed)} files, at most {MAX_SOURCES} in one dataset; split the folder")
    return listed


def _walk(folder: Path) -> Iterator[Path]:
    closed: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (Path(place, name) for name in (*files, *links) if not name.startswith("."))
    yield from (Path(error.filename) for error in closed)


def unfollowed(path: Path, folder: Path) -> str:
    """Why a listed path is not even looked into, or an empty text."""
    if path.is_symlink():
        if not os.path.exists(path):
            return "a link to what is not there"
        if path.is_dir():
            return "a link to a folder, which is not followed: give that folder itself, or copy it here"
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            return "a link that leads out of the folder: copy the file here"
    elif path.is_dir():
        return "a folder that cannot be opened: change its permissions"
    return ""


def _is_corpus_ticket(path: Path) -> bool:
    return path.name == "corpus.json"


def read_sidecar(media: Path) -> Sidecar:
    """The sidecar beside a media file, or an empty one.

    Raises:
        ValueError: there is one, but it cannot be read, is too large, not JSON, or not of the documented form.
    """
    path = media.with_suffix(".json")
    try:
        if not path.is_file() or path == media:
            return Sidecar()
        with path.open("rb") as file:
            written = file.read(MAX_SIDECAR_BYTES + 1)
    except OSError as error:
        raise ValueError(f"sidecar {path.name}: cannot be read ({error.strerror}); change its permissions or remove it") from error
    if len(written) > MAX_SIDECAR_BYTES:
        raise ValueError(f"sidecar {path.name}: larger than {MAX_SIDECAR_BYTES} bytes; shorten its transcript")
    try:
        data = json.loads(written.decode())
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of too many digits
        raise ValueError(f"sidecar {path.name}: not JSON ({error}); mend or remove it") from error
    return parse_sidecar(data, path.name)


def parse_sidecar(data: Any, name: str) -> Sidecar:
    """Check `{"caption": str, "transcript": [{"word": str, "start": s, "end": s}, ...]}`; both keys may be absent."""
    form = '{"caption": "...", "transcript": [{"word": "...", "start": 0.1, "end": 0.4}]}'
    if not isinstance(data, dict) or not isinstance(data.get("caption", ""), str) or not isinstance(data.get("transcript", []), list):
        raise ValueError(f"sidecar {name}: must look like {form}")
    words = []
    for i, word in enumerate(data.get("transcript", [])):
        try:
            text, start, end = str(word["word"]), float(word["start"]), float(word["end"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"sidecar {name}: transcript[{i}]={repr(word)[:80]} must look like {form}") from error
        if not 0 <= start <= end < 1e6:
            raise ValueError(f"sidecar {name}: transcript[{i}] from {start} to {end} s: need 0 <= start <= end")
        words.append((text, start, end))
    sidecar = Sidecar(data.get("caption", ""), tuple(words))
    if not all(is_text(text) for text in (sidecar.caption, *(word for word, _, _ in words))):
        raise ValueError(f"sidecar {name}: holds half of a surrogate pair, which is no character; write it again as UTF-8")
    return sidecar


def is_text(name: str) -> bool:
    """Whether a string can be written as UTF-8: a file name of other bytes, or half of a surrogate pair in JSON, cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def cut_words(words: tuple[tuple[str, float, float], ...], start_s: float, seconds: float) -> tuple[tuple[str, float, float], ...]:
    """The words that sound within [start, start + seconds), on the clock of that cut."""
    return tuple((w, s - start_s, e - start_s) for w, s, e in words if e > start_s and s < start_s + seconds)
