"""What a user names on the command line -> sources: every file, object, member and row once, each with a name of its own.

    a folder, s3://BUCKET/PREFIX    all below it; tars in it are opened, lists in it are not
    a file, s3://BUCKET/KEY         itself; a tar: its members; .jsonl, .csv, .parquet: a list

A name is the path below the input that was named first. Where it is taken, as much of the path before it is added as tells the two apart.
So a further input at the end changes no name; at another place, or when an earlier folder grows, it may, unless `known` says the names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..places.scratch import Scratch
from ..places.store import NO_BUCKET, NoBucket, is_remote
from .at_hand import at_hand, reading
from .list_folders import ListFolder
from .list_rows import MAX_LIST_BYTES
from .lists import in_list
from .prefixes import THREADS, Bucket, bucket_and_key, in_prefix, object_source
from .sidecars import SIDECARS, is_text
from .sources import LISTS, MAX_SOURCES, MEMBER, Source, file_of, in_folder, local_source, no_media
from .tars import BLOCK, SUFFIX, in_tar, is_tar


def sources_of(inputs: Sequence[str], known: Mapping[str, str] | None = None) -> list[Source]:
    """The sources of all inputs, sorted by name. known: names that sources have already, by their path.

    What is refused from listing alone stands there with its reason. Of a file that several inputs name the text of the list counts; two
    lists that differ refuse it.

    Raises:
        ValueError: an input is missing, empty, of no known kind or a list that is none, S3 does not answer, or there are too many sources.
    """
    found: dict[tuple[str, str], Source] = {}
    lists, real = set[str](), _Real()
    for text in inputs:
        with _answered(text):
            sources, is_list = _input(text)
            lists |= {_path(text)} if is_list else set()
            before, empty = len(found), True
            for source in sources:
                key, empty = real.of(source.path), False
                found[key] = _both(found[key], source) if key in found else source
                if len(found) > MAX_SOURCES:
                    raise ValueError(f"input={text!r}: {before} sources before it, at most {MAX_SOURCES} in one dataset; split it")
        if empty:
            raise ValueError(f"input={text!r}: holds no files; put media files there")
    kept = [source for source in _named(_without_texts(list(found.values())), known or {}) if source.path not in lists]
    if not kept:
        raise ValueError("input: none is named; give files, folders, lists or s3:// prefixes")
    return kept


def moved(inputs: Sequence[str], media: Sequence[str]) -> tuple[str, ...]:
    """The inputs as they are now: `media` stand where the first of those was that are gone; where none is gone, they stand for all."""
    gone = [text for text in inputs if media and not _is_there(text)]
    if not gone:
        return tuple(media or inputs)
    now = [other for text in inputs for other in (media if text == gone[0] else () if text in gone else (text,))]
    return tuple(dict.fromkeys(now))


def require_there(inputs: Sequence[str]) -> None:
    """Ask once for each input whether it is there; `sources_of` answers that too, when it has listed everything.

    Raises:
        ValueError: one is not, or S3 does not answer.
    """
    for text in inputs:
        with _answered(text):
            if is_remote(text):
                name, key = bucket_and_key(text)
                if not any(next(Bucket(name).pages(key, "/"))):
                    raise ValueError(f"input={text!r}: holds no files; put media files there")
            elif text and "://" not in text:
                os.stat(_path(text))


def _is_there(text: str) -> bool:
    """Whether an input holds anything, from a request or two. What cannot be asked is there: who lists it is told why."""
    try:
        if not is_remote(text):
            path = _path(text)
            return bool(os.listdir(path)) if os.path.isdir(path) else os.path.exists(path)
        name, key = bucket_and_key(text)
        objects, folders = next(Bucket(name).pages(f"{key.rstrip('/')}/" if key.strip("/") else "", "/"))
        return bool(objects or folders) or any(found.key == key for found in next(Bucket(name).pages(key, "/"))[0])
    except (FileNotFoundError, NoBucket):
        return False
    except (ValueError, OSError):
        return True


@contextmanager
def _answered(text: str) -> Iterator[None]:
    """What a disk or S3 answers in one line that names the input."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"input={text!r}: cannot be found ({error.strerror or error}); give a file, a folder, a list or s3://") from error
    except NoBucket as error:
        raise ValueError(f"input={text!r}: {NO_BUCKET}") from error
    except OSError as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"input={text!r}: cannot be read ({why}); check permissions, or bucket, credentials and network") from error


def _without_texts(sources: list[Source]) -> list[Source]:
    """Without files that a shell's `folder/*` names beside the media whose sidecars they are: those are read with the media."""
    media = {os.path.splitext(source.path)[0] for source in sources if not no_media(source.path)}
    return [s for s in sources if (end := os.path.splitext(s.path))[1] not in SIDECARS or end[0] not in media]


def _both(one: Source, other: Source) -> Source:
    """One file that two inputs name, under its first name."""
    if one.refused or other.refused:
        good = other if one.refused and not other.refused else one
        return replace(good, name=one.name)
    if not _says(other) or _text(one) == _text(other):
        return one
    if not _says(one):
        return replace(other, name=one.name)
    return replace(one, refused="two lists name it, with text or pieces that differ: leave it in one of them")


def _text(source: Source) -> tuple[object, ...]:
    return source.caption, source.words, source.spoken, source.spans, source.tags


def _says(source: Source) -> bool:
    return any(_text(source))


class _Real:
    """Whatever way leads to a file: its folder without links, and its name."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def of(self, path: str) -> tuple[str, str]:
        if is_remote(path):
            return "", path
        file = file_of(path)
        folder, _, name = file.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder or "/")
        return self._folders[folder], name + path[len(file) :]


def _named(sources: Iterable[Source], known: Mapping[str, str]) -> list[Source]:
    taken = set(known.values())
    named = []
    for source in sources:
        name = known.get(source.path) or next(name for name in _names(source) if name not in taken)
        taken.add(name)
        named.append(replace(source, name=name) if name != source.name else source)
    return sorted(named, key=lambda source: source.name)


def _names(source: Source) -> Iterator[str]:
    """Its name, then with one more folder before it each time, at last with a number."""
    parts = source.path.removeprefix("s3://").replace(MEMBER, "/").strip("/").split("/")
    own = source.name.count("/") + 1
    yield source.name
    yield from ("/".join(parts[-length:]) for length in range(own + 1, len(parts) + 1))
    number = 1
    while True:
        number += 1
        yield f"{source.name}~{number}"


def _path(text: str) -> str:
    """An input as the path of a source would be written."""
    return text if is_remote(text) else "/" + os.path.abspath(os.path.expanduser(text)).lstrip("/")


def _input(text: str) -> tuple[Iterator[Source], bool]:
    """The sources of one input, and whether it is a list."""
    if not text:
        raise ValueError("input='': is empty; give a file, a folder, a list or an s3:// prefix")
    if not is_text(text):
        raise ValueError(f"input={text!r}: this name is not UTF-8; rename it")
    if is_remote(text):
        return _remote(text)
    if "://" in text:
        raise ValueError(f"input={text!r}: neither a local path nor s3://BUCKET/PREFIX; give one of the two")
    path = _path(text)
    about = os.stat(path)
    name = path.rpartition("/")[2]
    if stat.S_ISDIR(about.st_mode):
        return _opened(in_folder(path)), False
    if os.path.splitext(name)[1].lower() in LISTS:
        return in_list(Path(path), path, text, ListFolder(os.path.dirname(path))), True
    stem = os.path.splitext(path)[0]
    beside = [os.path.basename(stem + suffix) for suffix in SIDECARS if stem + suffix != path and os.path.isfile(stem + suffix)]
    source = local_source(name, path, beside)
    if not source.refused and not _is_tar_name(source):
        with reading(path) as read:
            if is_tar(read(0, BLOCK)):
                return iter(in_tar(source, read)), False
    return _opened([source]), False


def _remote(uri: str) -> tuple[Iterator[Source], bool]:
    name, key = bucket_and_key(uri)
    bucket = Bucket(name)
    stem, last = os.path.splitext(key)[0], key.rpartition("/")[2]
    there = {found.key: found for page, _ in bucket.pages(stem, "/") for found in page} if last else {}
    if key not in there:
        prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
        return _opened(in_prefix(bucket, prefix)), False
    beside = [there[stem + suffix] for suffix in SIDECARS if stem + suffix in there and stem + suffix != key]
    source = object_source(last, name, there[key], beside)
    if os.path.splitext(last)[1].lower() not in LISTS:
        return _opened([source]), False
    if source.size > MAX_LIST_BYTES:
        raise ValueError(f"input={uri!r}: {source.size} bytes, at most {MAX_LIST_BYTES} of a list are read; split it")
    with Scratch() as scratch, at_hand(replace(source, refused=""), scratch) as copy:
        return iter(list(in_list(copy, uri, uri, ListFolder(uri.rpartition("/")[0])))), True


def _is_tar_name(source: Source) -> bool:
    return source.name.lower().endswith(SUFFIX)


def _opened(sources: Iterable[Source]) -> Iterator[Source]:
    """The sources with members in the place of tars; of those in S3 a few are read at once."""
    tars = list[Source]()
    for source in sources:
        if _is_tar_name(source) and not source.refused:
            tars.append(source)
        else:
            yield source
    with ThreadPoolExecutor(THREADS if tars and is_remote(tars[0].path) else 1) as pool:
        for members in pool.map(_members, tars):
            yield from members


def _members(tar: Source) -> list[Source]:
    try:
        with reading(tar.path) as read:
            return in_tar(tar, read)
    except OSError as error:
        if is_remote(tar.path):
            raise
        return [replace(tar, refused=f"cannot be read ({error.strerror}): change its permissions")]
