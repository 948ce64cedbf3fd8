"""A clip written while it is made: pictures and sound stay together, nobody waits for ever, and nothing half-written has a name."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from mutual_forcing.datasets.ffmpeg import media_stream
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, MediaError, decode, open_film, probe
from mutual_forcing.datasets.ffmpeg.media_stream import Format, MediaStream, Take

FPS, RATE, SIDE = 24, 16000, 32
FORM = Format(SIDE, SIDE, FPS, RATE, {"comment": "generated, by a test; with signs: =:'\"\\ ü"})
FRAMES, SAMPLES = 12, 8000  # of a piece of half a second
LAG = 256  # samples by which sound comes after its pictures
Piece = tuple[np.ndarray, np.ndarray]


def flashes_at(frame: int) -> bool:
    """A flash with a click once in some seconds, at no regular time."""
    return frame % 97 == 20


def pieces(count: int, odd: int = 0) -> Iterator[Piece]:
    """Dark pictures with flashes, clicks that sound with them; as decoders give them: a first frame alone, and sound that lags."""
    frame, sample = 0, 0
    for k in range(count):
        frames = np.full((FRAMES + (k == 0), SIDE + odd, SIDE + odd, 3), 16, np.uint8)
        samples = np.zeros(SAMPLES - LAG * (k == 0) + LAG * (k + 1 == count), np.float32)
        for n in range(len(frames)):
            if flashes_at(frame + n):
                frames[n] = 235
        for n in range(frame - FRAMES, frame + len(frames) + FRAMES):
            at = round(n * RATE / FPS) - sample
            if n >= 0 and flashes_at(n):
                for i in range(max(0, at), min(len(samples), at + 16)):
                    samples[i] = 0.9 * (-1) ** (i - at)
        frame, sample = frame + len(frames), sample + len(samples)
        yield frames, samples


def offsets(path: Path, seconds: float) -> list[float]:
    """Seconds by which each click comes after its flash, read with our own reader, block by block."""
    found, read = [], 0
    with open_film(path, probe(path), DecodeConfig(FPS, SIDE, SIDE, RATE)) as film:
        while cut := film.read(film.first + read, 30 * FPS):
            assert cut.frames is not None
            assert cut.audio is not None
            bright: list[int] = np.flatnonzero(cut.frames.mean(axis=(1, 2, 3)) > 120).tolist()
            assert [flashes_at(cut.first + n) for n in bright] == [True] * len(bright)
            for n in bright:
                around = slice(max(0, round(n * RATE / FPS) - RATE // 10), round(n * RATE / FPS) + RATE // 10)
                energy = cut.audio[around].astype(float) ** 2
                if energy.sum() > 1:  # else the click stands in the next block
                    centre = (energy * np.arange(len(energy))).sum() / energy.sum() - 7.5
                    found.append((around.start + centre) / RATE - n / FPS)
            read += cut.count
        film.verdict()
    assert abs(read / FPS - seconds) < 0.1
    return found


def pushed(target: Path | Take, form: Format, made: Iterable[Piece]) -> None:
    with MediaStream(target, form) as out:
        for piece in made:
            out.push(*piece)


def written(target: Path, count: int) -> Path:
    pushed(target, FORM, pieces(count))
    return target


def fragments(count: int) -> bytes:
    got = list[bytes]()
    pushed(got.append, FORM, pieces(count))
    return b"".join(got)


def boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind.decode(), data[at + 8 : at + size]
        at += size
    assert at == len(data)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", "fragments"])
def test_pictures_and_sound_stay_together_for_seconds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "clip.mp4"
    if suffix == "fragments":
        path.write_bytes(fragments(12))
    else:
        path = written(tmp_path / f"clip{suffix}", 12)
    found = offsets(path, 6 + 1 / FPS)
    assert len(found) == 2
    assert max(map(abs, found)) <= 0.005, found
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", "fragments"])
def test_pictures_and_sound_stay_together_for_ten_minutes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "clip.mp4"
    if suffix == "fragments":
        path.write_bytes(fragments(1200))
    else:
        path = written(tmp_path / f"clip{suffix}", 1200)
    found = offsets(path, 600 + 1 / FPS)
    assert len(found) >= 140
    assert max(map(abs, found)) <= 0.005, (min(found), max(found))


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv", ".webm"):
        content = written(tmp_path / f"clip{suffix}", 1).read_bytes()
        assert FORM.tags["comment"].encode() in content
    assert FORM.tags["comment"].encode() in fragments(1)


def test_the_first_fragment_is_there_before_the_second_piece(tmp_path: Path) -> None:
    got = list[bytes]()
    with MediaStream(got.append, FORM) as out:
        for k, piece in enumerate(pieces(4)):
            out.push(*piece)
            if k == 0:
                came = b"".join(got)
                assert b"moov" in came
                assert b"moof" in came


def test_fragments_are_what_media_source_extensions_take() -> None:
    """An initialisation segment, then fragments that tell where they stand; the first begins with a picture that needs no other."""
    top = list(boxes(fragments(4)))
    kinds = [kind for kind, _ in top]
    assert kinds[:2] == ["ftyp", "moov"]
    body = [kind for kind in kinds[2:] if kind not in ("mfra", "styp", "sidx")]
    assert body == ["moof", "mdat"] * (len(body) // 2)
    assert len(body) >= 20
    moov = dict(boxes(top[1][1]))
    assert "mvex" in moov
    for kind, data in top:
        if kind == "moof":
            for name, traf in boxes(data):
                if name == "traf":
                    inner = dict(boxes(traf))
                    assert {"tfhd", "tfdt", "trun"} <= inner.keys()
                    assert struct.unpack(">I", inner["tfhd"][:4])[0] & 0x020000, "default-base-is-moof"
    assert b"avcC" in top[1][1]
    assert b"esds" in top[1][1]


@pytest.mark.slow
def test_who_reads_slowly_slows_down_who_makes() -> None:
    """The reader stops: two pieces are held, and the third waits until it goes on."""
    go, pushed = threading.Event(), list[int]()

    def take(data: bytes) -> None:
        if b"moof" in data:
            go.wait(30)

    form = replace(FORM, width=320, height=180)
    noise = np.random.default_rng(0).integers(0, 255, (FRAMES, 180, 320, 3), np.uint8)

    def make() -> None:
        with MediaStream(take, form) as out:
            for k in range(25):
                out.push(noise, np.zeros(SAMPLES, np.float32))
                pushed.append(k)

    maker = threading.Thread(target=make)
    maker.start()
    deadline = time.monotonic() + 60
    while len(pushed) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    held = len(pushed)
    assert held < 24
    go.set()
    maker.join(120)
    assert len(pushed) == 25


def test_memory_does_not_grow_with_the_film(tmp_path: Path) -> None:
    process, sizes = psutil.Process(), list[int]()
    with MediaStream(tmp_path / "clip.mp4", FORM) as out:
        for k, piece in enumerate(pieces(400)):
            out.push(*piece)
            if k % 50 == 49:
                sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[2] < 4 << 20, sizes


def test_a_film_that_ends_early_is_whole_and_one_given_up_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    threads, children = threading.active_count(), set(psutil.Process().children())
    out = MediaStream(path, FORM)
    for piece in list(pieces(6))[:3]:
        out.push(*piece)
    out.push(np.zeros((0, SIDE, SIDE, 3), np.uint8), np.zeros(LAG, np.float32))
    assert not path.exists()
    out.finish()
    assert len(decode(path, probe(path), DecodeConfig(FPS, SIDE, SIDE, RATE)).frames) == 37
    before = path.read_bytes()
    given_up = MediaStream(path, FORM)
    given_up.push(*next(pieces(6)))
    given_up.abandon()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["clip.mp4"]
    with pytest.raises(MediaError, match="a film without a picture"), MediaStream(tmp_path / "none.mp4", FORM):
        pass
    assert os.listdir(tmp_path) == ["clip.mp4"]
    assert threading.active_count() <= threads
    assert set(psutil.Process().children()) <= children


def test_what_a_reader_raises_ends_the_stream() -> None:
    children = set(psutil.Process().children())

    def take(data: bytes) -> None:
        raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        pushed(take, FORM, pieces(20))
    assert set(psutil.Process().children()) <= children


def test_ffmpeg_that_dies_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the file's size stands for a full disk; `faults/test_refusals` has a real one."""
    monkeypatch.setattr(media_stream, "LIMITS", replace(media_stream.LIMITS, file_bytes=40_000))
    noise = np.random.default_rng(0).integers(0, 255, (FRAMES, SIDE, SIDE, 3), np.uint8)
    with pytest.raises(MediaError, match=r"clip\.mp4: "):
        pushed(tmp_path / "clip.mp4", FORM, [(noise, np.zeros(SAMPLES, np.float32))] * 200)
    assert os.listdir(tmp_path) == []


def test_odd_sides_grow_by_one(tmp_path: Path) -> None:
    form = replace(FORM, width=SIDE + 1, height=SIDE + 1)
    pushed(tmp_path / "clip.mp4", form, pieces(2, odd=1))
    assert (probe(tmp_path / "clip.mp4").width, probe(tmp_path / "clip.mp4").height) == (SIDE + 2, SIDE + 2)


@pytest.mark.parametrize(
    ("name", "told"), [("clip.avi", "unknown container '.avi'"), ("gone/clip.mp4", "does not exist"), (".", "unknown container")]
)
def test_where_nothing_can_be_written_is_told_at_once(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(MediaError, match=told):
        MediaStream(tmp_path / name, FORM)


@pytest.mark.parametrize(
    ("frames", "samples", "told"),
    [
        (np.zeros((1, SIDE, SIDE, 3), np.float32), np.zeros(1, np.float32), "frames must be uint8"),
        (np.zeros((1, SIDE, SIDE + 1, 3), np.uint8), np.zeros(1, np.float32), "frames must be uint8"),
        (np.zeros((1, SIDE, SIDE, 3), np.uint8), np.array([np.nan], np.float32), "samples must be finite"),
        (np.zeros((1, SIDE, SIDE, 3), np.uint8), np.zeros(3, np.int16), "samples must be finite float"),
    ],
)
def test_pieces_of_another_shape_are_refused(tmp_path: Path, frames: np.ndarray, samples: np.ndarray, told: str) -> None:
    with pytest.raises(MediaError, match=told), MediaStream(tmp_path / "clip.mp4", FORM) as out:
        out.push(frames, samples)
    assert os.listdir(tmp_path) == []
