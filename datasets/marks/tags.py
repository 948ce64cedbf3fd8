"""The tags of a container: what a file says of itself in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import ffmpeg

from ..ffmpeg.ffmpeg_child import MediaError, essence, run_ffmpeg
from ..ffmpeg.probe import PROBE_LIMITS, plain_file, program, source

MAX_TAGS = 1 << 20  # bytes
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
LINE = re.compile(r"^((?:[^=\\\n]|\\.)+)=((?:[^\\\n]|\\.|\\\n)*)$", re.MULTILINE)


def read_tags(path: Path | str) -> dict[str, str]:
    """The tags of the whole file, by their names in lower case.

    Raises:
        MediaError: it is no film that we read.
    """
    path = plain_file(path, "probe")

    def arguments(pipes: Sequence[int]) -> list[str]:
        return ffmpeg.output(source(path), f"pipe:{pipes[0]}", f="ffmetadata").compile(cmd=program("level+error"))

    ended = run_ffmpeg(arguments, PROBE_LIMITS, drains=[MAX_TAGS])
    if ended.stopped or ended.returncode:
        raise MediaError("probe", path, ended.stopped or "its tags cannot be read", essence(ended.stderr))
    text = ended.outputs[0].decode(errors="replace").split("\n[", 1)[0]  # sections are of streams and chapters
    return {ESCAPED.sub(r"\1", name).lower(): ESCAPED.sub(r"\1", value) for name, value in LINE.findall(text)}
