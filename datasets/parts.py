"""What a killed job has done already. A dataset is made source by source, then part by part, and each that is done is written down:

    look into sources    a line a source, with what was found in it                    .survey.jsonl
    encode clips         a part's clips as one shard, then the receipt of the shard    shard-NAME.arrow, .part-NAME.json

The next job of the same settings takes up what is whole and is of a source that is what it was: a line of the survey, a shard with its
receipt. Lines and receipts go when the manifest is there.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .sidecars import sidecars_of
from .storage import atomic_path, sha256_file, write_json

Row = dict[str, Any]
SURVEY = ".survey.jsonl"
RECEIPTS = ".part-*.json"
SHARDS = "shard-*.arrow"
FEWEST = 32  # parts that even a small dataset has, so that many processes make it
SHARD_BYTES = 128 << 20


@dataclass(frozen=True)
class Part:
    """Sources whose clips become one shard. items: {source, content} each; name: a hash of them and of all that shapes their latents."""

    name: str
    items: tuple[Row, ...]

    @property
    def shard(self) -> str:
        return f"shard-{self.name}.arrow"

    @property
    def receipt(self) -> str:
        return f".part-{self.name}.json"


def parts_of(items: Sequence[Row], clips: Sequence[int], clip_bytes: int, shaped_by: str) -> list[Part]:
    """The items in their order, in parts of so many clips that a shard holds about `SHARD_BYTES`, or fewer where there are few. clips: how
    many each item makes, about; shaped_by: settings and codecs.
    """
    most = max(1, min(SHARD_BYTES // max(1, clip_bytes), -(-sum(clips) // FEWEST)))
    groups, held = list[list[Row]](), most
    for item, count in zip(items, clips, strict=True):
        if held + count > most:
            groups.append([])
            held = 0
        groups[-1].append(item)
        held += count
    return [Part(_name(group, shaped_by), tuple(group)) for group in groups]


def _name(group: Sequence[Row], shaped_by: str) -> str:
    return hashlib.sha256(json.dumps([shaped_by, [[i["source"], i["content"]] for i in group]]).encode()).hexdigest()[:16]


def give_receipt(out: Path, part: Part, rows: Sequence[Row]) -> None:
    """Write down that a part is done. rows: its clips without their latents, and what was refused; its shard is there if it has clips."""
    shard = out / part.shard
    proof = [shard.stat().st_size, sha256_file(shard)] if any(row["clip_id"] for row in rows) else None
    write_json(out / part.receipt, {"rows": list(rows), "shard": proof})


def finished(out: Path, part: Part) -> list[Row] | None:
    """The rows of a part that is done, or None: it has no receipt, or its shard is not what the receipt says."""
    try:
        receipt = json.loads((out / part.receipt).read_text(encoding="utf-8"))
        rows, proof = receipt["rows"], receipt["shard"]
        shard = out / part.shard
        if proof is None or (shard.stat().st_size == proof[0] and sha256_file(shard) == proof[1]):
            return [dict(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def clear(out: Path, parts: Sequence[Part] = ()) -> None:
    """Remove what belongs to no part of these, and what was cut off in the middle; with none, all that the manifest does not need."""
    keep = {name for part in parts for name in (part.receipt, part.shard)}
    for leftover in (*out.glob(RECEIPTS), *out.glob(".*.tmp"), *(out.glob(SHARDS) if parts else ())):
        if leftover.name not in keep:
            leftover.unlink(missing_ok=True)
    if not parts:
        (out / SURVEY).unlink(missing_ok=True)


class SurveyNotes:
    """Rows of the survey, kept as they come. shaped_by: the settings; rows of others are forgotten."""

    def __init__(self, out: Path, shaped_by: str) -> None:
        self._path, known = out / SURVEY, dict[str, Row]()
        lines = self._path.read_bytes().split(b"\n") if self._path.is_file() else []
        head = json.dumps({"settings": shaped_by}).encode()
        if lines[:1] == [head]:
            for line in lines[1:-1]:  # the last is empty, or was cut off
                try:
                    key, row = json.loads(line)
                    known[key] = row | {"moments": base64.b64decode(row["moments"])}
                except (ValueError, KeyError, TypeError):
                    continue
        self._known = known
        with atomic_path(self._path) as temporary:  # without what was cut off, or is of other settings
            temporary.write_bytes(b"".join([head + b"\n", *(_line(key, row) for key, row in known.items())]))
        self._file = self._path.open("ab")

    def known(self, item: Row) -> Row | None:
        """What was found in a source, if it is what it was."""
        stamp = _stamp(item)
        return self._known.get(stamp) if stamp else None

    def add(self, item: Row, row: Row) -> None:
        """Keep what was found in a source, unless it could not be read: that may be over the next time."""
        if row["stage"] != "read" and (stamp := _stamp(item)):
            self._file.write(_line(stamp, row))
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(stamp: str, row: Row) -> bytes:
    return json.dumps([stamp, row | {"moments": base64.b64encode(row["moments"]).decode()}]).encode() + b"\n"


def _stamp(item: Row) -> str:
    """A source and its sidecars as they are now: names, sizes and times; nothing of one that is gone."""
    try:
        files = [Path(item["source"]), *sidecars_of(Path(item["source"]))]
        states = [(str(path), (found := path.lstat()).st_size, found.st_mtime_ns) for path in files]
    except OSError:
        return ""
    return json.dumps([bool(item["measure"]), states])
