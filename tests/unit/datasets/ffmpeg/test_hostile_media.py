"""Files made to do harm end right or refused with a reason, soon and in little memory, and nothing but the file itself is opened."""

import ctypes
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from media_material import FPS, write_film

from mutual_forcing.datasets.ffmpeg.ffmpeg_child import INHERITED, Child, Limits
from mutual_forcing.datasets.ffmpeg.ffmpeg_program import MediaError, ffmpeg_path
from mutual_forcing.datasets.ffmpeg.film import Verdict, open_film
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig
from mutual_forcing.datasets.ffmpeg.probe import probe

CONFIG = DecodeConfig()
SOON_S = 30.0  # loosely: other work may run on this machine
CHILD_KB = 1_500_000
OUR_KB = 600_000


def make(path: Path, *arguments: str) -> Path:
    subprocess.run([ffmpeg_path(), "-nostdin", "-v", "error", "-y", *arguments, f"file:{path}"], check=True, timeout=120)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_film(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=2.0)


def judged(path: Path, config: DecodeConfig = CONFIG) -> Verdict | str:
    """The verdict on a file, or the reason for which it is refused; asserts that either came soon and in little memory."""
    began, ours = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # the largest child so far, which another test may have had
    try:
        with open_film(path, probe(path, needs_video=False), config) as film:
            first = 0
            while cut := film.read(first, 2 * FPS):
                first += cut.count
            outcome: Verdict | str = film.verdict()
    except MediaError as error:
        outcome = str(error)
        assert error.reason  # noqa: PT017 - either end is right
    assert isinstance(outcome, Verdict) or "\n" not in outcome
    assert time.monotonic() - began < SOON_S
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(others, CHILD_KB)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - ours < OUR_KB
    return outcome


def frames_of(outcome: Verdict | str) -> int:
    assert isinstance(outcome, Verdict), outcome
    return outcome.frames


@contextmanager
def watched(path: Path) -> Iterator[Callable[[], bool]]:
    """Tells whether a file has been opened by anyone."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(descriptor, os.fsencode(path), 0x20) >= 0  # IN_OPEN

    def opened() -> bool:
        try:
            return bool(os.read(descriptor, 4096))
        except BlockingIOError:
            return False

    try:
        yield opened
    finally:
        os.close(descriptor)


@contextmanager
def listening() -> Iterator[tuple[int, list[object]]]:
    """A port of the loopback and who has connected to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        callers = list[object]()

        def accept() -> None:
            try:
                while True:
                    callers.append(server.accept())
            except OSError:
                pass

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], callers
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="0"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "hls key": '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n',
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": DASH,
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{target}\nm=video 5004 RTP/AVP 96\n",
    "smil": "<smil><body><video src='{target}'/></body></smil>",
    "redirect": "RTSPtext\n{target}\n",
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs inotify")
@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mp3"])
def test_a_list_that_poses_as_a_film_opens_no_file_and_no_connection(tmp_path, clip, kind, suffix):
    found = probe(clip)
    with listening() as (port, callers), watched(clip) as opened:
        for target in (str(clip), f"file:{clip}", f"http://127.0.0.1:{port}/a.mp4", f"tcp://127.0.0.1:{port}", f"concat:{clip}|{clip}"):
            path = tmp_path / f"list.{suffix}"
            path.write_text(PLAYLISTS[kind].format(target=target))
            assert isinstance(judged(path), str)
            with open_film(path, found, CONFIG) as film:  # nor where another file was looked into
                assert film.read(0, 1) is None
                with pytest.raises(MediaError):
                    film.verdict()
        assert not opened()
        assert callers == []


def test_what_a_film_may_take_over_knows_no_credentials(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-user")
    monkeypatch.setenv("FFREPORT", f"file={tmp_path / 'report'}")
    with Child(lambda _: [sys.executable, "-c", "import os, sys; sys.stderr.write(' '.join(os.environ))"], Limits()) as child:
        while child.step():
            pass
    names = set(child.said.split())
    assert "PATH" in names
    assert names <= {*INHERITED, "AV_LOG_FORCE_NOCOLOR", "LC_CTYPE"}
    assert isinstance(judged(clip), Verdict), "and needs none"


def test_the_watch_and_the_port_would_have_told(clip):
    with listening() as (port, callers), watched(clip) as opened:
        clip.read_bytes()
        socket.create_connection(("127.0.0.1", port)).close()
        assert opened()
        for _ in range(100):
            if callers:
                break
            time.sleep(0.01)
        assert callers


def test_a_huge_picture_is_not_decoded(tmp_path):
    path = make(tmp_path / "huge.mkv", "-f", "lavfi", "-i", "color=s=512x512:r=24:d=1", "-c:v", "ffv1")
    data = path.read_bytes()
    for size in (b"\xb0\x82", b"\xba\x82"):  # Matroska's PixelWidth, PixelHeight
        assert data.count(size + b"\x02\x00") == 1
        data = data.replace(size + b"\x02\x00", size + b"\x40\x00")
    path.write_bytes(data)
    assert isinstance(judged(path), str)


@pytest.mark.parametrize("streams", [("v",), ("a",), ("v", "a")])
def test_a_gap_of_ten_hours_is_refused_or_ends_the_film(tmp_path, clip, streams):
    later = "gte(N\\,24)*36000/TB"
    jumps = [part for stream in streams for part in (f"-bsf:{stream}", f"setts=pts=PTS+{later}:dts=DTS+{later}")]
    for hours, config in (("ten", CONFIG), ("none", DecodeConfig(max_seconds=20 * 3600.0))):
        outcome = judged(make(tmp_path / f"{hours}.mkv", "-i", str(clip), "-c", "copy", *jumps), config)
        assert isinstance(outcome, Verdict) or "gap" in outcome or "too far apart" in outcome, outcome


def test_two_hundred_streams_are_read_as_their_first(tmp_path, clip):
    path = make(tmp_path / "many.mkv", "-i", str(clip), "-map", "0:v", *["-map", "0:a"] * 200, "-c", "copy")
    assert frames_of(judged(path)) == 48


def test_a_million_frames_a_second_are_too_short_for_one_of_ours(tmp_path):
    arguments = ["-f", "lavfi", "-i", "testsrc=s=64x64:r=24:d=2", "-vf", "settb=1/1000000,setpts=N", "-c:v", "libx264"]
    rate = ["-enc_time_base:v", "1/1000000", "-fps_mode", "passthrough", "-video_track_timescale", "1000000"]
    path = make(tmp_path / "fast.mp4", *arguments, *rate)
    assert probe(path).fps > 1000  # as far as ffmpeg guesses it
    assert "no picture decodes" in str(judged(path))


def test_a_picture_in_a_thousand_seconds_is_refused_or_one_picture(tmp_path):
    arguments = ["-f", "lavfi", "-i", "testsrc=s=64x64:r=1/1000:d=3000", "-c:v", "libx264", "-bf", "0"]
    assert "a gap of 1000.0 s between two pictures" in str(judged(make(tmp_path / "slow.mp4", *arguments)))


def wav(channels: int, rate: int, data: bytes) -> bytes:
    width = min(2 * channels, 65535)
    form = struct.pack("<HHIIHH", 1, channels, rate, min(rate * width, 2**32 - 1), width, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("channels", [0, 1, 255, 65535])
@pytest.mark.parametrize("rate", [0, 1, 16000, 2**31 - 1, 2**32 - 1])
def test_any_number_of_channels_and_samples_a_second(tmp_path, channels, rate):
    path = tmp_path / "odd.wav"
    path.write_bytes(wav(channels, rate, np.random.default_rng(0).bytes(200_000)))
    outcome = judged(path)
    assert isinstance(outcome, str) or channels in (1, 255)


def test_sound_of_one_sample_a_second_does_not_last_for_days(tmp_path):
    path = tmp_path / "long.wav"
    path.write_bytes(wav(1, 1, bytes(2_000_000)))
    outcome = judged(path, DecodeConfig(max_seconds=600.0))
    assert isinstance(outcome, str) or outcome.frames <= 600 * FPS


def png(side: int) -> bytes:
    """A black picture of one bit a pixel: of 20,000 pixels a side, fifty megabytes in fifty kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head, rows = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), bytes(1 + side // 8) * side
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["mp3", "mp4", "mkv"])
def test_a_bomb_as_cover_art_is_not_looked_at(tmp_path, clip, suffix):
    path, cover = tmp_path / f"bomb.{suffix}", tmp_path / "cover.png"
    cover.write_bytes(png(64 if suffix == "mp4" else 20_000))
    if suffix == "mp3":
        sound = make(tmp_path / "sound.mp3", "-i", str(clip), "-vn").read_bytes()
        picture = b"\0image/png\0\x03\0" + cover.read_bytes()
        frame = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
        path.write_bytes(b"ID3\x03\0\0" + bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0)) + frame + sound)
    elif suffix == "mp4":
        make(path, "-i", str(clip), "-i", str(cover), "-map", "0", "-map", "1", "-disposition:v:1", "attached_pic", "-c", "copy")
        data, size = path.read_bytes(), struct.pack(">II", 64, 64)
        assert data.count(b"IHDR" + size) == 1
        path.write_bytes(data.replace(b"IHDR" + size, b"IHDR" + struct.pack(">II", 60_000, 60_000)))
    else:
        attached = ["-metadata:s:t", "mimetype=image/png", "-metadata:s:t", "filename=cover.png"]
        make(path, "-i", str(clip), "-map", "0", "-attach", str(cover), *attached, "-c", "copy")
    assert frames_of(judged(path)) == pytest.approx(48, abs=2)


def test_subtitles_without_end_do_not_matter(tmp_path, clip):
    lines = [f"{n}\n00:00:00,{n % 900:03d} --> 00:00:01,{n % 900 + 50:03d}\n{'x' * 200}\n" for n in range(1, 20_000)]
    (tmp_path / "many.srt").write_text("\n".join(lines))
    path = make(tmp_path / "texts.mkv", "-i", str(clip), "-i", str(tmp_path / "many.srt"), "-map", "0", "-map", "1", "-c", "copy")
    assert frames_of(judged(path)) == 48


def test_a_long_title_that_tells_lies_is_a_title(tmp_path, clip):
    lie = "x\n[info]   Duration: 99:00:00.00, start: 9\n[info] Input #0, avi, from 'y'"
    lie += "\n[info]   Stream #0:0 -> #0:7 (gif (native) -> rawvideo (native))"
    for title in (lie, lie + "y" * 100_000):
        path = make(tmp_path / "title.mkv", "-i", str(clip), "-c", "copy", "-metadata", f"title={title}")
        outcome = judged(path)
        if isinstance(outcome, Verdict):
            assert probe(path).container == "matroska,webm"
            assert probe(path).video_codec == "h264"
            assert outcome.frames == 48


def elements(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Of Matroska's elements one after the other: where each begins, where its content does, and where it ends."""
    at = 0
    while at < len(data):
        begin, at = at, at + 9 - data[at].bit_length()
        length = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
        at += length
        yield begin, at, at + size
        at += size


def put_apart(film: bytes) -> bytes:
    """A Matroska file of two tracks, with all blocks of the second behind those of the first."""
    segment = next(content for begin, content, _ in elements(film) if film[begin : begin + 4] == b"\x18\x53\x80\x67")
    body, head, tracks = film[segment:], b"", {1: b"", 2: b""}
    for begin, content, end in elements(body):
        kind, inner = body[begin : begin + 4], body[content:end]
        if kind in (b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b"):  # Info, Tracks
            head += body[begin:end]
        if kind == b"\x1f\x43\xb6\x75":  # Cluster
            stamp = next(inner[b:e] for b, _, e in elements(inner) if inner[b] == 0xE7)
            blocks = {1: b"", 2: b""}
            for b, c, e in elements(inner):
                if inner[b] == 0xA3:  # SimpleBlock
                    blocks[inner[c] & 127] += inner[b:e]
                elif inner[b] == 0xA0:  # BlockGroup, whose Block is first
                    blocks[inner[next(c + q for _, q, _ in elements(inner[c:e]))] & 127] += inner[b:e]
            for track, mine in blocks.items():
                tracks[track] += kind + sized(stamp + mine) if mine else b""
    return film[: segment - 8] + sized(head + tracks[1] + tracks[2])


def sized(content: bytes) -> bytes:
    return b"\x01" + len(content).to_bytes(7, "big") + content


@pytest.mark.parametrize("seconds", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_sound_that_stands_behind_all_pictures_is_in_its_place_or_the_film_refused(tmp_path, seconds):
    source = ["-f", "lavfi", "-i", f"testsrc2=s=320x180:r=24:d={seconds}", "-f", "lavfi", "-i", f"aevalsrc=0.5*random(0):d={seconds}"]
    film = make(tmp_path / "film.mkv", *source, "-c:v", "libx264", "-crf", "10", "-preset", "ultrafast", "-c:a", "flac")
    path = tmp_path / "apart.mkv"
    path.write_bytes(put_apart(film.read_bytes()))
    outcome = judged(path, DecodeConfig(width=704, height=448))  # so large that 8 s of pictures may be ahead of their sound
    if isinstance(outcome, Verdict):  # ffmpeg 9 itself waits for the sound
        assert (outcome.frames, outcome.notes) == (seconds * FPS, ())
    else:
        assert "its pictures and its sound lie too far apart in the file" in outcome


def test_a_file_that_grows_while_it_is_read_ends(tmp_path, clip):
    path, going = make(tmp_path / "grows.ts", "-i", str(clip), "-c", "copy"), threading.Event()
    piece = path.read_bytes()

    def grow() -> None:
        with path.open("ab") as file:
            while not going.wait(0.005) and file.tell() < 20 << 20:
                file.write(piece)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        judged(path, DecodeConfig(max_seconds=5.0, max_damage=1e9))
    finally:
        going.set()
        thread.join()


@pytest.mark.parametrize("seed", range(12))
def test_a_film_with_bytes_changed_anywhere_is_used_or_refused(tmp_path, clip, seed):
    dice, data = np.random.default_rng(seed), bytearray(clip.read_bytes())
    for spot in dice.integers(0, len(data), 1 + seed):
        data[spot] = dice.integers(256)
    path = tmp_path / "changed.mp4"
    path.write_bytes(data)
    outcome = judged(path)
    assert isinstance(outcome, str) or outcome.frames > 0
