"""Clips that are copies of one another: encoded again, scaled, a little cropped, louder; told by a short fingerprint of each.

    frames -> 8 thumbnails over the clip -> low frequencies of their spectrum in space and time -> 96 signs   -+
    audio  -> 17 bands x 17 moments of 300 to 3000 Hz -> signs of how differences of bands change -> 256 signs -+-> Fingerprint
    all fingerprints, in one order that no worker decides -> first_near: for each the first one that it is a copy of

Pictures and sound must both agree: the same speaker before the same wall looks the same whatever is said, and a song sounds the same
whatever is shown. Where neither of two clips has sound, pictures must agree more closely; where neither has pictures, sound decides.
Of copies cut at other places, by more than a small part of a second, nothing is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .thumbnails import grey, thumbnails

MOMENTS, SIDE = 8, 32  # pictures of a clip, and pixels on their side
SPACE, TIME = 6, 3  # frequencies kept in each direction of space, and in time
PICTURE_BYTES, SOUND_BYTES = 12, 32
BANDS, SLOTS = 17, 17
LOW_HZ, HIGH_HZ = 300.0, 3000.0
WINDOW_S = 0.064
FLOOR, LEAST = 1e-3, 0.2  # of the mean power, and in nepers of power: in a pause, noise must not decide
QUIET = 1e-4  # RMS below which there is no sound to tell apart (-80 dB)
FLAT = 1.0  # of 255: pictures that vary less show nothing to tell apart

PICTURE_BITS, SOUND_BITS = 28, 48  # that may differ in copies
PICTURE_ALONE_BITS = 14
MOST_ALIKE = 16  # of clips that share a stretch of bits, a later one is compared with only so many
ALL_SET = 0xFFFFFF


@dataclass(frozen=True)
class DuplicateConfig:
    """Copies. refuse: whether a clip that is a copy of an earlier one is refused."""

    refuse: bool = False


@dataclass(frozen=True)
class Fingerprint:
    """picture: 12 bytes, sound: 32 bytes; b"" where there is nothing to tell apart (no stream, one colour, silence)."""

    picture: bytes = b""
    sound: bytes = b""

    def pack(self) -> str:
        """As text, for a row of a table."""
        return f"{self.picture.hex()}:{self.sound.hex()}"

    @classmethod
    def unpack(cls, text: str) -> Fingerprint:
        """What `pack` made.

        Raises:
            ValueError: the text is something else.
        """
        picture, colon, sound = text.partition(":")
        print_ = cls(bytes.fromhex(picture), bytes.fromhex(sound))
        if not colon or len(print_.picture) not in (0, PICTURE_BYTES) or len(print_.sound) not in (0, SOUND_BYTES):
            raise ValueError(f"fingerprint {text[:40]!r}: not one of {PICTURE_BYTES} and {SOUND_BYTES} bytes in hexadecimal")
        return print_


def fingerprint(frames: np.ndarray | None, audio: np.ndarray | None, sample_rate: int) -> Fingerprint:
    """Of a clip's frames uint8 [N, H, W, 3] and audio float32 [S], one of which may be missing."""
    return Fingerprint(b"" if frames is None else _picture(frames), b"" if audio is None else _sound(audio, sample_rate))


def near(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether one clip is a copy of the other. Symmetric; clips with nothing to tell apart are copies of none."""
    if bool(a.picture) != bool(b.picture) or bool(a.sound) != bool(b.sound) or not (a.picture or a.sound):
        return False
    pictures, sounds = _differ(a.picture, b.picture), _differ(a.sound, b.sound)
    return pictures <= (PICTURE_BITS if a.sound else PICTURE_ALONE_BITS) and sounds <= SOUND_BITS


def first_near(prints: Sequence[Fingerprint]) -> np.ndarray:
    """int64 [N]: for each clip the first earlier one that it is a copy of and that is itself kept, or -1.

    "Earlier" is the order of the sequence, so give one that is the same whoever finishes first: what earlier jobs have written, then by
    source and time. Only clips that share a stretch of 24 bits of their sound (of their pictures, where there is no sound) at the same
    place are compared, each with the first 16 that have it: time grows with N log N, memory with N.
    """
    places: dict[Fingerprint, int] = {}  # of those that are not the same to the last bit
    same = [places.setdefault(p, n) for n, p in enumerate(prints)]
    distinct = list(places)
    where = np.array(list(places.values()), np.int64)
    first = np.full(len(prints), -1, np.int64)
    found = _first_of_distinct(distinct)
    first[where[found >= 0]] = where[found[found >= 0]]
    for n, (p, earliest) in enumerate(zip(prints, same, strict=True)):
        if earliest < n and near(p, p):
            first[n] = earliest if first[earliest] < 0 else first[earliest]
    return first


def _first_of_distinct(prints: Sequence[Fingerprint]) -> np.ndarray:
    count = len(prints)
    pictures = _words([p.picture for p in prints], PICTURE_BYTES)
    sounds = _words([p.sound for p in prints], SOUND_BYTES)
    seen, heard = (np.array([bool(getattr(p, kind)) for p in prints], bool) for kind in ("picture", "sound"))
    pairs = np.zeros(0, np.int64)  # later * count + earlier
    for members, words, size in ((heard, sounds, SOUND_BYTES), (seen & ~heard, pictures, PICTURE_BYTES)):
        where = np.flatnonzero(members)
        octets = words[where].view(np.uint8)[:, :size].astype(np.uint32)
        for place in range(size - 2):
            stretch = (octets[:, place] << 16) | (octets[:, place + 1] << 8) | octets[:, place + 2]
            found = [pairs]
            for a, b in _sharing(stretch):
                earlier, later = where[a], where[b]
                limit = np.where(heard[later], PICTURE_BITS, PICTURE_ALONE_BITS)
                close = (seen[earlier] == seen[later]) & (_differing(pictures, earlier, later) <= limit)
                close &= _differing(sounds, earlier, later) <= SOUND_BITS
                found.append(later[close] * count + earlier[close])
            pairs = np.unique(np.concatenate(found))
    first = np.full(count, -1, np.int64)
    for later, earlier in zip((pairs // max(1, count)).tolist(), (pairs % max(1, count)).tolist(), strict=True):
        if first[later] < 0 and first[earlier] < 0:
            first[later] = earlier
    return first


def _words(prints: Sequence[bytes], size: int) -> np.ndarray:
    """uint64 [N, words] of byte strings of one size; zeros where one is empty."""
    room = -(-size // 8) * 8
    return np.frombuffer(b"".join(p.ljust(room, b"\0") for p in prints), np.uint64).reshape(len(prints), room // 8)


def _differing(words: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """In how many bits the rows `a` and `b` differ, [pairs]."""
    return np.bitwise_count(words[a] ^ words[b]).sum(axis=1)


def _sharing(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places (earlier [P], later [P]) that hold the same value, group by group with its first MOST_ALIKE members."""
    order = np.argsort(values, kind="stable")
    sorted_ = values[order]
    begins = np.r_[True, sorted_[1:] != sorted_[:-1]]
    # Of all bits alike, as in a pause, too many clips have some.
    rest = np.flatnonzero(~begins & (sorted_ != 0) & (sorted_ != ALL_SET))
    start = np.flatnonzero(begins)[np.cumsum(begins)[rest] - 1] if len(rest) else rest
    for step in range(MOST_ALIKE):
        here = start + step < rest
        if not here.any():
            return
        yield order[start[here] + step], order[rest[here]]


def _differ(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


def _picture(frames: np.ndarray) -> bytes:
    """Signs of the low frequencies of the clip, but for its mean, against their median."""
    at = np.round(np.linspace(0, len(frames) - 1, MOMENTS)).astype(np.int64)
    light = grey(thumbnails(frames[at], 4 * SIDE)).astype(np.float64)
    if light.std() < FLAT:
        return b""
    found = np.einsum("nhw,an,bh,cw->abc", light, _cosines(MOMENTS, TIME), _cosines(light.shape[1], SPACE), _cosines(light.shape[2], SPACE))
    values = found.ravel()[1:]
    still = found[0].ravel()[1:]
    bits = np.concatenate([still > np.median(still), values[len(still) :] > 0])
    return np.packbits(bits[: 8 * PICTURE_BYTES]).tobytes()


def _cosines(length: int, count: int) -> np.ndarray:
    """Rows of the cosine transform [count, length]."""
    return np.cos(np.pi * np.arange(count)[:, None] * (np.arange(length) + 0.5) / length) / length


def _sound(audio: np.ndarray, sample_rate: int) -> bytes:
    """Signs of the change in time of the differences of neighbouring bands' levels."""
    size = 1 << round(np.log2(WINDOW_S * sample_rate))
    if len(audio) < size or float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) < QUIET:
        return b""
    hop = size // 4
    windows = np.lib.stride_tricks.sliding_window_view(audio, size)[::hop].astype(np.float32)
    power = np.abs(np.fft.rfft(windows * np.hanning(size).astype(np.float32), axis=1)) ** 2
    edges = np.round(np.geomspace(LOW_HZ, HIGH_HZ, BANDS + 1) * size / sample_rate).astype(np.int64)
    bands = np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1)
    slots = np.linspace(0, len(bands), SLOTS + 1).astype(np.int64)[:-1]
    level = np.log(np.add.reduceat(bands, np.minimum(slots, len(bands) - 1), axis=0) + FLOOR * bands.mean() * len(bands) / SLOTS)
    return np.packbits(np.diff(np.diff(level, axis=1), axis=0).ravel() > LEAST).tobytes()
