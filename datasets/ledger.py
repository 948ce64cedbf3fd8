"""The ledger: which clips each update was made of. Segments that form a chain, each naming the one before by its hash.

A segment is written with every checkpoint and covers the updates since the one before, so what a checkpoint holds and what its chain of
segments tells is the same, whatever was tried and lost in between. Every 64th covers those of the segments before it too, as far as they
are small, and names the one before these: a chain stays short. No segment is ever changed: an older checkpoint may name it. The first line
is the header; each other line is an update: its step, its clips in the order of their positions, whether the weights moved (1) or the
step was skipped (0), which versions of the weights made its rollouts, and of clips that come as they are decoded, in which pass.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .places.store import Store, write_bytes

NAME = re.compile(r"[a-z0-9-]+/ledger/[0-9a-z-]+\.jsonl")
LIMIT = 2**30  # bytes of a segment that is read at all
FOLD = 64  # segments that have become no one
FULL = 16 * 2**20  # bytes above which segments stay apart


@dataclass(frozen=True)
class Update:
    """One optimizer step: the ids of its clips in the order of their positions, whether it was applied, and where it read rollouts the
    lowest and the highest version of the weights that made them. passes: where clips come as they are decoded, how often all of them had
    been gone through before, for each clip.
    """

    step: int
    clips: tuple[str, ...]
    applied: bool
    rollout: tuple[int, int] | None = None
    passes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Head:
    """The last segment of a chain: its name in the store, its SHA-256, and how many segments it ends that were not made one yet."""

    name: str
    sha256: str
    apart: int = 1


def write_segment(store: Store, name: str, before: Head | None, updates: Sequence[Update]) -> Head:
    """Write the updates since the segment `before`, and where many small segments precede, theirs.

    Raises:
        ValueError: one of those is missing or damaged.
    """
    apart = 1 if before is None else before.apart + 1
    if apart > FOLD:
        before, updates, apart = *_folded(store, before, updates), 1
    header = {"before": None if before is None else asdict(before)}
    lines = [header, *(_line(u) for u in updates)]
    content = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
    write_bytes(store, name, content)
    return Head(name, hashlib.sha256(content).hexdigest(), apart)


def _folded(store: Store, before: Head | None, updates: Sequence[Update]) -> tuple[Head | None, list[Update]]:
    """The updates with those of the segments before, as many as fit into a full one; and the segment before these."""
    parts, size = [list(updates)], 0
    while before is not None:
        content = _content(store, before)
        size += len(content)
        if size > FULL:
            break
        before, of = _parsed(content, f"{store.uri}/{before.name}")
        parts.append(of)
    return before, [update for part in reversed(parts) for update in part]


def read_chain(store: Store, head: Head | None) -> list[Update]:
    """All updates up to a segment, first ones first.

    Raises:
        ValueError: a segment is missing, or is not what the one after it says that it is.
    """
    segments: list[list[Update]] = []
    seen: set[str] = set()
    while head is not None:
        if head.name in seen:
            raise ValueError(f"ledger {store.uri}/{head.name}: damaged (the chain leads back to it)")
        seen.add(head.name)
        head, updates = _parsed(_content(store, head), f"{store.uri}/{head.name}")
        segments.append(updates)
    return [update for segment in reversed(segments) for update in segment]


def head_of(record: Any) -> Head | None:
    """From its JSON form.

    Raises:
        ValueError: it has none.
    """
    if record is None:
        return None
    if (
        not isinstance(record, dict)
        or not all(isinstance(record.get(key), str) for key in ("name", "sha256"))
        or not NAME.fullmatch(record["name"])
        or not isinstance(record.get("apart", 1), int)
    ):
        raise ValueError(f"ledger: {str(record)[:80]!r} names no segment")
    return Head(record["name"], record["sha256"], record.get("apart", 1))


def _content(store: Store, head: Head) -> bytes:
    where = f"ledger {store.uri}/{head.name}"
    try:
        path = store.fetch(head.name)
    except FileNotFoundError as error:
        raise ValueError(f"{where}: missing; updates before it cannot be accounted for") from error
    content = path.read_bytes() if path.stat().st_size <= LIMIT else b""
    if hashlib.sha256(content).hexdigest() != head.sha256:
        raise ValueError(f"{where}: damaged (its hash is not the one that the next segment or the checkpoint names)")
    return content


def _parsed(content: bytes, where: str) -> tuple[Head | None, list[Update]]:
    """The segment before it, and its updates."""
    try:
        first, *lines = (json.loads(line) for line in content.splitlines())
        return head_of(first["before"]), [_update(line) for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"ledger {where}: is no segment ({type(error).__name__}: {error})") from error


def _line(update: Update) -> dict[str, Any]:
    line = {"step": update.step, "clips": update.clips, "applied": int(update.applied)}
    line |= {} if update.rollout is None else {"rollout": update.rollout}
    return line | ({"passes": update.passes} if update.passes else {})


def _update(line: Any) -> Update:
    low, high = line.get("rollout") or (None, None)
    versions = None if low is None or high is None else (int(low), int(high))
    passes = tuple(int(n) for n in line.get("passes", ()))
    return Update(int(line["step"]), tuple(map(str, line["clips"])), bool(line["applied"]), versions, passes)


def consumed(updates: Sequence[Update]) -> tuple[int, frozenset[str]]:
    """Where training on clips that come as they are decoded stands: the pass that it is in, and the clips of that pass it has had."""
    last = max((n for u in updates for n in u.passes), default=0)
    return last, frozenset(clip for u in updates for clip, n in zip(u.clips, u.passes, strict=False) if n == last)


def faults(
    updates: Sequence[Update],
    steps: int,
    batch: int,
    train: Sequence[str],
    wanted: Iterator[str] | None = None,
    max_age: int | None = None,
    epochs: bool = True,
) -> Iterator[str]:
    """What is wrong with the account of a stage of `steps` updates of `batch` clips, in words; nothing if every clip of every epoch was
    trained on exactly once. train: ids of all training clips; wanted: the ids that the order of training gives, position by position;
    max_age: of the rollouts that every update must have read (None: it reads none); epochs: whether those of all clips follow each other;
    where datasets or shapes have epochs of their own, `wanted` alone tells what was to be trained on when.
    """
    if [u.step for u in updates] != list(range(steps)):
        at = next((i for i, u in enumerate(updates) if u.step != i), len(updates))
        found = f"step {updates[at].step}" if at < len(updates) else "the end"
        yield f"step {at} is expected, and {found} follows"
        return
    for u in updates:
        if len(u.clips) != batch:
            yield f"step {u.step}: {len(u.clips)} clips instead of {batch}"
        if max_age is not None and (u.rollout is None or not 0 <= u.step - u.rollout[1] <= u.step - u.rollout[0] <= max_age):
            made = "no rollout" if u.rollout is None else f"rollouts of the weights of steps {u.rollout[0]} to {u.rollout[1]}"
            yield f"step {u.step}: {made}; one of at most {max_age} steps before is expected"
    order = [clip for u in updates for clip in u.clips]
    if epochs:
        yield from _of_epochs(order, set(train), len(train))
    if wanted is not None:
        for position, (clip, other) in enumerate(zip(order, wanted, strict=False)):
            if clip != other:
                yield f"position {position}: {clip} was trained on, the order of training gives {other}"
                return


def _of_epochs(order: Sequence[str], known: set[str], n: int) -> Iterator[str]:
    """What is wrong with epochs of `n` clips."""
    for epoch in range(0, -(-len(order) // n)):
        clips = order[epoch * n : (epoch + 1) * n]
        if strangers := sorted(set(clips) - known):
            yield f"epoch {epoch}: {strangers[0]} is no training clip"
        if len(set(clips)) != len(clips):
            twice = next(clip for clip in clips if clips.count(clip) > 1)
            yield f"epoch {epoch}: {twice} was trained on {clips.count(twice)} times"
        if len(clips) == n and (left_out := sorted(known - set(clips))):
            yield f"epoch {epoch}: {left_out[0]} was left out"
