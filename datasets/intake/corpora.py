"""Lists of known corpora, told by their columns: a row of theirs becomes a row of ours (`lists.py`).

Panda-70M, CSV (https://github.com/snap-research/Panda-70M, dataset_dataloading): a video a row, its clips as lists in Python's notation.

    videoID,url,timestamp,caption,matching_score[,desirable_filtering,shot_boundary_detection]
    --Ja,https://www.youtube.com/watch?v=--Ja,"[['0:00:31.364','0:00:52.251']]","['A dog is running.']",[0.48]

The videos are VIDEOID.mp4 (or .mkv, .webm ...) anywhere below the folder of the list. Scores and desirability become tags of the spans;
`shot_boundary_detection` is not read. What the corpus's own tool writes (a folder of 0000000_00000.mp4 with .txt and .json) is given as
a folder.

Emilia, JSON lines (https://huggingface.co/datasets/amphion/Emilia-Dataset, its OpenDataLab form): EN_B00000.jsonl beside EN_B00000/.

    {"id": "EN_B00000_S00000_W000000", "wav": "EN_B00000/EN_B00000_S00000/mp3/EN_B00000_S00000_W000000.mp3", "text": " You can ...",
     "duration": 6.264, "speaker": "EN_B00000_S00000", "language": "en", "dnsmos": 3.2927}

Its other form, tars of .mp3 with .json, is read as any tar is (tars.py), and the .json as a sidecar (sidecars.py).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

from .sidecars import MAX_SECONDS

Row = dict[str, Any]
Find = Callable[[str], str]  # from the stem of a file to the file of that stem below the list's folder; empty where there is none

PANDA = {"videoID", "timestamp", "caption"}
EMILIA = {"wav", "text", "speaker"}
PER_SPAN = ("matching_score", "desirable_filtering")
VIDEO_ID = re.compile(r"[\w-]{1,64}")

CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)")
ESCAPED = r"\\(?:[\\'\"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"  # what `repr` writes, and no more
TEXT = rf"'(?:[^'\\\n]|{ESCAPED})*+'|\"(?:[^\"\\\n]|{ESCAPED})*+\""
PAIR = re.compile(rf"\s*\[\s*({TEXT})\s*,\s*({TEXT})\s*\]\s*")
ONE = re.compile(rf"\s*({TEXT}|[-+\d.eE]{{1,32}})\s*")


def translated(row: Row, find: Find) -> Row:
    """The row in the columns of our lists, if it is one of a corpus; else the row itself.

    Raises:
        ValueError: it is one of a corpus, and is not as that corpus writes them.
    """
    if "path" in row:
        return row
    if row.keys() >= PANDA:
        return _panda(row, find)
    if row.keys() >= EMILIA:
        rest = {key: value for key, value in row.items() if key not in ("id", "wav", "text", "duration")}
        return {"path": row["wav"], "transcript": row["text"], **rest}
    return row


def _panda(row: Row, find: Find) -> Row:
    video = row["videoID"]
    if not isinstance(video, str) or not VIDEO_ID.fullmatch(video):
        raise ValueError(f"videoID={video!r:.80}: no name of a video")
    if not (path := find(video)):
        raise ValueError(f"videoID={video}: no such .mp4 below the folder of the list")
    times = [tuple(map(_value, match)) for match in _items(row["timestamp"], "timestamp", PAIR)]
    captions = [_value(match[0]) for match in _items(row["caption"], "caption", ONE)]
    if len(captions) != len(times):
        raise ValueError(f"{len(times)} timestamps and {len(captions)} captions")
    spans = [{"start": start, "end": end, "caption": str(caption)} for (start, end), caption in zip(times, captions, strict=True)]
    for name in PER_SPAN:
        if row.get(name):
            values = [_value(match[0]) for match in _items(row[name], name, ONE)]
            if len(values) != len(spans):
                raise ValueError(f"{len(spans)} timestamps and {len(values)} of {name}")
            spans = [span | {name: value} for span, value in zip(spans, values, strict=True)]
    rest = {key: value for key, value in row.items() if key not in (*PANDA, *PER_SPAN, "shot_boundary_detection")}
    return {"path": path, "spans": spans, **rest}


def _items(cell: object, name: str, item: re.Pattern[str]) -> list[tuple[str, ...]]:
    """The items of a list in Python's notation, flat or of pairs: nothing is evaluated but one string at a time."""
    text = cell.strip() if isinstance(cell, str) else ""
    if not text.startswith("[") or not text.endswith("]"):
        raise ValueError(f"{name}={cell!r:.60}: no list as Panda-70M has it")
    found, at, end = list[tuple[str, ...]](), 1, len(text) - 1
    while at < end:
        match = item.match(text, at, end)
        if match is None or (match.end() < end and text[match.end()] != ","):
            raise ValueError(f"{name}: no list as Panda-70M has it, at {text[at : at + 40]!r}")
        found.append(match.groups())
        at = match.end() + 1
    return found


def _value(text: str) -> str | float:
    try:
        return ast.literal_eval(text) if text[0] in "'\"" else float(text)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{text[:40]!r}: neither text nor a number") from error


def seconds_of(value: object, name: str) -> float:
    """A time in seconds: a number, or hours:minutes:seconds.

    Raises:
        ValueError: it is neither, or beyond all limits.
    """
    try:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ValueError
        clock = CLOCK.fullmatch(value.strip()) if isinstance(value, str) and ":" in value else None
        seconds = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3]) if clock else float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}={value!r:.60}: no time; give seconds, or hours:minutes:seconds") from error
    if not 0 <= seconds < MAX_SECONDS:
        raise ValueError(f"{name}={value!r:.60}: need 0 <= seconds < {MAX_SECONDS:g}")
    return seconds
