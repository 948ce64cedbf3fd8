"""A dataset on its way between a folder and S3. The manifest is the commit on both sides: sent last, read first, written last.

A reader takes the manifest, then the shards that it names; each counts when it has the size and the hash that stand there. What is there
already and right is not fetched again, so a copy that was cut off goes on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

from .format.manifest import MANIFEST, SHARD, SHEET, Manifest, ShardEntry, open_manifest, read_manifest
from .places.lock import alone
from .places.storage import atomic_path, make_folder, sha256_file, user_cache
from .places.store import NO_BUCKET, NoBucket, Store, store_of
from .progress import Progress, silent
from .reading.members import Member, digits_of, folder_of, members_of, write_members

MAX_MANIFEST = 64 * 2**20  # bytes; a shard takes about 150 of them
MAX_BESIDE = 2**30
PATIENCE = 600.0  # seconds that a machine waits for a dataset that another one is sending
LOOK = 5.0
NO_DATASET = "holds no finished dataset; make one with `mutual-forcing data prepare CLIPS --out FOLDER`"


@dataclass(frozen=True)
class DataSource:
    """Where a machine that does not share the run folder gets the run's data. contents: of the dataset that is meant; weight, mix: of those
    that are mixed with it, the same; cache_gb: above 0, its shards stay in S3, see `members`.
    """

    uri: str = ""
    contents: str = ""
    weight: str = "1"
    cache_gb: float = 0.0
    mix: tuple[DataSource, ...] = ()


def source_of(uri: str, data: Path) -> DataSource:
    """How other machines get the datasets of a run's folder, its own from `uri`, where it is sent or came from."""
    own, *others = members_of(data)

    def source(member: Member, uri: str) -> DataSource:
        return DataSource(uri, member.manifest(verify=False).contents(), digits_of(member.weight), member.cache_gb)

    return replace(source(own, uri), mix=tuple(source(other, other.uri) for other in others))


def beside(manifest: Manifest) -> tuple[str, ...]:
    """Files of a dataset that a reader of its clips can do without."""
    return manifest.account, manifest.table, SHEET


def remote_manifest(store: Store) -> Manifest:
    """The manifest of a dataset in a store, all of whose shards are there with their sizes.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or a shard is missing or of another size.
        OSError: the store does not answer.
    """
    there = store.names()
    if there.get(MANIFEST, 0) > MAX_MANIFEST:
        raise ValueError(f"dataset {store.uri}: its {MANIFEST} has {there[MANIFEST]} bytes; at most {MAX_MANIFEST} are read")
    try:
        manifest = open_manifest(store.fetch(MANIFEST))
    except ValueError as error:
        raise ValueError(f"dataset {store.uri}: {error}") from error
    for shard in manifest.shards:
        if there.get(shard.file) != shard.bytes:
            found = f"has {there[shard.file]}" if shard.file in there else "is missing, of"
            raise ValueError(f"dataset {store.uri}: {shard.file} {found} of {shard.bytes} bytes; prepare it again into another folder")
    return manifest


def fetch_dataset(store: Store, out: Path, progress: Progress = silent, contents: str = "") -> Manifest:
    """Bring a dataset into the folder `out`, where nobody else writes; the manifest comes last. contents: of the one that is meant.

    Raises:
        ValueError: see `remote_manifest`, it is another dataset, a shard's hash differs, or there is no room.
        OSError: the store does not answer, or holds no dataset (FileNotFoundError).
    """
    manifest = remote_manifest(store)
    if contents and manifest.contents() != contents:
        raise ValueError(f"dataset {store.uri}: is not the one that this run was begun with; start a new run with --out")
    missing = [shard for shard in manifest.shards if not _is_right(out / shard.file, shard)]
    wanted, free = sum(shard.bytes for shard in missing), shutil.disk_usage(out).free
    if wanted > free:
        raise ValueError(f"dataset {store.uri}: takes {wanted / 1e9:.2g} GB more in {str(out)!r}, {free / 1e9:.2g} GB are free; make room")
    for leftover in out.glob(".*.tmp"):
        leftover.unlink()
    for done, shard in enumerate(missing):
        progress("fetch shards", done, len(missing))
        with atomic_path(out / shard.file) as temporary:
            store.receive(shard.file, temporary)
            if not _is_right(temporary, shard):
                raise ValueError(f"dataset {store.uri}: {shard.file} is damaged (its hash differs from the manifest); prepare it again")
    progress("fetch shards", len(missing), len(missing))
    fetch_beside(store, out, manifest)
    manifest.write(out)
    return manifest


def fetch_beside(store: Store, out: Path, manifest: Manifest) -> None:
    """Bring what lies beside a dataset's shards into the folder `out`."""
    there = store.names()
    for name in beside(manifest):
        if there.get(name, MAX_BESIDE + 1) <= MAX_BESIDE:
            with atomic_path(out / name) as temporary:
                store.receive(name, temporary)


def send_dataset(folder: Path, store: Store, progress: Progress = silent) -> None:
    """Copy a finished dataset into a store, the manifest last; shards that are there with their size are not sent again.

    Raises:
        ValueError: the store holds another dataset, or this one is damaged.
        OSError: the store does not answer.
    """
    manifest, there = read_manifest(folder, verify=False), store.names()
    if MANIFEST in there:
        if open_manifest(store.fetch(MANIFEST)) != manifest:
            raise ValueError(f"{store.uri}: holds another dataset; choose another folder, or remove it")
        return
    wanted = {shard.file: shard.bytes for shard in manifest.shards}
    for name in there:
        if SHARD.fullmatch(name) and name not in wanted:
            store.remove(name)  # no manifest names it: an earlier job was killed
    missing = [shard for shard in manifest.shards if there.get(shard.file) != shard.bytes]
    for done, shard in enumerate(missing):
        progress("send shards", done, len(missing))
        store.send(folder / shard.file, shard.file)
    progress("send shards", len(missing), len(missing))
    for name in beside(manifest):
        if (folder / name).is_file():
            store.send(folder / name, name)
    there = store.names()
    if lost := [name for name, size in wanted.items() if there.get(name) != size]:
        raise OSError(f"{store.uri}: {lost[0]} is not there after it was sent; does another process write there?")
    store.send(folder / MANIFEST, MANIFEST)


def dataset_here(folder: Path, source: DataSource, cache: Path | None = None) -> Path:
    """The run's dataset on this machine: `folder` where it is shared, else a copy in the cache, which one process makes for all.

    Raises:
        ValueError: it is neither here nor to be had; the line says why.
    """
    if not source.uri or _holds(folder, source):
        return folder
    plain = source == DataSource(source.uri, source.contents)
    key = sha256((f"{source.uri}\n{source.contents}" if plain else repr(source)).encode()).hexdigest()[:16]
    place = make_folder("cache", (cache or user_cache()) / f"data-{key}")
    with alone(place):
        if not _holds(place, source):
            members = [Member(folder_of(place, i), Fraction(s.weight), s.uri, s.cache_gb) for i, s in enumerate((source, *source.mix))]
            for member, one in reversed(list(zip(members, (source, *source.mix), strict=True))):
                _bring(member, one, members)
    return place


def _bring(member: Member, source: DataSource, members: Sequence[Member]) -> None:
    """A dataset of a mix into its folder; the list of all precedes the manifest of the first, which is brought last."""
    if not source.uri:
        raise ValueError("data.mix: a dataset is in a folder of another machine; put it into S3, or share the run folder with all machines")
    folder = make_folder("cache", member.folder)
    with told("dataset", source.uri), store_of(source.uri) as store:
        _await(store)
        if member is members[0]:
            write_members(folder, members)
        if not member.ranged:
            fetch_dataset(store, folder, contents=source.contents)
            return
        manifest = remote_manifest(store)
        if manifest.contents() != source.contents:
            raise ValueError(f"dataset {store.uri}: is not the one that this run was begun with; start a new run with --out")
        manifest.write(folder)


def _await(store: Store) -> None:
    """The driver may still be sending it."""
    end = time.monotonic() + PATIENCE
    while MANIFEST not in store.names() and time.monotonic() < end:
        time.sleep(LOOK)


@contextmanager
def told(field: str, uri: str, absent: str = NO_DATASET) -> Iterator[None]:
    """What a store answers in one line that names the field and a remedy; `absent` where something is not there."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{field}={uri!r}: {absent}") from error
    except NoBucket as error:
        raise ValueError(f"{field}={uri!r}: {NO_BUCKET}") from error
    except OSError as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{field}={uri!r}: cannot be read or written ({why}); check bucket, credentials and network; the same command goes on"
        ) from error


def _holds(folder: Path, source: DataSource) -> bool:
    return (folder / MANIFEST).is_file() and open_manifest(folder / MANIFEST).contents() == source.contents


def _is_right(path: Path, shard: ShardEntry) -> bool:
    return path.is_file() and path.stat().st_size == shard.bytes and sha256_file(path) == shard.sha256
