"""Rows of a list, one after the other: JSON lines, CSV or Parquet. A row that cannot be read becomes its reason, and the next one follows.

.jsonl     an object a line; its number is that of the line
.csv       the first row names the columns and is row 1; UTF-8, commas, quotes as in RFC 4180
.parquet   rows are counted from 1
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .sidecars import is_text

MAX_LIST_BYTES = 8 << 30
MAX_ROWS = 5_000_000
MAX_ROW = 4 << 20  # bytes of a line
MAX_CELL = 1 << 20  # characters
MAX_COLUMNS = 256
MAX_GROUP = 4 << 30  # bytes of a row group of Parquet, unpacked
BATCH = 256  # rows of Parquet in memory

Row = dict[str, Any]


def rows_of(path: Path, name: str) -> Iterator[tuple[int, Row | str]]:
    """The rows of a list with their numbers: a row by column, or why it is none. name: of the list, for errors.

    Raises:
        ValueError: the list is too large, or not what its suffix says.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > MAX_LIST_BYTES:
        raise ValueError(f"list {name}: {size} bytes, at most {MAX_LIST_BYTES} are read; split it")
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    for count, row in enumerate(readers[path.suffix.lower()](path, name)):
        if count == MAX_ROWS:
            raise ValueError(f"list {name}: more than {MAX_ROWS} rows; split it")
        yield row


def _jsonl(path: Path, name: str) -> Iterator[tuple[int, Row | str]]:
    with path.open("rb") as file:
        for number, line in enumerate(_Lines(file), 1):
            if line is None:
                yield number, f"longer than {MAX_ROW} bytes"
            elif line.strip():
                yield number, _object(line)


def _object(line: bytes) -> Row | str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return f"not JSON ({' '.join(str(error).split())[:100]})"
    return row if isinstance(row, dict) else "no JSON object"


class _Lines:
    """The lines of a file; None for one that is too long. Unlike a generator it goes on after what its reader raises."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> bytes | None:
        line = self._file.readline(MAX_ROW + 1)
        if not line:
            raise StopIteration
        if len(line) <= MAX_ROW:
            return line
        while line and not line.endswith(b"\n"):
            line = self._file.readline(MAX_ROW)
        return None


class _LongLine(Exception):
    pass


class _TextLines:
    """The same as text, for the reader of CSV; a line that is too long is raised."""

    def __init__(self, file: BinaryIO) -> None:
        self._lines = _Lines(file)

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if line is None:
            raise _LongLine
        return line.decode(errors="surrogateescape")


def _csv(path: Path, name: str) -> Iterator[tuple[int, Row | str]]:
    csv.field_size_limit(max(MAX_CELL, csv.field_size_limit()))  # of the process: only ever raised
    with path.open("rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":  # the mark that spreadsheets begin UTF-8 with
            file.seek(0)
        reader = csv.reader(_TextLines(file), strict=True)
        try:
            columns = [column.strip() for column in next(reader)]
        except StopIteration as error:
            raise ValueError(f"list {name}: is empty; its first row names the columns") from error
        except (csv.Error, _LongLine) as error:
            raise ValueError(f"list {name}: its first row is no row of CSV ({error or 'too long'}); write it again as CSV") from error
        _check_columns(columns, name)
        number = 1
        while True:
            number += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, f"no row of CSV ({error})"
                continue
            except _LongLine:
                yield number, f"a line of more than {MAX_ROW} bytes"
                continue
            if cells:
                yield number, _record(columns, cells)


def _record(columns: list[str], cells: list[str]) -> Row | str:
    if len(cells) != len(columns):
        return f"has {len(cells)} cells, the list {len(columns)} columns"
    if not is_text("".join(cells)):
        return "not UTF-8: write the list again as UTF-8"
    return dict(zip(columns, cells, strict=True))


def _check_columns(columns: list[str], name: str) -> None:
    if len(columns) > MAX_COLUMNS:
        raise ValueError(f"list {name}: {len(columns)} columns, at most {MAX_COLUMNS}; leave some out")
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise ValueError(f"list {name}: two columns {twice[0]!r}; rename one of them")
    if not all(map(is_text, columns)):
        raise ValueError(f"list {name}: its first row is not UTF-8; write it again as UTF-8")


def _parquet(path: Path, name: str) -> Iterator[tuple[int, Row | str]]:
    number = 0
    try:
        with pq.ParquetFile(path, memory_map=False, buffer_size=1 << 20) as file:
            about = file.metadata
            _check_columns(list(file.schema_arrow.names), name)
            for column in file.schema_arrow:
                if _within(column.type):
                    raise ValueError(f"list {name}: column {column.name!r} has a dictionary within it; write it plainly")
            largest = max((about.row_group(i).total_byte_size for i in range(about.num_row_groups)), default=0)
            if largest > MAX_GROUP:
                raise ValueError(f"list {name}: a row group of {largest} bytes, at most {MAX_GROUP}; write it with smaller ones")
            for batch in file.iter_batches(BATCH, use_threads=False):
                if (taken := sum(_bytes(column) for column in batch.columns)) > BATCH * MAX_CELL:
                    raise ValueError(f"list {name}: rows {number + 1} to {number + len(batch)} have {taken} bytes; shorten their cells")
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        raise ValueError(
            f"list {name}: damaged Parquet after row {number} ({' '.join(str(error).split())[:150]}); write it again"
        ) from error


def _bytes(column: pa.Array) -> int:
    """Of a column's cells when each has its own: those of a dictionary may all be the one that is long."""
    if not pa.types.is_dictionary(column.type):
        return column.nbytes
    longest = max((value.as_py().__sizeof__() for value in column.dictionary), default=0)
    return longest * len(column)


def _within(kind: pa.DataType) -> bool:
    """Whether cells of this type hold values of a dictionary, other than as a whole."""
    return any(pa.types.is_dictionary(child.type) or _within(child.type) for child in map(kind.field, range(kind.num_fields)))
