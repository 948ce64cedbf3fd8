"""A list that a user names -> its sources. One row a file, or several that name pieces of one file.

    path         relative to the list's folder, absolute, or s3://BUCKET/KEY
    caption      text                          transcript   words as in a sidecar, or what is spoken as plain text
    start, end   the row is about this piece   spans        several: [start, end] or {start, end, caption, transcript}
    any other column becomes a tag: of the piece where the row is about one, else of the source

What a list may name: below its own folder, any file; a relative path with `..`, or a link that leads out, is refused, so that a folder
that was handed over with its list cannot reach out of itself by them. Elsewhere, what stands there in full: an absolute path or s3:// is
taken as the user's own word, and links there are followed. A list in S3 names nothing on this machine. URLs are not fetched.

Times are on the clock of the source, those of words too. Rows that are wrong become refused sources, named LIST#ROW.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .corpora import Row, seconds_of, translated
from .list_rows import rows_of
from .sidecars import Sidecar, is_text, parse_text, shared_words, tags_of
from .sources import Source, Span, hash_of, shown

MAX_SPANS = 100_000  # of a source
TRIAL = 100  # rows that may lack a path before the whole list is no list
JSON_BEGINS = re.compile(r"\s*(?:\{|\[\s*[\[{\]])")
TEXT_COLUMNS = {"path", "caption", "transcript", "start", "end", "spans"}
NOTHING = Sidecar()


class Folder(Protocol):
    """Where a list is, and what it may name (`list_folders.py`)."""

    def find(self, path: str) -> Source:
        """The file of a path in the list, which is refused or not. Raises ValueError where there is none, or it is not to be named."""
        ...

    def stem(self, name: str) -> str:
        """The path below the folder of a media file with this stem, or an empty text."""
        ...


@dataclass(slots=True)
class _Found:
    """A file as rows have told of it. row: the first; text: of all of it."""

    source: Source
    row: int
    text: Sidecar
    spans: dict[tuple[float, float], Span] = field(default_factory=dict)


def in_list(copy: Path, uri: str, name: str, folder: Folder) -> Iterator[Source]:
    """The sources of a list. copy: the list as a local file; uri: where it is; name: what the user calls it.

    Raises:
        ValueError: it is no list (see `rows_of`), or names no files.
        OSError: it, or S3, cannot be read.
    """
    found, wrong = _gathered(rows_of(copy, name), name, folder)
    for one in found.values():
        yield _finished(one)
    label = uri.rpartition("/")[2]
    for number, reason in wrong.items():
        yield Source(f"{label}#{number}", f"{uri}#{number}", "", refused=f"row {number}: {shown(reason)}")


def _gathered(rows: Iterator[tuple[int, Row | str]], name: str, folder: Folder) -> tuple[dict[str, _Found], dict[int, str]]:
    """Files by path, and what is wrong with the other rows."""
    found, written = dict[str, _Found](), dict[str, _Found]()
    wrong, without, columns = dict[int, str](), 0, ""
    for number, row in rows:
        try:
            if isinstance(row, str):
                raise ValueError(row)
            given = translated(row, folder.stem)
            if not (path := given.get("path")):
                without, columns = without + 1, ", ".join(map(str, list(row)[:8]))[:200]
                raise ValueError("no `path`")
            if not isinstance(path, str) or not is_text(path):
                raise ValueError(f"path={path!r:.80}: no path as text")
            spans, all_of_it = _spans_of(given)
            text = _text(given, "this row") if all_of_it else NOTHING
            if path not in written:
                source = folder.find(path)
                written[path] = found.setdefault(source.path, _Found(source, number, text))
            _add(written[path], number, spans, text)
        except ValueError as error:
            wrong[number] = " ".join(str(error).split())[:300]
        if without == TRIAL and not found:
            break
    if not found and without == len(wrong):
        raise ValueError(
            f"list {name}: has no column `path` (it has {columns or 'no rows'}); name the column of media files so, "
            "or give the folder in the place of all files in it"
        )
    return found, wrong


def _add(known: _Found, number: int, spans: list[Span], text: Sidecar) -> None:
    """What a row says of a file that this or another row named first."""
    if number != known.row:
        if not known.spans or not spans:
            raise ValueError(f"names the file of row {known.row} again; give its pieces with start and end")
        if text not in (NOTHING, known.text):
            raise ValueError(f"says more about all of the file of row {known.row}; put that into one row")
    if twice := [span for span in spans if (span.start_s, span.end_s) in known.spans]:
        raise ValueError(f"names the piece from {twice[0].start_s:g} to {twice[0].end_s:g} s again")
    if len(known.spans) + len(spans) > MAX_SPANS:
        raise ValueError(f"more than {MAX_SPANS} pieces of one file")
    known.spans.update({(span.start_s, span.end_s): span for span in spans})


def _finished(one: _Found) -> Source:
    s, text, spans = one.source, one.text, tuple(one.spans[key] for key in sorted(one.spans))
    pieces = [(span.start_s, span.end_s, span.caption, span.words, span.tags) for span in spans]
    stamp = f"{s.stamp} {hash_of(text.caption, text.words, text.spoken, text.tags, pieces)}"
    return Source(s.name, s.path, stamp, text.caption, text.words, spans, text.tags, s.refused, text.spoken, s.first, s.size, s.beside)


def _spans_of(row: Row) -> tuple[list[Span], bool]:
    """The pieces that a row names, and whether its text is about all of the source rather than about the one piece."""
    alone = {name: row[name] for name in ("start", "end") if _there(row.get(name))}
    spans = _unpacked(row.get("spans"), "spans")
    if alone and _there(spans):
        raise ValueError("both start, end and spans; give one of them")
    if alone:
        if len(alone) < 2:
            raise ValueError("one of start and end alone; give both")
        return [_span(row, "this row")], False
    if not _there(spans):
        return [], True
    if not isinstance(spans, list) or len(spans) > MAX_SPANS:
        raise ValueError(
            f"spans={str(spans)[:60]!r}: no list of at most {MAX_SPANS} of [start, end] or {{start, end, caption, transcript}}"
        )
    found = [_span(span, f"spans[{i}]") for i, span in enumerate(spans)]
    if len({(span.start_s, span.end_s) for span in found}) < len(found):
        raise ValueError("spans: the same piece twice; leave one of them out")
    return found, True


def _span(span: Any, label: str) -> Span:
    if isinstance(span, list | tuple) and len(span) == 2:
        span = {"start": span[0], "end": span[1]}
    if not isinstance(span, dict) or "start" not in span or "end" not in span:
        raise ValueError(f"{label}={str(span)[:60]!r}: need [start, end] or {{start, end, caption, transcript}}")
    start, end = (seconds_of(span[name], f"{label} {name}") for name in ("start", "end"))
    if start >= end:
        raise ValueError(f"{label}: from {start:g} to {end:g} s, need start < end")
    text = _text(span, label)
    words = text.words or shared_words(text.spoken, start, end)
    return Span(start, end, text.caption, words, text.tags)


def _text(row: Row, label: str) -> Sidecar:
    """Caption, transcript and tags of a row or a span."""
    caption, transcript = row.get("caption"), _unpacked(row.get("transcript"), "transcript")
    if _there(caption) and not isinstance(caption, str):
        raise ValueError(f"caption={str(caption)[:60]!r}: no text")
    spoken = " ".join(transcript.split()) if isinstance(transcript, str) else ""
    said = parse_text(transcript, label) if _there(transcript) and not isinstance(transcript, str) else Sidecar()
    text = Sidecar(caption or "", said.words, spoken, tags_of(_others(row), label))
    if not is_text(text.caption) or not is_text(spoken):
        raise ValueError("holds half of a surrogate pair, which is no character; write the list again as UTF-8")
    return text


def _others(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in TEXT_COLUMNS}


def _unpacked(cell: Any, name: str) -> Any:
    """What a cell of CSV holds as JSON; a transcript that does not begin as JSON's objects and lists of them do is plain text."""
    if not isinstance(cell, str) or not cell.strip() or (name == "transcript" and not JSON_BEGINS.match(cell)):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}={cell[:40]!r}: not JSON ({str(error)[:80]})") from error


def _there(value: Any) -> bool:
    return value is not None and value != [] and not (isinstance(value, str) and not value.strip())
