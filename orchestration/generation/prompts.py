"""What a user asks of one clip -> what the network begins with.

Wishes: caption, transcript, first frame, a held-out clip, a film to go on after, seconds, seed
    -> texts on the clip's clock, latents of pictures and sound by the model's own codecs -> Prompt, and how many chunks
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path

import numpy as np
import torch

from ...datasets.ffmpeg.media import DecodeConfig, MediaError, decode, probe
from ...datasets.ffmpeg.still import read_still
from ...datasets.intake.sidecars import MAX_SIDECAR_BYTES, Sidecar, TimedWords, is_text, parse_file, parse_text, spread_words
from ...datasets.places.storage import local_path, read_json
from ...model.sampler import chunk_latents
from ...model.timeline import Layout
from ...model.types import AV
from .opened_model import OpenedModel, check_mode
from .playing import Prompt

MAX_SECONDS = 4 * 3600.0
MAX_PAST_S = 120.0  # of a film that a clip goes on after
MAX_WORDS_PER_SECOND = 20
MAX_CAPTION = 10_000  # letters
FILES = (".json", ".txt", ".srt", ".vtt")

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What is asked of one clip; None: not asked for. Fields as the options of `mutual-forcing generate` (of `onward`: --continue).

    transcript: a file, or the words themselves; text: a sidecar with both texts; seconds: of what is new; mode, moves, guidance: see
    `OpenedModel.sampler`.
    """

    caption: str | None = None
    transcript: str | None = None
    text: str | None = None
    first_frame: str | None = None
    like: int | None = None
    onward: str | None = None
    seconds: float = 2.5
    seed: int = 0
    mode: str = "few"
    moves: int | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        if not isfinite(self.seconds) or not 0 < self.seconds <= MAX_SECONDS:
            raise ValueError(f"--seconds={self.seconds:g}: must be above 0 and at most {MAX_SECONDS:g}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed={self.seed}: from 0 to 2^63 - 1")
        check_mode(self.mode, self.moves)
        if self.caption is not None and not self.caption.strip():
            raise ValueError("--caption is empty: describe the clip, or leave the option out")
        if self.caption is not None and (len(self.caption) > MAX_CAPTION or not is_text(self.caption)):
            raise ValueError(f"--caption: {len(self.caption)} letters; at most {MAX_CAPTION} of valid UTF-8 are read")
        if self.transcript is not None and not self.transcript.strip():
            raise ValueError("--transcript is empty: give words, a file, or leave the option out")
        if self.transcript is not None and is_other_file(self.transcript):
            read = ", ".join(FILES)
            raise ValueError(f"--transcript={self.transcript!r}: is a file, and those that are read end in {read}; give one, or the words")
        if self.text is not None and (self.caption is not None or self.transcript is not None):
            raise ValueError("--text gives a caption and a transcript: leave --caption and --transcript out, or --text")
        if self.first_frame is not None and self.onward is not None:
            raise ValueError("--first-frame, --continue: a film that goes on begins with its own first picture; give one of the two")


def prompt_of(model: OpenedModel, wishes: Wishes, warn: Warn = lambda _: None) -> tuple[Prompt, int]:
    """The prompt, and how many chunks the clip has, those of its past counted in. `warn` hears how wishes were understood.

    Raises:
        ValueError: a file cannot be used, the texts do not fit the clip, or the model was trained without what is given.
    """
    clock = model.record.timeline
    new = max(1, ceil(wishes.seconds / float(clock.chunk) - 1e-9))
    like = 0 if wishes.like is None and wishes.first_frame is None and wishes.onward is None else wishes.like
    record = None if like is None else model.held_out(like)
    if wishes.onward is not None:
        with _told("--continue", wishes.onward, "film"):
            first, past = _past(model, wishes.onward, warn)
    elif wishes.first_frame is not None:
        with _told("--first-frame", wishes.first_frame, "picture"):
            picture = read_still(local_path("--first-frame", wishes.first_frame), model.record.width, model.record.height)
        first, past = _encoded_picture(model, picture), ()
    else:
        assert record is not None
        first, past = torch.from_numpy(record.get("video")[:1].astype(np.float32)), ()
    begins, chunks = float(len(past) * clock.chunk), len(past) + new
    ends = float(chunks * clock.chunk)
    caption, words = (
        ("", ())
        if record is None
        else (record.caption, tuple(w for w in record.words if w[1] < ends + model.record.network.word_lookahead_s))
    )
    told = _texts(wishes)
    if told.caption:
        _trained_with(model, "caption", "--caption" if wishes.caption is not None else "--text")
        caption = told.caption
        most, given = model.record.network.text.max_caption_words, len(caption.split())
        if given > most:
            warn(f"--caption has {given} words, the model reads the first {most}")
    if told.words or told.spoken:
        option = "--transcript" if wishes.transcript is not None else "--text"
        _trained_with(model, "transcript", option)
        words = _spread(told.spoken, option, begins, ends, warn) if told.spoken else told.words
        _check_words(words, option, ends if told.spoken else begins + wishes.seconds)
    elif wishes.text is not None:
        words = ()
    return Prompt(first, caption, words, wishes.seed, past), chunks


def _texts(wishes: Wishes) -> Sidecar:
    """Both texts as they are given."""
    if wishes.text is not None:
        told = parse_text(read_json(local_path("--text", wishes.text), "--text"), f"--text={wishes.text!r}")
        return told if told.caption.strip() else Sidecar("", told.words, told.spoken)
    told = Sidecar() if wishes.transcript is None else read_transcript(wishes.transcript)
    return Sidecar(" ".join((wishes.caption or "").split()), told.words, told.spoken)


def read_transcript(given: str) -> Sidecar:
    """Words with their times, or `spoken` without: of a file (the sidecar layout, a list of words, WhisperX, subtitles, plain text), or
    as they stand.

    Raises:
        ValueError: a file cannot be read, or is of none of these kinds.
    """
    if not given.rstrip().lower().endswith(FILES) or "\n" in given:
        if not is_text(given) or len(given) > MAX_SIDECAR_BYTES:
            raise ValueError(f"--transcript: {len(given)} letters; at most {MAX_SIDECAR_BYTES} of valid UTF-8 are read")
        return Sidecar(spoken=" ".join(given.split()))
    path = local_path("--transcript", given)
    try:
        if not path.is_file():
            raise ValueError(f"--transcript={given!r}: is no file; give one, or the words themselves")
        with path.open("rb") as file:
            written = file.read(MAX_SIDECAR_BYTES + 1)
    except OSError as error:
        raise ValueError(f"--transcript={given!r}: cannot be read ({error.strerror}); check its permissions") from error
    if path.suffix.lower() == ".json":
        told = _json_words(written, path)
    else:
        told = parse_file(written, path.name.lower())
        if path.suffix.lower() == ".txt":
            told = Sidecar(spoken=told.caption)
    if not told.words and not told.spoken:
        raise ValueError(f"--transcript={given!r}: holds no word; leave the option out where nobody speaks")
    return Sidecar(words=told.words, spoken=told.spoken)


def _json_words(written: bytes, path: Path) -> Sidecar:
    """A sidecar, or a list of words without times."""
    told: object = None
    if len(written) <= MAX_SIDECAR_BYTES:
        try:
            told = read_json(path, "--transcript")
        except ValueError:
            told = None  # `parse_file` says what is wrong
    listed = told.get("transcript") if isinstance(told, dict) else told
    if isinstance(listed, str) and is_text(listed):
        return Sidecar(spoken=" ".join(listed.split()))
    if isinstance(listed, list) and listed:
        plain = [word.get("word") if isinstance(word, dict) and not {"start", "end"} & word.keys() else word for word in listed]
        if all(isinstance(word, str) and is_text(word) for word in plain):
            return Sidecar(spoken=" ".join(" ".join(map(str, plain)).split()))
    return parse_file(written, path.name)


def is_other_file(given: str) -> bool:
    """Whether a transcript names a file of a kind that is not read. A name without a suffix may be a word."""
    if given.rstrip().lower().endswith(FILES) or not (os.path.splitext(given)[1] or os.sep in given):
        return False
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL: words
        return False


def _spread(spoken: str, option: str, begins: float, ends: float, warn: Warn) -> TimedWords:
    """Words without times, over what is new."""
    words = spread_words(spoken, begins, ends)
    warn(f"{option}: {len(words)} words without times are spread evenly from {begins:g} to {ends:g} s")
    return words


def _check_words(words: TimedWords, option: str, ends: float) -> None:
    """Words are in order, within the clip, and no more than can be spoken. As `serving/stream_request` does."""
    for i, (word, start, end) in enumerate(words):
        if i and start < words[i - 1][1]:
            raise ValueError(
                f"{option}: transcript[{i}], {word[:40]!r}, begins at {start:g} s, before the word in front of it ({words[i - 1][1]:g} s); "
                "put the words in order"
            )
        if end > ends + 1e-6:
            raise ValueError(
                f"{option}: transcript[{i}], {word[:40]!r}, ends at {end:g} s, and the clip at {ends:g} s; give more --seconds, "
                "or leave it out"
            )
    if len(words) > MAX_WORDS_PER_SECOND * ends:
        raise ValueError(f"{option}: {len(words)} words in {ends:g} s; at most {MAX_WORDS_PER_SECOND} a second are read")


@contextmanager
def _told(option: str, given: str, what: str) -> Iterator[None]:
    """What is wrong with a file is told with the option that names it."""
    try:
        yield
    except MediaError as error:
        said = f" (ffmpeg: {error.said})" if error.said else ""
        remedy = "" if ";" in error.reason else f"; give another {what}"
        raise ValueError(f"{option}={given!r}: {error.reason}{said}{remedy}") from error


def _trained_with(model: OpenedModel, control: str, option: str) -> None:
    if control not in model.controls:
        raise ValueError(f"{option}: the model was trained on clips without a {control}, and cannot follow one; leave it out")
    if control == "caption" and model.record.network.video.caption_features:
        raise ValueError(f"{option}: the model reads captions as features of a text encoder, which cannot be made here yet; leave it out")


def _encoded_picture(model: OpenedModel, picture: np.ndarray) -> torch.Tensor:
    return model.video.encode(torch.from_numpy(picture.copy())[None, None].to(model.device))[0].float().cpu()


def _past(model: OpenedModel, film: str, warn: Warn) -> tuple[torch.Tensor, tuple[AV, ...]]:
    """The first latent of a film, and its whole chunks."""
    clock, path = model.record.timeline, local_path("--continue", film)
    found = probe(path)
    if found.duration_s is not None and found.duration_s > MAX_PAST_S + 1:
        raise ValueError(f"--continue={film!r}: {found.duration_s:.0f} s long; a clip goes on after at most {MAX_PAST_S:g} s; cut it")
    width, height = model.record.width, model.record.height
    made = decode(path, found, DecodeConfig(clock.fps, width, height, clock.sample_rate, max_seconds=MAX_PAST_S + 1))
    chunks = max(0, (len(made.frames) - 1) // clock.chunk_frames)
    if not 1 <= chunks <= MAX_PAST_S / float(clock.chunk):
        least = clock.seconds(1)
        raise MediaError("decode", path, f"{len(made.frames) / clock.fps:.2f} s long; a clip goes on after {least:g} to {MAX_PAST_S:g} s")
    left = len(made.frames) / clock.fps - clock.seconds(chunks)
    if left > 0.5 / clock.fps:
        warn(f"--continue: its last {left:.2f} s do not fill a chunk, and are left out")
    if made.audio is None:
        warn("--continue: the film has no sound; the clip goes on after silence")
    # One latent more than is needed: the last block of a codec with overlap would else be coded as an end.
    latents, hop = clock.audio_latents(chunks), clock.audio_hop
    samples = np.zeros((latents + 1) * hop, np.float32)
    heard = np.zeros(0, np.float32) if made.audio is None else made.audio[: len(samples)]
    samples[: len(heard)] = heard
    frames = torch.from_numpy(made.frames[: clock.frames(chunks)].copy())[None].to(model.device)
    video = model.video.encode(frames).float().cpu()
    audio = model.audio.encode(torch.from_numpy(samples)[None].to(model.device)).float().cpu()[:, :latents]
    layout = Layout(clock, chunks)
    return video[0, :1], tuple(chunk_latents(AV(video, audio), layout, k) for k in layout.chunk_range)
