"""The folder of a list, on a disk or in S3: what a row's path leads to. Each folder that rows name is listed once."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from ..places.store import NoBucket, is_remote
from .prefixes import Bucket, Object, bucket_and_key, in_prefix, object_source
from .sidecars import SIDECARS
from .sources import Source, in_folder, local_source

T = TypeVar("T")
FILMS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")  # what a video may be stored as that a list names without its suffix
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
KEPT = 256  # folders whose names are held


class ListFolder:
    """See the module docstring. uri: an absolute local folder, or s3://BUCKET/PREFIX without a slash at its end."""

    def __init__(self, uri: str) -> None:
        self._uri, self._remote = uri, is_remote(uri)
        self._real = "" if self._remote else os.path.realpath(uri)
        self._names: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._reals: OrderedDict[str, str] = OrderedDict()
        self._objects: OrderedDict[str, dict[str, Object]] = OrderedDict()
        self._buckets: dict[str, Bucket] = {}
        self._denied: set[str] = set()  # each costs attempts
        self._stems: dict[str, str] | None = None

    def find(self, path: str) -> Source:
        """See `lists.Folder`."""
        if "\0" in path:
            raise ValueError("path: holds a zero byte, which no name has")
        if is_remote(path):
            return self._object(path, path.rpartition("/")[2])
        if "://" in path:
            raise ValueError(f"path={path[:80]!r}: a URL, which is not fetched; copy the file here and give its path")
        if path.startswith("/"):
            if self._remote:
                raise ValueError(f"path={path[:80]!r}: a list in S3 names no files of this machine; give s3://BUCKET/KEY")
            path = "/" + os.path.normpath(path).lstrip("/")
            inside = path.startswith(f"{self._uri.rstrip('/')}/")
            return self._file(path, path[len(self._uri.rstrip("/")) + 1 :] if inside else path.rpartition("/")[2], "")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts or not parts:
            raise ValueError(f"path={path[:80]!r}: leads out of the folder of the list; give an absolute path")
        name = "/".join(parts)
        if self._remote:
            return self._object(f"{self._uri}/{name}", name)
        return self._file(f"{self._uri.rstrip('/')}/{name}", name, self._real)

    def stem(self, name: str) -> str:
        """See `lists.Folder`."""
        if self._stems is None:
            self._stems = {}
            for source in self._all():
                stem, suffix = os.path.splitext(source.name.rpartition("/")[2])
                if not source.refused and suffix in FILMS:
                    self._stems.setdefault(stem, source.name)
        return self._stems.get(name, "")

    def _all(self) -> list[Source]:
        if not self._remote:
            return sorted(in_folder(self._uri), key=lambda source: source.name)
        bucket, prefix = bucket_and_key(f"{self._uri}/")
        return sorted(in_prefix(self._bucket(bucket), prefix), key=lambda source: source.name)

    def _file(self, path: str, name: str, root: str) -> Source:
        folder, _, last = path.rpartition("/")
        names = _held(self._names, folder, lambda: _listed(folder))
        if last not in names:
            raise ValueError(f"path={path[-200:]!r}: no such file")
        if root and not f"{_held(self._reals, folder, lambda: os.path.realpath(folder))}/".startswith(f"{root.rstrip('/')}/"):
            raise ValueError(f"path={path[-200:]!r}: a link leads out of the folder of the list; give an absolute path")
        return local_source(name, path, _beside(last, names), root)

    def _object(self, uri: str, name: str) -> Source:
        bucket, key = bucket_and_key(uri)
        prefix, slash, last = key.rpartition("/")
        there = _held(self._objects, f"{bucket}/{prefix}", lambda: self._inside(bucket, f"{prefix}{slash}"))
        if last not in there:
            raise ValueError(f"path={uri[-200:]!r}: no such object")
        return object_source(name, bucket, there[last], [there[text] for text in _beside(last, frozenset(there))])

    def _inside(self, bucket: str, prefix: str) -> dict[str, Object]:
        if bucket in self._denied or not BUCKET.fullmatch(bucket):
            raise ValueError(f"path: the bucket {bucket[:80]!r} cannot be read; check its name and your credentials")
        try:
            return self._bucket(bucket).folder(prefix)
        except (FileNotFoundError, PermissionError, NoBucket) as error:
            self._denied.add(bucket)
            raise ValueError(f"path: the bucket {bucket[:80]!r} cannot be read ({str(error)[:80]}); check its name") from error

    def _bucket(self, name: str) -> Bucket:
        if name not in self._buckets:
            self._buckets[name] = Bucket(name)
        return self._buckets[name]


def _listed(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise ValueError(f"path: the folder {folder[-150:]!r} cannot be opened ({error.strerror}); change its permissions") from error


def _beside(name: str, names: frozenset[str]) -> list[str]:
    stem = os.path.splitext(name)[0]
    return [text for suffix in SIDECARS if (text := stem + suffix) in names and text != name]


def _held(cache: OrderedDict[str, T], key: str, make: Callable[[], T]) -> T:
    """A few that were asked for last."""
    if key in cache:
        cache.move_to_end(key)
        return cache[key]
    cache[key] = value = make()
    if len(cache) > KEPT:
        cache.popitem(last=False)
    return value
