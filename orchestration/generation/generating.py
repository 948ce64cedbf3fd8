"""The verb `generate`: one clip, written while it is made.

open_model -> prompt_of -> Playing -> a chunk -> MediaStream -> FILE, or fragments of an mp4 on standard output
                              ^          |
                              +----------+    Ctrl-C between two chunks: what there is becomes the whole file
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from ...datasets.ffmpeg.media_stream import Format, MediaStream
from ...datasets.ffmpeg.media_write import CONTAINERS
from ...datasets.places.storage import local_path, make_folder, sha256_file
from ...datasets.progress import Progress, silent
from .opened_model import OpenedModel, open_model
from .playing import Playing
from .prompts import Warn, Wishes, prompt_of
from .provenance import Marks, signed, tags_of

STANDARD_OUTPUT = "-"
UNMARKED = Marks()
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A person stopped a clip, which is whole as far as it was made; says so."""


class Interrupts:
    """While it is entered, Ctrl-C and SIGTERM are felt inside `allowed` alone, so that no piece is written by half; the second one is felt
    everywhere.
    """

    def __init__(self) -> None:
        self._asked, self._allowed, self._before = 0, False, dict[int, Any]()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # only there can they be felt
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._come)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Work that may be broken off."""
        self._allowed = True
        try:
            if self._asked:
                self.feel()
            yield
        finally:
            self._allowed = False

    def feel(self) -> None:
        """What would have happened at once.

        Raises:
            KeyboardInterrupt: always.
        """
        handler = self._before.get(self._asked)
        if callable(handler):
            handler(self._asked, None)
        raise KeyboardInterrupt

    def _come(self, number: int, frame: FrameType | None) -> None:
        again, self._asked = bool(self._asked), number
        if self._allowed or again:
            self.feel()


@dataclass(frozen=True)
class Made:
    """What was made of a clip: seconds and frames of its pictures, chunks, and whether a person stopped it."""

    frames: int
    seconds: float
    chunks: int
    stopped: bool


def generate_clip(
    checkpoint: str,
    out: str,
    wishes: Wishes,
    settings: Sequence[str] = (),
    device: str = "auto",
    progress: Progress = silent,
    warn: Warn = lambda _: None,
    marks: Marks = UNMARKED,
) -> dict[str, Any]:
    """Generate one clip and write it; returns what was made. out: a file, or - for fragments of an mp4 on standard output; settings: as
    `--set` takes them, for this clip alone. `progress` counts chunks; `warn` hears how wishes were understood; marks: what the file gets
    besides its tags.

    Raises:
        ValueError: something that was asked for is not there, cannot be read, or does not fit the model; or the file cannot be written.
        Stopped: by Ctrl-C or SIGTERM; the file holds what was made until then.
    """
    path = None if out == STANDARD_OUTPUT else local_path("--out", out)
    if path is not None and path.suffix.lower() not in CONTAINERS:
        raise ValueError(f"--out={out!r}: the name must end in {', '.join(CONTAINERS)}, or be - for standard output")
    if path is None and sys.stdout.isatty():
        raise ValueError("--out=-: standard output is a terminal; pipe it into a player or a file")
    signer = marks.signer(out)
    model = open_model(checkpoint, settings, device)
    sampler = model.sampler(wishes.mode, wishes.moves, wishes.guidance, warn)
    prompt, chunks = prompt_of(model, wishes, warn)
    if path is not None:
        make_folder("--out", path.parent)
    playing = Playing(model, [prompt], sampler, chunks)
    target = standard_output() if path is None else path
    with Interrupts() as interrupts:
        made = write_clip(playing, target, model, chunks, interrupts, progress, marks, signer)
    if made.stopped:
        raise Stopped(f"{made.seconds:.2f} s were made, and are whole {'on standard output' if path is None else f'in {path}'}")
    record: dict[str, Any] = {
        "file": out if path is None else str(path),
        "seconds": round(made.seconds, 3),
        "frames": made.frames,
        "stage": model.stage,
        "evaluations_per_chunk": sampler.evaluations,
        "caption": prompt.caption,
        "seed": wishes.seed,
        "model": model.identity,
    }
    return record if path is None else record | {"sha256": sha256_file(path)}


def write_clip(
    playing: Playing,
    target: Path | Callable[[bytes], None],
    model: OpenedModel,
    chunks: int,
    interrupts: Interrupts,
    progress: Progress = silent,
    marks: Marks = UNMARKED,
    signer: Any = None,
) -> Made:
    """Write the one clip of `playing` chunk by chunk; stopped by a person, it ends after the last whole chunk. signer: of `marks`.

    Raises:
        MediaError: it cannot be written. Nothing is left then.
        ValueError: it cannot be signed.
        KeyboardInterrupt: a person stopped it before there was anything, or twice.
    """
    form, final = format_of(model, tags_of(model.identity)), target
    if signer is not None and isinstance(target, Path):
        target = target.with_name(f".{secrets.token_hex(8)}.unsigned{target.suffix.lower()}")
    marker = marks.marker(form.sample_rate)
    stopped = False
    with MediaStream(target, form) as out:
        progress("generate chunks", 0, chunks)
        while not stopped:
            try:
                with interrupts.allowed():
                    step = next(playing, None)
            except KeyboardInterrupt:
                if not out.frames:
                    raise
                step, stopped = playing.rest(), True
            if step is None:
                break
            for chunk in step:
                if marker is None:
                    out.push(chunk.frames, chunk.samples)
                else:
                    out.push(marker.pictures(chunk.frames), marker.sound(chunk.samples))
            if not stopped:
                progress("generate chunks", playing.made, chunks)
        if marker is not None:
            out.push(np.empty((0, form.height, form.width, 3), np.uint8), marker.rest())
    if signer is not None and isinstance(final, Path) and isinstance(target, Path):
        signed(target, final, signer, model.identity)
    return Made(out.frames, out.frames / form.fps, playing.made, stopped)


def format_of(model: OpenedModel, tags: Mapping[str, str]) -> Format:
    """Of the clips of a model."""
    record = model.record
    return Format(record.width, record.height, record.timeline.fps, record.timeline.sample_rate, tags)


def standard_output() -> Callable[[bytes], None]:
    """Takes bytes and writes them to standard output at once."""
    descriptor, written = sys.stdout.fileno(), 0

    def take(data: bytes) -> None:
        nonlocal written
        rest = memoryview(data)
        while len(rest):
            try:
                count = os.write(descriptor, rest)
            except BrokenPipeError as error:
                raise ValueError(f"--out=-: nobody reads standard output any more, after {written} bytes") from error
            except OSError as error:
                raise ValueError(f"--out=-: standard output cannot be written after {written} bytes ({error.strerror})") from error
            written += count
            rest = rest[count:]

    return take
