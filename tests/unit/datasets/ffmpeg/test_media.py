"""Media in and out: the clock is exact, whatever is written comes back, and no file is trusted."""

import csv
import itertools
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mutual_forcing.datasets.ffmpeg.ffmpeg_child import Limits, essence, run_ffmpeg
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, MediaError, decode, ffmpeg_path, probe, write_media

FPS, RATE, SIDE = 24, 16000, 64
CONFIG = DecodeConfig()
PACK = Path(__file__).resolve().parents[5] / "shared" / "media"
CONTAINERS = ("mp4", "webm", "mkv")

needs_pack = pytest.mark.skipif(not PACK.is_dir(), reason="the optional folder ../shared/media is not beside the checkout")


def film(count: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Smooth colours that move, with the frame's number in eight black or white squares along the top: uint8 [N, H, W, 3]."""
    t, y, x = np.ogrid[:count, :height, :width]
    planes = [128 + 80 * np.sin((x + t) / 13), 128 + 80 * np.cos((y - t) / 15), 128 + 50 * np.sin((x + y + 2 * t) / 17)]
    frames = np.stack(np.broadcast_arrays(*planes), -1).astype(np.uint8)
    square = width // 8
    for n, bit in itertools.product(range(count), range(8)):
        frames[n, :square, bit * square : (bit + 1) * square] = 255 * (n >> bit & 1)
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    """The number that each frame shows."""
    square = frames.shape[2] // 8
    lit = frames[:, :square].reshape(len(frames), square, 8, square, 3).mean((1, 3, 4)) > 127
    return (lit * 2 ** np.arange(8)).sum(1).tolist()


def tone(seconds: float, onset: float = 0.0, hertz: float = 440.0, rate: int = RATE) -> np.ndarray:
    """Silence until `onset`, then a tone at half scale: float32 [S]."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * (t - onset)) * (t >= onset)).astype(np.float32)


def onset_of(audio: np.ndarray) -> float:
    """Seconds at which the sound first reaches a tenth of full scale."""
    return int(np.argmax(np.abs(audio) > 0.1)) / RATE


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def make(path: Path, *arguments: str) -> Path:
    """A file that write_media would not write, by ffmpeg itself."""
    subprocess.run([ffmpeg_path(), "-nostdin", "-v", "error", "-y", *arguments, f"file:{path}"], check=True, timeout=60)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Two seconds, pictures numbered from 0, a tone from 0.5 s."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_media(path, film(48), FPS, tone(2.0, onset=0.5), RATE)
    return path


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_written_comes_back_on_one_clock(tmp_path, container):
    path, frames = tmp_path / f"clip.{container}", film(60)
    write_media(path, frames, FPS, tone(2.5, onset=1.25), RATE)
    found = probe(path)
    back = decode(path, found, CONFIG)
    assert (found.width, found.height, found.has_audio) == (SIDE, SIDE, True)
    assert found.fps == pytest.approx(FPS)
    assert numbers(back.frames) == list(range(60))
    assert psnr(back.frames, frames) > 34
    assert back.audio is not None
    assert back.audio.shape == (round(60 * RATE / FPS),)
    assert abs(onset_of(back.audio) - 1.25) < 0.005
    assert np.abs(back.audio[-RATE:]).max() == pytest.approx(0.5, rel=0.1)
    assert back.notes == ()


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_silent_film_has_no_audio_and_says_so(tmp_path, container):
    path = tmp_path / f"mute.{container}"
    write_media(path, film(13), FPS, None, RATE)
    back = decode(path, probe(path), CONFIG)
    assert (len(back.frames), back.audio, back.notes) == (13, None, ("no sound",))


@pytest.mark.parametrize("container", CONTAINERS)
def test_odd_sides_grow_by_one(tmp_path, container):
    path, frames = tmp_path / f"odd.{container}", film(5, height=49, width=71)
    write_media(path, frames, FPS, None, RATE)
    found = probe(path)
    assert (found.width, found.height) == (72, 50)
    back = decode(path, found, DecodeConfig(width=72, height=50)).frames
    assert psnr(back[:, :49, :71], frames) > 30


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("fps", [12, 25, 29.97, 60])
def test_any_rate_is_brought_onto_the_clock(tmp_path, fps, rate):
    path = tmp_path / "other.mkv"
    count = round(2 * fps)
    write_media(path, film(count), fps, tone(count / fps, onset=1.0, rate=rate), rate)
    back = decode(path, probe(path), CONFIG)
    assert abs(len(back.frames) - count / fps * FPS) <= 1
    shown_at = np.arange(len(back.frames)) / FPS
    # `near` shows each moment the picture that is due within half an output frame.
    assert np.all(np.abs(np.array(numbers(back.frames)) / fps - shown_at) <= 0.5 / FPS + 1 / fps)
    assert back.audio is not None
    assert abs(onset_of(back.audio) - 1.0) < 0.005


@pytest.mark.parametrize("delay", [-0.3, -0.04, 0.12, 0.4])
@pytest.mark.parametrize("container", ["mkv", "mp4", "ts"])
def test_streams_that_start_apart_stay_in_sync(tmp_path, clip, delay, container):
    late = make(
        tmp_path / f"late.{container}",
        "-i",
        str(clip),
        "-itsoffset",
        str(delay),
        "-i",
        str(clip),
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c",
        "copy",
    )
    found = probe(late)
    back = decode(late, found, CONFIG)
    assert numbers(back.frames)[:40] == list(range(40))
    assert back.audio is not None
    assert abs(onset_of(back.audio) - (0.5 + delay)) < 0.005
    # An edit list cuts off what would sound before zero, and may leave the encoder's priming (one frame of 1024 samples) in.
    starts = max(delay, 0.0) if container == "mp4" else delay
    assert -0.001 <= starts - back.av_offset_s <= 1024 / RATE + 0.001


def test_a_short_gap_in_the_sound_stays_a_gap(tmp_path, clip):
    gap = make(tmp_path / "gap.mkv", "-i", str(clip), "-c", "copy", "-bsf:a", "noise=amount=0:drop=eq(n\\,4)")
    audio = decode(gap, probe(gap), CONFIG).audio
    assert audio is not None
    assert abs(onset_of(audio) - 0.5) < 0.005


@pytest.mark.parametrize("stream", ["v", "a"])
def test_a_gap_of_hours_costs_no_more_than_the_limit(tmp_path, clip, stream):
    hours = "gte(N\\,24)*36000/TB"
    jump = f"setts=pts=PTS+{hours}:dts=DTS+{hours}"
    bomb = make(tmp_path / "gap.mkv", "-i", str(clip), "-c", "copy", f"-bsf:{stream}", jump)
    began = time.monotonic()
    back = decode(bomb, probe(bomb), DecodeConfig(max_seconds=5.0))
    assert numbers(back.frames)[:20] == list(range(20))
    assert len(back.frames) <= 5 * FPS
    assert back.audio is not None
    assert abs(onset_of(back.audio) - 0.5) < 0.005
    assert time.monotonic() - began < 10


def test_max_seconds_counts_from_the_first_picture_and_is_said(tmp_path, clip):
    late = make(tmp_path / "late.ts", "-i", str(clip), "-c", "copy", "-output_ts_offset", "7")
    found = probe(late)
    assert found.zero_s > 7
    back = decode(late, found, DecodeConfig(max_seconds=1.0))
    assert numbers(back.frames) == list(range(FPS))
    assert any("only the first 1 s" in note for note in back.notes)


def test_a_picture_is_cropped_at_its_centre_and_turned_upright(tmp_path):
    wide = np.zeros((4, 64, 128, 3), np.uint8)
    wide[:, :32, 32:64], wide[:, 32:, 64:96] = (255, 0, 0), (0, 0, 255)  # top left and bottom right of the middle square
    path = tmp_path / "wide.mp4"
    write_media(path, wide, FPS, None, RATE)
    upright = decode(path, probe(path), CONFIG).frames[0]
    assert upright[16, 16].argmax() == 0
    assert upright[48, 48].argmax() == 2
    assert upright[16, 48].max() < 40
    turned = make(tmp_path / "turned.mp4", "-display_rotation", "90", "-i", str(path), "-c", "copy")
    found = probe(turned)
    assert (found.width, found.height, abs(found.rotation)) == (64, 128, 90)
    assert psnr(decode(turned, found, CONFIG).frames[0], np.rot90(upright, 1)) > 25


def test_sample_aspect_is_applied(tmp_path):
    half = np.zeros((2, 64, 64, 3), np.uint8)
    half[:, :, 16:48] = 255  # shown twice as wide, the middle is all that the crop keeps
    path = tmp_path / "square.mp4"
    write_media(path, half, FPS, None, RATE)
    stretched = make(tmp_path / "stretched.mp4", "-i", str(path), "-c", "copy", "-aspect", "2:1")
    assert decode(stretched, probe(stretched), CONFIG).frames[:, :, 4:-4].min() > 200


def test_two_channels_become_their_mean(tmp_path):
    left_only = make(tmp_path / "left.mkv", "-f", "lavfi", "-i", "color=gray:s=64x64:r=24:d=1", "-f", "lavfi", "-i",
                     "aevalsrc=0.8*sin(2*PI*300*t)|0:d=1:s=16000", "-c:a", "pcm_f32le")  # fmt: skip
    audio = decode(left_only, probe(left_only), CONFIG).audio
    assert audio is not None
    assert np.abs(audio).max() == pytest.approx(0.4, rel=0.02)


def test_sound_that_is_no_number_becomes_silence(tmp_path):
    odd = make(tmp_path / "nan.mkv", "-f", "lavfi", "-i", "color=gray:s=64x64:r=24:d=1", "-f", "lavfi", "-i",
               "aevalsrc=if(gt(t\\,0.5)\\,0/0\\,7):d=1:s=16000", "-c:a", "pcm_f32le")  # fmt: skip
    audio = decode(odd, probe(odd), CONFIG).audio
    assert audio is not None
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() == 1.0


@pytest.mark.parametrize(
    "name", ["a b.mp4", 'it\'s "so".mp4', "two\nlines.mp4", "-y.mp4", "żółć 猫.mp4", "a:b,c;[d]=%d.mp4", "file:x.mp4", "http://x.mp4"]
)
def test_any_name_is_only_a_name(tmp_path, clip, name, monkeypatch):
    folder = tmp_path / Path(name).parent
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(clip.read_bytes())
    assert numbers(decode(name, probe(name), CONFIG).frames) == list(range(48))
    write_media(Path(name), film(3), FPS, None, RATE)
    assert numbers(decode(name, probe(name), CONFIG).frames) == [0, 1, 2]


def test_a_link_is_followed_and_a_loop_refused(tmp_path, clip):
    (tmp_path / "link.mp4").symlink_to(clip)
    assert probe(tmp_path / "link.mp4") == probe(clip)
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    with pytest.raises(MediaError, match="cannot be opened"):
        probe(tmp_path / "loop.mp4")


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{clip}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S">'
    '<Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="0"><BaseURL>file:{clip}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "m3u8"])
def test_a_playlist_never_opens_another_file(tmp_path, clip, kind, suffix):
    path = tmp_path / f"list.{suffix}"
    path.write_text(PLAYLISTS[kind].format(clip=clip))
    with pytest.raises(MediaError) as refused:
        probe(path)
    assert refused.value.stage == "probe"
    with pytest.raises(MediaError):  # nor when someone else has probed it
        decode(path, probe(clip), CONFIG)


def refusals(folder: Path, clip: Path) -> dict[str, Path]:
    index_last = make(folder / "index last.mp4", "-i", str(clip), "-c", "copy").read_bytes()
    (folder / "index last.mp4").unlink()
    files = {
        "empty": b"",
        "text": b"hello, world",
        "noise": np.random.default_rng(0).bytes(50_000),
        "without its index": index_last[: index_last.rindex(b"moov")],
    }
    for name, content in files.items():
        (folder / f"{name}.mp4").write_bytes(content)
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    sound = make(folder / "sound.m4a", "-i", str(clip), "-vn", "-c", "copy")
    return {path.stem: path for path in folder.iterdir()} | {"device": Path("/dev/zero"), "absent": folder / "absent.mp4", "sound": sound}


def test_what_is_not_a_film_is_refused_at_once_with_a_reason(tmp_path, clip):
    expected = {
        "empty": "is empty",
        "text": "none of the containers",
        "noise": "none of the containers",
        "without its index": "none of the containers",
        "folder": "not a regular file",
        "pipe": "not a regular file",
        "device": "not a regular file",
        "absent": "No such file",
        "sound": "no pictures",
    }
    began = time.monotonic()
    reasons = {}
    for name, path in refusals(tmp_path, clip).items():
        with pytest.raises(MediaError) as refused:
            probe(path)
        reasons[name] = str(refused.value)
        assert "\n" not in reasons[name]
        assert len(reasons[name]) < 400
    assert reasons.keys() == expected.keys()
    assert all(expected[name] in reason for name, reason in reasons.items()), reasons
    assert time.monotonic() - began < 10


def test_a_file_that_ends_early_is_used_up_to_its_end(tmp_path):
    whole = tmp_path / "whole.mp4"
    write_media(whole, film(96), FPS, tone(4.0), RATE)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    back = decode(cut, probe(cut), CONFIG)
    assert 24 < len(back.frames) < 96
    assert numbers(back.frames) == list(range(len(back.frames)))
    assert psnr(back.frames, film(96)[: len(back.frames)]) > 34
    assert any("ends early" in note for note in back.notes)


def test_damaged_pictures_are_refused_unless_allowed(tmp_path, clip):
    broken = bytearray(clip.read_bytes())
    for spot in np.random.default_rng(1).integers(broken.index(b"mdat") + 2000, len(broken) - 100, 4):
        broken[spot : spot + 40] = bytes(40)
    path = tmp_path / "broken.mp4"
    path.write_bytes(broken)
    found = probe(clip)
    with pytest.raises(MediaError, match="damaged: in"):
        decode(path, found, CONFIG)
    assert any("damaged" in note for note in decode(path, found, DecodeConfig(max_damage=1e9)).notes)


def test_one_picture_is_a_film_of_one_frame(tmp_path):
    path = tmp_path / "one.mp4"
    write_media(path, film(1), FPS, tone(1 / FPS), RATE)
    back = decode(path, probe(path), CONFIG)
    assert len(back.frames) == 1
    assert back.audio is not None
    assert len(back.audio) == round(RATE / FPS)


def test_memory_and_size_limits_refuse_with_a_reason(tmp_path, clip):
    with pytest.raises(MediaError) as starved:
        decode(clip, probe(clip), DecodeConfig(memory_bytes=24 << 20))
    assert starved.value.stage == "decode"
    huge = make(tmp_path / "huge.mkv", "-f", "lavfi", "-i", "color=s=8192x4320:r=1:d=1", "-c:v", "ffv1")
    with pytest.raises(MediaError):
        probe(huge)


def group_is_gone(group: int) -> bool:
    """No live process of the group is left (one that has ended but is not yet collected is no longer live)."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = entry.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if int(pgrp) == group and state not in "ZX":
            return False
    return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("script", ["echo $$ >&2; sleep 60", "echo $$ >&2; sleep 60 & wait", "echo $$ >&2; sleep 60 & exit 0"])
def test_past_the_time_limit_the_whole_group_is_killed(script):
    began = time.monotonic()
    ended = run_ffmpeg(lambda _: ["/bin/sh", "-c", script], Limits(wall_s=0.5), drains=[10])
    assert 0.4 < time.monotonic() - began < 5
    assert ended.stopped == "took longer than 0.5 s"
    assert group_is_gone(int(ended.stderr))


def test_a_flood_is_cut_off_and_words_are_bounded():
    ended = run_ffmpeg(lambda pipes: ["/bin/sh", "-c", f"yes > /dev/fd/{pipes[0]}"], Limits(wall_s=20), drains=[100_000])
    assert ended.stopped == "wrote more than 100000 bytes"
    assert len(ended.outputs[0]) < 3_000_000
    loud = run_ffmpeg(lambda _: ["/bin/sh", "-c", "yes '[error] bad' | head -c 1000000 >&2"], Limits(wall_s=20))
    assert len(loud.stderr) == 64 * 1024
    assert essence(loud.stderr) == "bad"


def test_a_child_that_crashes_is_named(tmp_path):
    ended = run_ffmpeg(lambda _: ["/bin/sh", "-c", "kill -SEGV $$"], Limits(wall_s=20))
    assert (ended.returncode, ended.stopped) == (-signal.SIGSEGV, "ffmpeg died of SIGSEGV")


def test_reading_never_writes_a_file(tmp_path):
    ended = run_ffmpeg(lambda _: ["/bin/sh", "-c", f"sleep 0.2; echo secret > {tmp_path}/out"], Limits(wall_s=20))
    assert ended.returncode != 0
    assert not (tmp_path / "out").exists() or (tmp_path / "out").stat().st_size == 0


def test_many_threads_decode_at_once_and_leave_nothing_open(clip):
    found, before = probe(clip), threading.active_count()
    decode(clip, found, CONFIG)
    descriptors = len(os.listdir("/dev/fd"))
    with ThreadPoolExecutor(8) as pool:
        backs = list(pool.map(lambda _: decode(clip, probe(clip), CONFIG), range(24)))
    first = backs[0]
    for back in backs:
        np.testing.assert_array_equal(back.frames, first.frames)
        np.testing.assert_array_equal(back.audio, first.audio)
    assert len(os.listdir("/dev/fd")) == descriptors
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("name", "frames", "audio", "reason"),
    [
        ("a.gif", film(2), None, "unknown container"),
        ("a.mp4", film(2).astype(np.float32), None, "frames must be uint8"),
        ("a.mp4", film(2)[:0], None, "frames must be uint8"),
        ("a.mp4", film(2), np.zeros((2, 9), np.float32), "audio must be finite"),
        ("a.mp4", film(2), np.full(9, np.nan, np.float32), "audio must be finite"),
        ("no/a.mp4", film(2), None, "does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, name, frames, audio, reason):
    with pytest.raises(MediaError, match=reason) as refused:
        write_media(tmp_path / name, frames, FPS, audio, RATE)
    assert refused.value.stage == "write"
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path, clip):
    path = tmp_path / "kept.mp4"
    path.write_bytes(clip.read_bytes())
    with pytest.raises(MediaError):  # h264 has no such size
        write_media(path, np.zeros((1, 2, 40_000, 3), np.uint8), FPS, None, RATE)
    assert path.read_bytes() == clip.read_bytes()
    assert list(tmp_path.iterdir()) == [path]
    write_media(path, film(7), FPS, None, RATE)
    assert numbers(decode(path, probe(path), CONFIG).frames) == list(range(7))


def test_an_ffmpeg_that_is_too_old_is_passed_over(tmp_path, monkeypatch):
    old = tmp_path / "ffmpeg"
    libraries = "--enable-libx264 --enable-libvpx --enable-libopus"
    chosen = []
    for version in ("4.4.2-0ubuntu", "5.0.1", "5.1.6-0+deb12u1", "n7.1", "N-118000-gabc"):
        old.write_text(f"#!/bin/sh\necho 'ffmpeg version {version} Copyright'\necho 'configuration: {libraries}'\n")
        old.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        ffmpeg_path.cache_clear()
        chosen.append(ffmpeg_path() == str(old))
    ffmpeg_path.cache_clear()
    assert chosen == [False, False, True, True, True]


def test_an_error_keeps_its_parts_across_processes():
    import pickle

    error = pickle.loads(pickle.dumps(MediaError("probe", Path("/x/two\nlines é.mp4"), "no", "why")))
    assert (error.stage, error.path, error.reason, error.said) == ("probe", "/x/two\nlines é.mp4", "no", "why")
    assert str(error) == "two\\nlines é.mp4: no (ffmpeg: why)"


REFUSED = {"d16_truncated_nomoov.mp4", "d17_corrupt_bytes.mp4", "d18_audio_only.m4a", "d26_empty.mp4", "d27_text.mp4"}


@needs_pack
@pytest.mark.slow
def test_every_file_of_the_pack_is_used_or_refused_with_a_reason():
    with (PACK / "manifest.csv").open(newline="") as table:
        files = {row["file"]: row for row in csv.DictReader(table)}
    reasons = {}
    for name, row in files.items():
        try:
            found = probe(PACK / name)
            back = decode(PACK / name, found, CONFIG)
        except MediaError as error:
            reasons[name] = error.reason
            continue
        assert found.video_start_s == pytest.approx(float(row["v_start"]), abs=2e-6)
        assert (found.video_codec, found.audio_codec or "") == (row["vcodec"], row["acodec"])
        assert found.rotation == float(row["rotation"] or 0)
        assert back.frames.shape[1:] == (SIDE, SIDE, 3)
        assert (back.audio is None) == (row["acodec"] == "")
        if back.audio is not None:
            assert len(back.audio) == round(len(back.frames) * RATE / FPS)
            assert np.isfinite(back.audio).all()
    assert reasons.keys() == REFUSED
    assert all(reasons.values())


def lag_s(a: np.ndarray, b: np.ndarray) -> float:
    """By how many seconds `a` is later than `b`."""
    size = 1 << (len(a) + len(b)).bit_length()
    match = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    peak = int(np.argmax(match))
    return (peak - size if peak > size // 2 else peak) / RATE


@needs_pack
@pytest.mark.parametrize(
    ("name", "late"),
    [
        ("d02_vp9_opus.webm", -0.007),  # its writer left the sound 7 ms early, and a file's own timestamps are the law
        ("d04_audio_plus120ms.mov", 0.120),
        ("d06_start5.ts", 0.0),
        ("d14_hevc10_opus.mkv", -0.007),
    ],
)
def test_copies_of_one_recording_agree_to_the_millisecond(name, late):
    original = decode(PACK / "grid_brbk7n.mpg", probe(PACK / "grid_brbk7n.mpg"), CONFIG)
    copy = decode(PACK / name, probe(PACK / name), CONFIG)
    assert original.audio is not None
    assert copy.audio is not None
    assert lag_s(copy.audio, original.audio) == pytest.approx(late, abs=0.0015)
    errors = [np.mean((copy.frames[n].astype(float) - original.frames) ** 2, axis=(1, 2, 3)).argmin() - n for n in range(10, 60, 7)]
    assert np.abs(errors).max() <= 1  # Matroska keeps whole milliseconds, so a picture of 25/s may round to the next one of 24/s
