"""Where the parts of an Arrow IPC file stand, without reading all of it: for ranges of a file far away, and for checks of a stranger's.

    ARROW1 .. | schema | batch | batch | ... | footer: the place of each batch | bytes of the footer | ARROW1

pyarrow tells neither the places of batches nor whether their content is compressed, so the few fields that do are read here, as the format
defines them: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format, File.fbs and Message.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

MAGIC = b"ARROW1"
END = 4 + len(MAGIC)  # bytes behind the footer
HEAD = 8  # bytes before the schema
BLOCK = 24  # bytes of one batch's place
BATCH = 3  # number of a record batch among the kinds of messages
MAX_FOOTER = 256 * 2**20  # bytes
T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """A batch in the file: where its message starts, bytes of the message's head and of its body."""

    start: int
    head: int
    body: int

    @property
    def size(self) -> int:
        return self.head + self.body


def footer_size(end: bytes, size: int) -> int:
    """Bytes of the footer, from the last `END` bytes of a file of `size` bytes.

    Raises:
        ValueError: the file does not end as an Arrow file does.
    """
    found = struct.unpack("<i", end[:4])[0] if len(end) == END and end[4:] == MAGIC else -1
    if not 0 < found <= min(size - HEAD - END, MAX_FOOTER):
        raise ValueError("it does not end as an Arrow file does")
    return found


def blocks_of(footer: bytes, size: int) -> list[Block]:
    """The batches, in order, of a file of `size` bytes with this footer.

    Raises:
        ValueError: the footer is damaged, or a batch lies outside of the file.
    """

    def read() -> list[Block]:
        first, count = _vector(footer, _field(footer, _root(footer, 0), 3))
        if count > len(footer) // BLOCK:
            raise ValueError("its footer names more batches than it has room for")
        found = (struct.unpack_from("<qi4xq", footer, first + i * BLOCK) for i in range(count))
        return [Block(*each) for each in found]

    blocks = _read(read)
    for block in blocks:
        if block.start < HEAD or block.head < 8 or block.body < 0 or block.start + block.size > size - END:
            raise ValueError(f"a batch of {block.size} bytes from byte {block.start} on lies outside of its {size} bytes")
    return blocks


def rows_in(head: bytes) -> int:
    """Rows of the batch whose message begins with these bytes.

    Raises:
        ValueError: it is no batch, it is damaged, or its content is compressed: how large it becomes cannot be known before.
    """

    def read() -> int:
        start = 8 if head[:4] == b"\xff\xff\xff\xff" else 4
        message = _root(head, start)
        kind = _field(head, message, 1)
        if kind is None or head[kind] != BATCH:
            raise ValueError("a message in it is no batch of rows")
        at = _field(head, message, 2)
        batch = _follow(head, at)
        if _field(head, batch, 3) is not None:
            raise ValueError("a batch in it is compressed")
        length = _field(head, batch, 0)
        return 0 if length is None else int(struct.unpack_from("<q", head, length)[0])

    return _read(read)


def _read(read: Callable[[], T]) -> T:
    try:
        return read()
    except (struct.error, IndexError) as error:
        raise ValueError(f"a part of it leads outside of it ({error})") from error


def _root(data: bytes, start: int) -> int:
    return start + struct.unpack_from("<I", data, start)[0]


def _follow(data: bytes, at: int | None) -> int:
    if at is None:
        raise ValueError("a part of it is missing")
    return at + struct.unpack_from("<I", data, at)[0]


def _vector(data: bytes, at: int | None) -> tuple[int, int]:
    """Where its first element stands, and how many there are."""
    if at is None:
        return 0, 0
    start = _follow(data, at)
    return start + 4, struct.unpack_from("<I", data, start)[0]


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a table stands; None if it has its default."""
    names = table - struct.unpack_from("<i", data, table)[0]
    if names < 0:
        raise ValueError("a part of it leads outside of it")
    slot = 4 + 2 * number
    if slot + 2 > struct.unpack_from("<H", data, names)[0]:
        return None
    offset = struct.unpack_from("<H", data, names + slot)[0]
    return table + offset if offset else None
