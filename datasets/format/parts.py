"""Parts: the sources are made into clips part by part, and each part that is done has a receipt.

    encode clips    a part's clips as one shard or several, then the receipt    shard-PARTn000.arrow, .part-PART.json

The next job of the same settings takes up a part whose receipt and shards are whole. Receipts go when the manifest is there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from sys import intern
from typing import Any

from ..intake.sources import Source, source_to_json
from ..places.scratch import Scratch
from ..places.storage import sha256_file
from ..places.store import Store, is_remote, write_bytes
from ..places.writable import PROBE
from .account import LeftOut
from .clip_table import ClipRow, Found
from .statistics import LatentStatistics, Statistics

FEWEST = 32  # parts that even a small dataset has, so that many processes make it
SHARD_BYTES = 128 << 20
MAX_SOURCES = 4096  # of a part: its receipt is read whole
FINISHED = r"shard-[0-9a-f]{16}n\d{3,}\.arrow|\.part-[0-9a-f]{16}\.json|\.survey-\d+\.jsonl|\.codecs-[0-9a-f]{16}\.json"
LAST = r"manifest(-\d+)?\.json|sources(-\d+)?\.jsonl|clips(-\d+)?\.parquet|contact\.png"
OURS = re.compile(rf"{FINISHED}|\.({FINISHED}|{LAST})\.\d+\.tmp|{re.escape(PROBE)}[0-9a-f]{{8}}")


@dataclass(frozen=True, slots=True)
class Item:
    """A source to be made into clips. content: SHA-256 of its bytes; clips: how many, about; starts: frames at which scenes begin."""

    source: Source
    content: str
    clips: int
    starts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Sources whose clips become one shard, or several where they are long. name: a hash of them and of all that shapes their latents."""

    name: str
    items: tuple[Item, ...]

    def shard(self, number: int) -> str:
        return f"shard-{self.name}n{number:03}.arrow"

    @property
    def receipt(self) -> str:
        return f".part-{self.name}.json"


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A shard that was written: its name, rows, size in bytes and SHA-256."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a source: how many clips, and those that were left out, or a refusal with its stage; the rest as in `SourceLine`."""

    name: str
    stage: str = ""
    reason: str = ""
    said: str = ""
    note: str = ""
    clips: int = 0
    left_out: tuple[LeftOut, ...] = ()
    seconds: float = 0.0
    frames: int = 0
    samples: int = 0
    av_offset_ms: float | None = None
    timing: Found = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What came of a part, of its sources and of their clips.

    quality: PSNR and SNR in dB of a clip's way through the codecs; statistics: of its latents, a modality; columns: of
    its shards, by their Arrow types."""

    outcomes: tuple[Outcome, ...]
    clips: tuple[ClipRow, ...]
    shards: tuple[ShardEntry, ...]
    quality: tuple[tuple[float, float], ...] = ()
    statistics: Statistics = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"statistics": {name: x.to_json() for name, x in self.statistics.items()}})


def receipt_of(text: str | bytes) -> Receipt:
    """From its JSON.

    Raises:
        ValueError: it is no receipt.
    """
    try:
        data = json.loads(text)
        return Receipt(
            tuple(_outcome(line) for line in data["outcomes"]),
            tuple(ClipRow(**row | {"found": _pairs(row["found"])}) for row in data["clips"]),
            tuple(ShardEntry(**line) for line in data["shards"]),
            tuple((float(psnr), float(snr)) for psnr, snr in data["quality"]),
            {name: LatentStatistics.from_json(x) for name, x in data["statistics"].items()},
            {str(name): str(kind) for name, kind in data["columns"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"receipt of a part: damaged ({type(error).__name__}: {error})") from error


class Receipts:
    """Of parts, in their order, whatever the order they were added in. They lie on the disk of this machine, and are read again each time
    they are gone through: a line for every clip finds no room in memory.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts, self._scratch = parts, Scratch()

    def add(self, part: str, text: str) -> None:
        (self._scratch.folder / part).write_text(text, encoding="utf-8")

    def __iter__(self) -> Iterator[Receipt]:
        for part in self._parts:
            yield receipt_of((self._scratch.folder / part).read_bytes())


def parts_of(items: Sequence[Item], clip_bytes: int, shaped_by: str) -> list[Part]:
    """The items in their order, in parts of so many clips that a shard holds about `SHARD_BYTES`, or fewer where there are few. shaped_by:
    settings and codecs.
    """
    most = max(1, min(SHARD_BYTES // max(1, clip_bytes), -(-sum(item.clips for item in items) // FEWEST)))
    groups, held = list[list[Item]](), most
    for item in items:
        if held + item.clips > most or len(groups[-1]) == MAX_SOURCES:
            groups.append([])
            held = 0
        groups[-1].append(item)
        held += item.clips
    return [Part(_name(group, shaped_by), tuple(group)) for group in groups]


def _name(group: Sequence[Item], shaped_by: str) -> str:
    members = [[source_to_json(item.source), item.content, item.starts] for item in group]
    return hashlib.sha256(json.dumps([shaped_by, members]).encode()).hexdigest()[:16]


def finished(store: Store, part: Part, there: dict[str, int]) -> Receipt | None:
    """The receipt of a part that is done, or None: it has none, or its shards are not what it says. there: files and their sizes."""
    if part.receipt not in there:
        return None
    try:
        receipt = receipt_of(store.fetch(part.receipt).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return receipt if all(there.get(shard.file) == shard.bytes and _is_right(store, shard) for shard in receipt.shards) else None


def _is_right(store: Store, shard: ShardEntry) -> bool:
    """S3 keeps what it was given whole, and to fetch it only to look would cost more than to make it: there the size is enough."""
    return is_remote(store.uri) or sha256_file(store.fetch(shard.file)) == shard.sha256


def write_receipt(store: Store, part: Part, receipt: Receipt) -> None:
    """Write down that a part is done; its shards are there."""
    write_bytes(store, part.receipt, receipt.to_json().encode())


def clear(store: Store, keep: Iterable[str]) -> None:
    """Remove shards, receipts, and what was cut off in the middle, but for those that are named, and for all that has no name of ours: a
    user may have files of their own there.
    """
    kept = set(keep)
    for name in store.names():
        if OURS.fullmatch(name) and name not in kept:
            store.remove(name)


def _outcome(line: dict[str, Any]) -> Outcome:
    return Outcome(**line | {"left_out": tuple(LeftOut(**clip) for clip in line["left_out"]), "timing": _pairs(line["timing"])})


def _pairs(pairs: Any) -> Found:
    return tuple((intern(str(name)), float(x)) for name, x in pairs)
