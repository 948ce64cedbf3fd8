"""The folder of a pretrained network, wherever a user says that it is, as a local one.

    /a/folder                            used where it is
    s3://bucket/a/folder                 copied into the cache, again when an object of it has changed
    hf://owner/name@COMMIT/a/folder      copied into the cache once: a commit (40 hexadecimal digits) always means the same content

Only *.json and *.safetensors are copied, and files that the caller names: no code, no pickles otherwise. A copy comes into being whole or
not at all: it is made beside its place and renamed. One process copies, the others wait for it; what a killed one left is removed by the
next. Nothing is ever deleted from the cache.
What the files hold is checked by whoever reads them (`model/codecs/folder.py`), as that of any other folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...model.codecs.base import AudioCodec, VideoCodec
from ...model.codecs.folder import Place
from ...model.codecs.registry import codec_from_folder
from ...model.codecs.umt5 import Umt5TextEncoder
from ..places.lock import alone
from ..places.storage import local_path, make_folder, s3, sync, user_cache
from ..places.store import require_no_user
from ..redaction import without_secrets

ITSELF = ("",)
TEXT_PARTS = ("text_encoder", "tokenizer")
"""Subfolders of a Wan pipeline that make its text encoder."""
SUFFIXES = (".json", ".safetensors")
MAX_JSON = 64 * 2**20  # bytes; the tokenizer of umT5 has about 17 MB
MAX_BYTES = 64 * 2**30  # of all files; the text encoder of Wan has about 11 GB in bf16
MAX_FILES = 200
HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<commit>[^/]*))?(?P<folder>(/[\w.-]+)*)/?")


@dataclass(frozen=True)
class RemoteFile:
    """`path`: as its filesystem names it; `name`: relative to the folder; `size` in bytes; `version`: changes with the content."""

    path: str
    name: str
    size: int
    version: str


def local_folder(field: str, uri: str, parts: Sequence[str] = ITSELF, cache: Path | None = None, also: Sequence[str] = ()) -> Path:
    """The folder `uri` on this machine. `field` is the setting that it came from; `parts` are the subfolders that are wanted ("": itself);
    `cache` is where copies are kept (default: mutual-forcing/ in the user's cache folder); `also` are names of files that are copied too
    (weights that were published as a pickle: the caller reads them without running it).

    Raises:
        ValueError: the address is of no known form, a hub id without a commit, unreachable, empty, or larger than the limits; a package
            is missing; the cache cannot be written. One line names field, value and remedy.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return local_path(field, uri)
    try:
        if scheme == "hf":
            return _copied(_hub, rest, uri, parts, _commit(rest), cache, also)
        if scheme == "s3":
            return _copied(s3, require_no_user(uri).removeprefix("s3://"), uri, parts, "", cache, also)
        raise ValueError(f"{scheme}:// is no address of folders; give a local one, s3://BUCKET/FOLDER or hf://OWNER/NAME@COMMIT/FOLDER")
    except ValueError as error:
        raise ValueError(f"{field}={without_secrets(uri)!r}: {error}") from error


def open_codec(field: str, uri: str, place: Place | None = None, cache: Path | None = None) -> VideoCodec | AudioCodec:
    """The pretrained codec of a folder anywhere. Its JSON names `uri`, so that other machines find it; `place` says where it computes.

    Raises:
        ValueError: as `local_folder` and `codec_from_folder`.
    """
    folder = str(local_folder(field, uri, cache=cache))
    return codec_from_folder(replace(place or Place(), folder=folder, reference=uri if "://" in uri else ""))


def placed(data: Mapping[str, Any], place: Place | None = None, cache: Path | None = None) -> Place:
    """`place` with the folder that a codec's JSON names, brought to this machine; an embedded codec needs none.

    For `codec_from_json(data, placed(data))`. A folder that `place` names already stays.

    Raises:
        ValueError: as `local_folder`.
    """
    place, uri = place or Place(), data.get("folder")
    if place.folder or not isinstance(uri, str) or "://" not in uri:
        return place
    parts = TEXT_PARTS if data.get("kind") == Umt5TextEncoder.kind else ITSELF
    return replace(place, folder=str(local_folder("codec.folder", uri, parts, cache)), reference=uri)


def _commit(address: str) -> str:
    """The commit of OWNER/NAME@COMMIT/FOLDER."""
    found = HUB.fullmatch(address)
    if not found or ".." in address:
        raise ValueError("is no hub address; write hf://OWNER/NAME@COMMIT/FOLDER")
    commit = found["commit"] or ""
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        repository = found["repository"]
        raise ValueError(
            f"revision {commit!r} is no commit, and a branch moves; take the 40 digits of `git ls-remote https://huggingface.co/{repository}`"
        )
    return commit


def _hub() -> Any:
    """The hub of Hugging Face as a filesystem."""
    try:
        from huggingface_hub import HfFileSystem
    except ImportError as error:
        raise ValueError(f"needs the package huggingface_hub ({error}); pip install 'mutual-forcing[pretrained]'") from error
    return HfFileSystem(skip_instance_cache=True)


def _copied(connect: Any, root: str, uri: str, parts: Sequence[str], commit: str, cache: Path | None, also: Sequence[str] = ()) -> Path:
    """The local copy of a remote folder. With a commit it is not asked for again once it is here, so no network is needed then."""
    cache = make_folder("cache", cache or user_cache())
    wanted = [uri, list(parts), *([sorted(also)] if also else [])]
    if commit and (ready := _place(cache, root, wanted) / "copy").is_dir():
        return ready
    with _told(commit):
        filesystem = connect()
        files = [file for part in parts for file in _listed(filesystem, root.rstrip("/"), part)]
    _check(files, parts, also)
    key = [*wanted, *([] if commit else [[file.name, file.size, file.version] for file in files])]
    place = make_folder("cache", _place(cache, root, key))
    with alone(place):
        if not (place / "copy").is_dir():
            partial = place / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            with _told(commit):
                for file in files:
                    _fetch(filesystem, file, partial / file.name)
            sync(partial)
            partial.rename(place / "copy")
            sync(place)
    return place / "copy"


def _place(cache: Path, root: str, key: list[Any]) -> Path:
    readable = re.sub(r"[^\w.-]+", "-", root.rstrip("/"))[-80:]
    return cache / f"{readable}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"


def _listed(filesystem: Any, root: str, part: str) -> Iterator[RemoteFile]:
    """The files of a remote folder, without those of its subfolders."""
    folder = f"{root}/{part}" if part else root
    for entry in filesystem.ls(folder, detail=True):
        name = entry["name"].rsplit("/", 1)[-1]
        if entry["type"] == "file" and name:
            version = str(entry.get("ETag") or entry.get("blob_id") or "")
            yield RemoteFile(entry["name"], f"{part}/{name}" if part else name, int(entry["size"] or 0), version)


def _check(files: list[RemoteFile], parts: Sequence[str], also: Sequence[str] = ()) -> None:
    """Keep what is read, and refuse what is too much of it."""
    names = [file.name for file in files]
    files[:] = [
        file for file in files if file.name in also or (file.name.endswith(SUFFIXES) and not file.name.rsplit("/", 1)[-1].startswith("."))
    ]
    for part in parts:
        if not any(file.name.startswith(part) for file in files):
            found = f"only {names[0]} and the like" if names else "nothing"
            if also:
                wanted = ", ".join((*also, "*.json", "*.safetensors"))
                raise ValueError(f"holds none of {wanted} ({found}); give the folder of the weights")
            raise ValueError(f"holds no *.json or *.safetensors{f' in {part}/' if part else ''} ({found}); pickles are not read")
    if len(files) > MAX_FILES:
        raise ValueError(f"holds {len(files)} files; at most {MAX_FILES} are copied: give the folder of one network")
    for file in files:
        if file.name.endswith(".json") and file.size > MAX_JSON:
            raise ValueError(f"{file.name} has {file.size} bytes; at most {MAX_JSON} of JSON are read")
    if (size := sum(file.size for file in files)) > MAX_BYTES:
        raise ValueError(f"holds {size} bytes; at most {MAX_BYTES} are copied: copy it yourself and give the local folder")


def _fetch(filesystem: Any, file: RemoteFile, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    filesystem.get_file(file.path, str(path))
    if (size := path.stat().st_size) != file.size:
        raise OSError(f"{file.name} came with {size} of {file.size} bytes")
    sync(path)


@contextmanager
def _told(commit: str) -> Iterator[None]:
    """What goes wrong with a remote folder in one line: each library below has errors of its own."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        remedy = (
            "check name, commit and network; a gated network wants its licence accepted on its page and `hf auth login`"
            if commit
            else "check bucket, folder, credentials and network"
        )
        raise ValueError(f"cannot be copied ({reason}); {remedy}; or give a local folder") from error
