"""What a source is: a media file, an object or a member of a tar, with the text and the pieces that a list gives it.

    inputs.py: what a user names -> [Source]     at_hand.py: Source -> a local file     source_text.py: Source -> its caption and words

A folder's files are listed here. Text beside a file (sidecars.py) belongs to it and is no source of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .sidecars import SIDECARS, Tags, TimedWords, is_text

MAX_SOURCES = 1_000_000
LISTS = (".jsonl", ".csv", ".parquet")
NOT_MEDIA = {*SIDECARS, *LISTS, ".md", ".html", ".log", ".yaml", ".yml"}
MEMBER = "//"  # between the path of a tar and the name of its member


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes: a whole file or object, or a member of a tar. path: as of a source; first: byte in the file; size: in bytes, -1 for all."""

    path: str
    first: int = 0
    size: int = -1


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a source that a list names: start and end in seconds from the first picture (the first sound where there are no
    pictures). words: those of the piece, on the clock of the source; tags: of the piece alone.
    """

    start_s: float
    end_s: float
    caption: str = ""
    words: TimedWords = ()
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class Source:
    """One source. caption, words, spoken (see `Sidecar`), spans and tags are those of a list; text beside it is read by `text_of`.

    name: unique in the dataset; what the account calls it. path: an absolute local path, s3://BUCKET/KEY, or TAR//MEMBER.
    stamp: shows whether it and its text are still what they were. spans: none for all of it. refused: why it is not even looked into,
    known from listing alone. first, size: its bytes, within TAR for a member. beside: where text beside it is.
    """

    name: str
    path: str
    stamp: str
    caption: str = ""
    words: TimedWords = ()
    spans: tuple[Span, ...] = ()
    tags: Tags = ()
    refused: str = ""
    spoken: str = ""
    first: int = 0
    size: int = 0
    beside: tuple[Place, ...] = ()

    @property
    def place(self) -> Place:
        """Its bytes."""
        return Place(self.path, self.first, self.size if is_member(self.path) else -1)


def is_member(path: str) -> bool:
    """Whether a path is that of a member of a tar."""
    return MEMBER in path.removeprefix("s3://")


def file_of(path: str) -> str:
    """The file or object that holds a source: of a member, its tar."""
    return path.rpartition(MEMBER)[0] if is_member(path) else path


def source_to_json(source: Source) -> str:
    """A source as text for a row of a table."""
    row = {name: getattr(source, name) for name in Source.__slots__}
    row["spans"] = [[getattr(span, name) for name in Span.__slots__] for span in source.spans]
    row["beside"] = [[place.path, place.first, place.size] for place in source.beside]
    return json.dumps(row)


def source_from_json(text: str) -> Source:
    """What `source_to_json` wrote."""
    row: dict[str, Any] = json.loads(text)
    spans = tuple(Span(start, end, caption, _rows(words), _rows(tags)) for start, end, caption, words, tags in row["spans"])
    beside = tuple(Place(*place) for place in row["beside"])
    return Source(**{**row, "words": _rows(row["words"]), "tags": _rows(row["tags"]), "spans": spans, "beside": beside})


def _rows(rows: list[list[Any]]) -> tuple[Any, ...]:
    return tuple(tuple(row) for row in rows)


def hash_of(*parts: object) -> str:
    """A short hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def shown(name: str) -> str:
    """A name as UTF-8, with its other bytes escaped."""
    return name.encode(errors="backslashreplace").decode()


def no_media(name: str) -> str:
    """Why a file of this name is no media file, or an empty text."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in LISTS:
        return f"not a media file ({suffix}): a list is read when it is named itself"
    return f"not a media file ({suffix})" if suffix in NOT_MEDIA else ""


def paired(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Files with the sidecars that are beside each, which are not files of their own. names: of one folder, or with their folders."""
    names = list(names)
    texts: dict[str, list[str]] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix in SIDECARS:
            texts.setdefault(stem, []).append(name)
    found = {name: tuple(sorted(texts.get(os.path.splitext(name)[0], ()))) for name in names if not no_media(name)}
    theirs = {text for beside in found.values() for text in beside}
    return found | {name: () for name in names if no_media(name) and name not in theirs}


def in_folder(folder: str) -> Iterator[Source]:
    """The sources below a folder, named relative to it; hidden files are left out, and links, pipes and closed folders refused."""
    closed: list[OSError] = []
    root, skipped = os.path.realpath(folder), len(folder.rstrip("/")) + 1
    for place, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        names = (name for name in (*files, *links) if not name.startswith(".") and name != "corpus.json")
        for name, beside in paired(names).items():
            path = os.path.join(place, name)
            yield local_source(path[skipped:], path, beside, root)
    for error in closed:
        path = str(error.filename)
        yield Source(shown(path[skipped:]), shown(path), "", refused="a folder that cannot be opened: change its permissions")


def local_source(name: str, path: str, beside: Iterable[str], root: str = "") -> Source:
    """A file. beside: names of its sidecars; root: the real folder that a link must not lead out of, if any."""
    if not is_text(path):
        return Source(shown(name), shown(path), "", refused="its name is not UTF-8: rename it")
    try:
        about, reason = os.lstat(path), ""
        if stat.S_ISLNK(about.st_mode) and not (reason := root and _unfollowed(Path(path), Path(root))):
            about = os.stat(path)
    except OSError as error:
        return Source(name, path, "", refused=f"cannot be looked at ({error.strerror}): change its permissions")
    reason = reason or no_media(name) or ("" if stat.S_ISREG(about.st_mode) else "a folder, pipe or device: give a file")
    folder = os.path.dirname(path)
    stamp = f"{about.st_size}-{about.st_mtime_ns}" + "".join(f" {text}-{_state(os.path.join(folder, text))}" for text in beside)
    places = tuple(Place(os.path.join(folder, text)) for text in beside)
    return Source(name, path, stamp, refused=reason, size=about.st_size, beside=places)


def _state(path: str) -> str:
    try:
        about = os.stat(path)
    except OSError:
        return ""  # what is wrong with it is said when it is read
    return f"{about.st_size}-{about.st_mtime_ns}"


def _unfollowed(path: Path, folder: Path) -> str:
    """Why a link is not followed, or an empty text."""
    if not os.path.exists(path):
        return "a link to what is not there"
    if path.is_dir():
        return "a link to a folder, which is not followed: give that folder itself, or copy it here"
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        return "a link that leads out of the folder: copy the file here"
    return ""
