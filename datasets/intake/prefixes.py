"""Sources in S3: what is below a prefix, and bytes of an object. Listings come in pages, each asked for again when it does not come.

s3://BUCKET/PREFIX -> the first page -> ranges of keys, eight at a time (key_ranges.py) -> objects with their sidecars
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from ..places.key_ranges import KeyRanges, Page
from ..places.storage import s3
from ..places.store import require_no_user, tried
from .sources import MAX_SOURCES, Place, Source, no_media, paired

MAX_KEYS = 5 * MAX_SOURCES  # each source may have four sidecars
MAX_OBJECT_BYTES = 64 << 30
THREADS = 8
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Object:
    """An object of a bucket. etag: changes with its content."""

    key: str
    size: int
    etag: str


class Bucket:
    """A bucket, which several threads may ask at once. Errors are OSErrors, after the attempts of `tried`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._fs: Any = s3(attempts=1)

    def pages(self, prefix: str, delimiter: str = "") -> Iterator[tuple[list[Object], list[str]]]:
        """Objects whose key begins with `prefix`, page by page; with a delimiter those of this folder alone, and its folders' prefixes."""
        more = {"Delimiter": delimiter} if delimiter else {}
        while True:
            page = self._asked("list_objects_v2", prefix, Prefix=prefix, MaxKeys=PAGE, **more)
            yield _objects(page), [about["Prefix"] for about in page.get("CommonPrefixes", ())]
            if not page.get("IsTruncated"):
                return
            more["ContinuationToken"] = page["NextContinuationToken"]

    def folder(self, prefix: str) -> dict[str, Object]:
        """The objects right below a prefix that ends with a slash (or is empty), by their names there."""
        return {found.key.removeprefix(prefix): found for objects, _ in self.pages(prefix, "/") for found in objects}

    def below(self, prefix: str) -> Iterator[Object]:
        """All objects below a prefix, which ends with a slash or is empty, in the order of their keys where the store has one. Of more
        than `MAX_KEYS` some are missing, and more than that come.
        """
        first = self._page(prefix)
        keys = [found.key for found in first.found]
        if first.more and keys != sorted(keys):  # as Amazon's directory buckets have it: nothing can be asked for by its place
            yield from islice((found for page, _ in self.pages(prefix) for found in page), MAX_KEYS + 1)
            return
        yield from KeyRanges(partial(self._page, prefix), prefix, THREADS, MAX_KEYS).all(first)

    def _page(self, prefix: str, after: str = "") -> Page[Object]:
        """The objects below a prefix that come after a key, as many as a page holds."""
        page = self._asked("list_objects_v2", prefix, Prefix=prefix, MaxKeys=PAGE, **({"StartAfter": after} if after else {}))
        return Page(_objects(page), bool(page.get("IsTruncated")))

    def read(self, key: str, first: int, count: int) -> bytes:
        """Bytes of an object; fewer where it ends.

        Raises:
            OSError: S3 does not answer, or has no such object (FileNotFoundError).
        """
        if count <= 0:
            return b""
        at = f"{self.name}/{key}"
        return tried(lambda: self._fs.cat_file(at, start=first, end=first + count), f"s3://{at}")

    def etag(self, key: str) -> str:
        """Changes with the content of an object."""
        at = f"{self.name}/{key}"
        return str(tried(lambda: self._fs.info(at), f"s3://{at}").get("ETag", ""))

    def _asked(self, method: str, key: str, **arguments: Any) -> dict[str, Any]:
        return tried(lambda: self._fs.call_s3(method, Bucket=self.name, **arguments), f"s3://{self.name}/{key}")


def _objects(page: dict[str, Any]) -> list[Object]:
    return [Object(about["Key"], int(about["Size"]), about["ETag"].strip('"')) for about in page.get("Contents", ())]


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Of an s3:// URI.

    Raises:
        ValueError: it names no bucket, or a user.
    """
    bucket, _, key = require_no_user(uri).removeprefix("s3://").partition("/")
    if not bucket:
        raise ValueError(f"{uri!r}: names no bucket; give s3://BUCKET/FOLDER")
    return bucket, key


def in_prefix(bucket: Bucket, prefix: str) -> Iterator[Source]:
    """The sources below a prefix that ends with a slash or is empty, named relative to it; hidden ones are left out.

    Raises:
        ValueError: there are too many objects.
        OSError: S3 does not answer.
    """
    objects: dict[str, Object] = {}
    for count, found in enumerate(bucket.below(prefix)):
        if count >= MAX_KEYS:
            raise ValueError(f"s3://{bucket.name}/{prefix}: more than {MAX_KEYS} objects; give a prefix below it")
        name = found.key.removeprefix(prefix)
        if name and not name.endswith("/") and not any(part.startswith(".") and part.strip(".") for part in name.split("/")):
            objects[name] = found
    for name, beside in paired(objects).items():
        yield object_source(name, bucket.name, objects[name], [objects[text] for text in beside])


def object_source(name: str, bucket: str, found: Object, beside: Iterable[Object]) -> Source:
    """An object as a source. beside: its sidecars."""
    texts = list(beside)
    reason = no_media(found.key)
    if any(part in ("", ".", "..") for part in found.key.split("/")):
        reason = "a part of its key is empty, `.` or `..`: give it another key"
    elif found.size > MAX_OBJECT_BYTES:
        reason = f"has {found.size} bytes, at most {MAX_OBJECT_BYTES} are fetched: cut it"
    stamp = f"{found.size}-{found.etag}" + "".join(f" {text.key.rpartition('/')[2]}-{text.etag}" for text in texts)
    places = tuple(Place(f"s3://{bucket}/{text.key}", 0, text.size) for text in texts)
    return Source(name, f"s3://{bucket}/{found.key}", stamp, refused=reason, size=found.size, beside=places)
