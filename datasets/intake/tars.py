"""Members of a tar as sources, read where they stand: the tar is not unpacked. Layout as WebDataset has it: members whose names are
equal up to the first dot of the last part belong together (https://github.com/webdataset/webdataset, `base_plus_ext`).

    000017.mp4  000017.json  000017.txt    one source, 000017.mp4, with two sidecars
    EN_B00000_S00000_W000000.mp3  .json    Emilia's form of the same

The headers are read, a window at a time, and nothing else: links, devices, sparse files and names that lead elsewhere are refused one by
one, and a header that is none ends the reading.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..places.store import is_remote
from .sidecars import SIDECARS, is_text
from .sources import MEMBER, Place, Source, no_media, shown

SUFFIX = ".tar"
MAX_MEMBERS = 1_000_000
MAX_HEADERS = 64 << 10  # bytes of headers before one member: long names and attributes, not the content of a disk
MAX_GLOBAL = 128  # attributes that are said to hold for all members that follow
WINDOW, JUMP = 8 << 20, 64 << 10  # bytes fetched from S3 where members follow one another closely, and after a leap
NEAR = 4096  # bytes read at a time from a disk, which is asked often at little cost
MAGIC_AT, BLOCK = 257, 512
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"\x28\xb5": "unzstd"}
NO_SOUND_NOR_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".npy", ".npz", ".cls", ".pyd", ".pkl", ".pickle", ".pth", ".pt"}

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    first: int
    size: int
    refused: str


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with these bytes (512 of them) is a tar."""
    return head[MAGIC_AT : MAGIC_AT + 5] == b"ustar"


def in_tar(archive: Source, read: Read) -> list[Source]:
    """The members of a tar, named by its name and theirs. read: bytes of it, by first byte and count (none for a count below 1).

    A tar that is none, or is damaged, gives one refused source for that (after those before the damage).

    Raises:
        OSError: it cannot be read.
    """
    head = read(0, min(BLOCK, archive.size))
    for magic, tool in COMPRESSED.items():
        if head.startswith(magic):
            return [_refused(archive, f"a compressed tar, whose members cannot be read one by one: unpack it with {tool}")]
    members, damage = list[_Member](), ""
    try:
        for member in _members(read, archive.size, is_remote(archive.path)):
            members.append(member)
            if len(members) > MAX_MEMBERS:
                return [_refused(archive, f"more than {MAX_MEMBERS} members: split it")]
    except _Damaged as error:
        damage = str(error)
    found = list(_sources(archive, members))
    if damage or not found:
        found.append(_refused(archive, damage or "a tar without members"))
    return found


def _refused(archive: Source, reason: str) -> Source:
    return Source(archive.name, archive.path, archive.stamp, refused=reason, size=archive.size)


def _sources(archive: Source, members: list[_Member]) -> Iterator[Source]:
    texts: dict[str, list[_Member]] = {}
    for member in members:
        if os.path.splitext(member.name)[1] in SIDECARS and not member.refused:
            texts.setdefault(_key(member.name), []).append(member)
    media = {_key(member.name) for member in members if not no_media(member.name)}
    seen: set[str] = set()
    for member in members:
        key, name = _key(member.name), member.name
        if not member.refused and no_media(member.name) and key in media and os.path.splitext(member.name)[1] in SIDECARS:
            continue  # the text of another
        beside = () if no_media(member.name) else texts.get(key, ())
        suffix = os.path.splitext(member.name)[1].lower()
        reason = member.refused or no_media(member.name) or (f"not a media file ({suffix})" if suffix in NO_SOUND_NOR_PICTURES else "")
        if name in seen:
            name = f"{name}#{member.first}"
            reason = reason or "the tar has another member of this name: keep one of them"
        seen.add(name)
        stamp = archive.stamp + "".join(f" {text.first}+{text.size}" for text in (member, *beside))
        places = tuple(Place(f"{archive.path}{MEMBER}{text.name}", text.first, text.size) for text in beside)
        path = f"{archive.path}{MEMBER}{name}"
        yield Source(f"{archive.name}/{name}", path, stamp, refused=reason, first=member.first, size=member.size, beside=places)


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


class _Damaged(Exception):
    """A header is none, or says what cannot be."""


def _members(read: Read, size: int, far: bool) -> Iterator[_Member]:
    headers, ahead = _Headers(read, size, far), -1
    try:
        with tarfile.open(fileobj=headers, mode="r:") as tar:  # type: ignore[arg-type]
            while (member := tar.next()) is not None:
                tar.members = []  # which would grow with each
                headers.left = MAX_HEADERS
                if member.offset <= ahead or member.size < 0 or len(tar.pax_headers) > MAX_GLOBAL:
                    raise _Damaged(f"damaged at byte {member.offset}: make the tar again")
                ahead = member.offset
                if found := _looked_at(member, size):
                    yield found
            end = read(tar.offset, min(BLOCK, size - tar.offset))
            if end.strip(b"\0") or len(end) not in (0, BLOCK):
                raise _Damaged(f"damaged at byte {tar.offset}, and not read any further: make the tar again")
    except (_Damaged, OSError):
        raise
    except Exception as error:  # whatever a parser makes of hostile headers
        raise _Damaged(f"no tar, or damaged after byte {max(0, ahead)} ({_line(error)}): make it again") from error


def _looked_at(member: tarfile.TarInfo, size: int) -> _Member | None:
    name = member.name.removeprefix("./")
    parts = name.split("/")
    hidden = any(part.startswith(".") and part.strip(".") for part in parts)
    if member.isdir() or hidden or (len(parts) == 1 and name[:2] == name[-2:] == "__"):
        return None  # folders, hidden files, and what WebDataset keeps for itself
    reason = ""
    if member.islnk() or member.issym():
        reason = "a link, which is not followed: put the file itself into the tar"
    elif not member.isreg():
        reason = "no file but a pipe, a device or the like"
    elif member.issparse():
        reason = "a sparse file: make the tar without --sparse"
    elif any(part in ("", ".", "..") for part in parts) or "\0" in name:
        reason = "its name leads out of the tar: give it another"
    elif not is_text(name):
        reason = "its name is not UTF-8: rename it"
    elif member.offset_data + member.size > size:
        reason = f"the tar is cut off: {size - member.offset_data} of {member.size} bytes are there"
    return _Member(shown(name), member.offset_data, member.size, reason)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:100]


class _Headers:
    """What tarfile reads from: it gets a few headers before each member, and never the content of one."""

    def __init__(self, read: Read, size: int, far: bool) -> None:
        self._read, self._size, self._far = read, size, far
        self._at, self._from, self._held = 0, 0, b""
        self.left = MAX_HEADERS

    def tell(self) -> int:
        return self._at

    def seek(self, to: int) -> int:
        self._at = to
        return to

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= self.left or self._at < 0:
            raise _Damaged(f"damaged at byte {self._at}: headers of more than {MAX_HEADERS} bytes")
        self.left -= count
        if not self._from <= self._at <= self._at + count <= self._from + len(self._held):
            leap = not 0 <= self._at - (self._from + len(self._held)) < WINDOW
            window = NEAR if not self._far else JUMP if leap else WINDOW
            self._from, self._held = self._at, self._read(self._at, min(max(count, window), self._size - self._at))
        data = self._held[self._at - self._from : self._at - self._from + count]
        self._at += len(data)
        return data
