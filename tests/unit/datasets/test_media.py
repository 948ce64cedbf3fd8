"""Media in and out on one clock, and everything that a folder of strangers' files may hold."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from media_material import FPS, PACK, RATE, decibels, film, names, tick_in_picture, tick_in_sound, write_film

from mutual_forcing.datasets.ffmpeg_child import Limits, essence, run_ffmpeg
from mutual_forcing.datasets.media import DecodeConfig, Decoded, MediaError, decode, ffmpeg_path, probe, write_media

CONFIG = DecodeConfig()


def look(path: Path, config: DecodeConfig = CONFIG) -> Decoded:
    return decode(path, probe(path), config)


def remux(source: Path, target: Path, *before_second: str) -> Path:
    """`target` with the pictures of `source` and its sound, read once more after the options `before_second`."""
    command = [ffmpeg_path(), "-v", "error", "-i", str(source), *before_second, "-i", str(source)]
    subprocess.run([*command, "-map", "0:v", "-map", "1:a", "-c", "copy", str(target)], check=True, timeout=60)
    return target


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """One film in three containers."""
    folder = tmp_path_factory.mktemp("films")
    for suffix in ("mp4", "webm", "mkv"):
        write_film(folder / f"film.{suffix}")
    return folder


@pytest.mark.parametrize("suffix", ["mp4", "webm", "mkv"])
def test_a_film_comes_back_as_it_was(written, suffix):
    path = written / f"film.{suffix}"
    frames, audio = film()
    found, seen = look(path), probe(path)
    assert (seen.width, seen.height, seen.fps, seen.has_audio, seen.rotation) == (64, 64, 24.0, True, 0.0)
    assert found.frames.shape == frames.shape
    assert decibels(frames, found.frames) > 30
    assert found.audio is not None
    assert found.audio.shape == audio.shape
    assert tick_in_sound(found.audio) == pytest.approx(tick_in_sound(audio), abs=0.005)
    assert tick_in_picture(found.frames) == pytest.approx(0.75, abs=0.005)
    assert found.notes == ()


@pytest.mark.parametrize("suffix", ["mp4", "webm", "mkv"])
def test_the_same_film_is_the_same_file(written, tmp_path, suffix):
    again = write_film(tmp_path / f"other.{suffix}")
    assert again.read_bytes() == (written / f"film.{suffix}").read_bytes()


@pytest.mark.parametrize("late", [-0.3, 0.0, 0.12, 0.4])
def test_sound_that_starts_elsewhere_stays_where_its_time_stamps_say(written, tmp_path, late):
    found = look(remux(written / "film.mkv", tmp_path / "late.mkv", "-itsoffset", str(late)))
    assert found.audio is not None
    assert found.av_offset_s == pytest.approx(late, abs=0.01)
    assert tick_in_sound(found.audio) == pytest.approx(0.75 + late, abs=0.006)
    assert tick_in_picture(found.frames) == pytest.approx(0.75, abs=0.005)


def test_a_clock_that_does_not_start_at_zero(written, tmp_path):
    stream = remux(written / "film.mp4", tmp_path / "film.ts")
    assert probe(stream).video_start_s > 1.0
    found, plain = look(stream), look(written / "film.mp4")
    assert found.audio is not None
    assert tick_in_sound(found.audio) == pytest.approx(0.75, abs=0.006)
    np.testing.assert_array_equal(found.frames, plain.frames)


@pytest.mark.parametrize(
    ("fps", "rate", "size"), [(24, 16000, (64, 64)), (30, 44100, (48, 32)), (10, 22050, (32, 80)), (25, 8000, (17, 33))]
)
def test_sound_is_as_long_as_the_pictures_at_any_rate(written, fps, rate, size):
    config = replace(CONFIG, fps=fps, sample_rate=rate, width=size[0], height=size[1])
    found = look(written / "film.webm", config)
    assert found.audio is not None
    assert abs(len(found.frames) - 1.5 * fps) <= 1
    assert found.frames.shape[1:] == (size[1], size[0], 3)
    assert len(found.audio) == round(len(found.frames) * rate / fps)


def test_pictures_are_covered_and_cut_at_the_centre(tmp_path):
    frames = np.zeros((6, 64, 128, 3), np.uint8)
    frames[:, :, 32:96] = 200
    write_media(tmp_path / "wide.mp4", frames, FPS, None, RATE)
    found = look(tmp_path / "wide.mp4").frames.astype(int)
    assert found[:, 4:-4, 4:-4].min() > 190
    tall = look(tmp_path / "wide.mp4", replace(CONFIG, width=128, height=64)).frames.astype(int)
    assert tall[:, :, :24].max() < 20


def test_odd_sides_silence_and_one_frame(tmp_path):
    frames, audio = film(size=(47, 65))
    write_media(tmp_path / "odd.mp4", frames, FPS, None, RATE)
    seen = probe(tmp_path / "odd.mp4")
    assert (seen.width, seen.height, seen.audio_codec) == (66, 48, None)
    found = look(tmp_path / "odd.mp4")
    assert found.audio is None
    assert found.notes == ("no sound",)
    write_media(tmp_path / "one.webm", frames[:1], FPS, audio[: RATE // FPS], RATE)
    assert look(tmp_path / "one.webm").frames.shape == (1, 64, 64, 3)


def test_sound_shorter_than_the_pictures_ends_in_silence(tmp_path):
    frames, audio = film()
    write_media(tmp_path / "short.mkv", frames, FPS, 20 * audio[: RATE // 2], RATE)
    found = look(tmp_path / "short.mkv")
    assert found.audio is not None
    assert len(found.audio) == len(audio)
    assert np.abs(found.audio[: RATE // 2]).max() > 0.1
    assert not found.audio[round(0.6 * RATE) :].any()
    assert any("silence follows" in note for note in found.notes)


def test_only_the_first_seconds_of_a_long_film_are_read(written):
    found = look(written / "film.mp4", replace(CONFIG, max_seconds=0.5))
    assert abs(len(found.frames) - 12) <= 1
    assert any(note.startswith("only the first 0.5 s") for note in found.notes)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_truncated_film_is_used_up_to_its_end(written, tmp_path, suffix):
    whole = (written / f"film.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    full, part = look(written / f"film.{suffix}"), look(cut)
    assert 4 < len(part.frames) < len(full.frames)
    np.testing.assert_array_equal(part.frames[:-1], full.frames[: len(part.frames) - 1])
    assert any("ends early" in note or "pictures end" in note for note in part.notes)


def test_a_damaged_film_is_refused_but_never_crashes(written, tmp_path):
    whole = bytearray((written / "film.mp4").read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(len(whole) // 2, len(whole), 400):
        whole[place] = int(rng.integers(256))
    (tmp_path / "bad.mp4").write_bytes(whole)
    with pytest.raises(MediaError, match="damaged in") as refused:
        look(tmp_path / "bad.mp4")
    assert refused.value.stage == "decode"
    assert look(tmp_path / "bad.mp4", replace(CONFIG, max_damage=99.0)).notes[0].startswith("damaged in")


CONCAT = "ffconcat version 1.0\nfile film.mp4\n"
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfilm.mp4\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("playlist", [CONCAT, HLS])
def test_a_playlist_that_calls_itself_a_film_opens_nothing(written, playlist):
    trap = written / "trap.mp4"
    trap.write_text(playlist)
    if playlist == CONCAT:  # the trap is real: without our whitelist, ffmpeg plays the other file
        naive = subprocess.run([ffmpeg_path(), "-v", "error", "-i", str(trap), "-f", "null", "-"], capture_output=True, timeout=60)
        assert naive.returncode == 0
    try:
        with pytest.raises(MediaError, match="none of the containers") as refused:
            probe(trap)
        with pytest.raises(MediaError):
            decode(trap, probe(written / "film.mp4"), CONFIG)
    finally:
        trap.unlink()
    assert refused.value.stage == "probe"


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _make_loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p.write_bytes(b""), "the file is empty"),
        (lambda p: p.write_text("hello world\n"), "none of the containers"),
        (lambda p: p.write_bytes(os.urandom(5000)), "none of the containers"),
        (_make_fifo, "not a regular file"),
        (lambda p: p.mkdir(), "not a regular file"),
        (lambda p: p.symlink_to("/dev/zero"), "not a regular file"),
        (_make_loop, "cannot be opened"),
        (lambda p: None, "cannot be opened"),
    ],
)
def test_what_is_no_film_is_refused_with_its_reason(tmp_path, make: Callable[[Path], object], reason):
    path = tmp_path / "x.mp4"
    make(path)
    with pytest.raises(MediaError, match=reason) as refused:
        probe(path)
    told = pickle.loads(pickle.dumps(refused.value))
    assert (told.stage, str(told)) == ("probe", str(refused.value))
    assert "\n" not in str(told)


NAMES = ["a b", 'it\'s "q"', "new\nline", "-i", "größe 猫", "%03d", "a:b;c|d", "http:x", "$(id)"]


@pytest.mark.parametrize("name", [f"{stem}.mp4" for stem in NAMES])
def test_any_name_is_only_a_name(tmp_path, monkeypatch, name):
    frames, audio = film(0.5, None)
    monkeypatch.chdir(tmp_path)
    write_media(Path(name), frames, FPS, audio, RATE)
    assert names(tmp_path) == [name]
    assert len(look(Path(name)).frames) == len(frames)
    (tmp_path / "link.mp4").symlink_to(tmp_path / name)
    assert len(look(tmp_path / "link.mp4").frames) == len(frames)


def test_a_refused_write_leaves_the_folder_as_it_was(tmp_path):
    frames, audio = film(0.5, None)
    write_media(tmp_path / "film.mp4", frames, FPS, audio, RATE)
    before = (tmp_path / "film.mp4").read_bytes()
    (tmp_path / "taken.mp4").mkdir()
    for name, pictures, sound in [
        ("film.gif", frames, audio),
        ("film.mp4", frames.astype(np.float32), audio),
        ("film.mp4", frames[:0], audio),
        ("film.mp4", frames, np.full(100, np.nan, np.float32)),
        ("taken.mp4", frames, audio),
        ("missing/film.mp4", frames, audio),
    ]:
        with pytest.raises(MediaError) as refused:
            write_media(tmp_path / name, pictures, FPS, sound, RATE)
        assert refused.value.stage == "write"
    assert names(tmp_path) == ["film.mp4", "taken.mp4"]
    assert (tmp_path / "film.mp4").read_bytes() == before


def test_time_limit_refuses(written):
    with pytest.raises(MediaError, match="took longer than"):
        look(written / "film.mp4", replace(CONFIG, timeout_s=0.001))


def test_memory_limit_refuses(written):
    with pytest.raises(MediaError):
        look(written / "film.mp4", replace(CONFIG, memory_bytes=32 << 20))


def test_a_hanging_child_is_killed_with_its_whole_group():
    start = "import os, subprocess, sys, time; child = subprocess.Popen(['sleep', '60'])"
    program = f"{start}; print(child.pid, os.getpid(), file=sys.stderr, flush=True); time.sleep(60)"
    began = time.monotonic()
    ended = run_ffmpeg(lambda pipes: [sys.executable, "-c", program], Limits(wall_s=1.0), drains=[10])
    assert time.monotonic() - began < 20
    assert ended.stopped == "took longer than 1 s"
    family = [int(word) for word in ended.stderr.split()]
    assert len(family) == 2
    gone = time.monotonic() + 5
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in family):
        assert time.monotonic() < gone
        time.sleep(0.01)


def test_a_flood_is_cut_off_and_words_are_bounded():
    program = "import os,sys; sys.stderr.write('[error] ' + 'x' * 10**6); sys.stderr.flush()\nwhile True: os.write({}, b'x' * 65536)"
    ended = run_ffmpeg(lambda pipes: [sys.executable, "-c", program.format(pipes[0])], Limits(wall_s=20), drains=[1 << 20])
    assert ended.stopped == "wrote more than 1048576 bytes"
    assert len(ended.stderr) <= 64 * 1024
    assert len(essence(ended.stderr)) <= 200


def test_no_descriptor_and_no_thread_is_left_behind(written):
    me = psutil.Process()
    look(written / "film.mp4")
    before = (me.num_fds(), threading.active_count(), len(me.children()))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(look, [written / "film.mp4", written / "film.webm"] * 4))
    for found, same in zip(results[2:], results, strict=False):
        np.testing.assert_array_equal(found.frames, same.frames)
    assert (me.num_fds(), threading.active_count(), len(me.children())) == before


# What becomes of each file of the pack: frames at 24 a second, or the reason for which it is refused.
WANTED: dict[str, int | str] = {
    "bbb_1s.webm": 24,
    "bbb_8s.webm": 192,
    "d01_h264_aac.mp4": 72,
    "d02_vp9_opus.webm": 72,
    "d03_mpeg4_mp3.avi": 73,
    "d04_audio_plus120ms.mov": 72,
    "d05_h264_opus_mono.mkv": 72,
    "d06_start5.ts": 72,
    "d07_vfr.mp4": 122,
    "d08_mono16k.mp4": 72,
    "d09_odd_361x271_444_sar.mp4": 72,
    "d10_noaudio.mp4": 72,
    "d11_video_shorter.mp4": 36,
    "d12_audio_shorter.mp4": 72,
    "d13_rot90.mp4": 72,
    "d14_hevc10_opus.mkv": 72,
    "d15_truncated_faststart.mp4": 30,
    "d16_truncated_nomoov.mp4": "none of the containers",
    "d17_corrupt_bytes.mp4": "damaged in",
    "d18_audio_only.m4a": "no pictures",
    "d21_60fps.mp4": 122,
    "d22_12fps_1056p.mp4": 122,
    "d24_silent_black.mp4": 48,
    "d25_one_frame.mp4": 1,
    "d26_empty.mp4": "empty",
    "d27_text.mp4": "none of the containers",
    "manifest.csv": "none of the containers",
    "ATTRIBUTION.txt": "none of the containers",
}


@pytest.fixture(scope="module")
def pack() -> dict[str, Decoded | str]:
    if not PACK.is_dir():
        pytest.skip(f"no media pack at {PACK}")
    outcome: dict[str, Decoded | str] = {}
    for path in sorted(PACK.iterdir()):
        try:
            outcome[path.name] = look(path)
        except MediaError as error:
            outcome[path.name] = error.reason
    return outcome


def used(pack: dict[str, Decoded | str], name: str) -> Decoded:
    found = pack[name]
    assert isinstance(found, Decoded), found
    return found


def test_every_file_of_the_pack_is_used_or_refused_for_its_reason(pack):
    for name, found in pack.items():
        wanted = WANTED.get(name, 122 if name.startswith("ovi") else 72)
        if isinstance(wanted, str):
            assert isinstance(found, str), name
            assert wanted in found, name
        else:
            frames = used(pack, name).frames
            assert abs(len(frames) - wanted) <= 1, name
            assert (name == "d24_silent_black.mp4") == (frames.mean() < 5), name


def lag_s(sound: np.ndarray, reference: np.ndarray) -> float:
    """How much later `sound` comes than `reference`, by their cross-correlation."""
    size = 2 * max(len(sound), len(reference))
    together = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(reference, size)), size)
    at = int(np.argmax(together))
    return (at - size if at > size // 2 else at) / RATE


@pytest.mark.parametrize(
    ("name", "original", "late"),
    [
        ("d01_h264_aac.mp4", "grid_lwbsza.mpg", 0.0),
        ("d02_vp9_opus.webm", "grid_brbk7n.mpg", 0.0),
        ("d04_audio_plus120ms.mov", "grid_brbk7n.mpg", 0.12),
        ("d05_h264_opus_mono.mkv", "grid_lwbsza.mpg", 0.0),
        ("d06_start5.ts", "grid_brbk7n.mpg", 0.0),
        ("d08_mono16k.mp4", "grid_lwbsza.mpg", 0.0),
        ("d14_hevc10_opus.mkv", "grid_brbk7n.mpg", 0.0),
    ],
)
def test_copies_in_other_containers_keep_the_sync_of_their_original(pack, name, original, late):
    copy, source = used(pack, name), used(pack, original)
    assert copy.audio is not None
    assert source.audio is not None
    assert lag_s(copy.audio, source.audio) == pytest.approx(late, abs=0.01)
    count = min(len(copy.frames), len(source.frames)) - 2
    fits = [decibels(copy.frames[1 + shift : count + shift], source.frames[1:count]) for shift in (-1, 0, 1)]
    assert np.argmax(fits) == 1, fits


def test_a_turned_copy_is_the_original_turned(pack):
    turned, plain = used(pack, "d13_rot90.mp4").frames, used(pack, "d01_h264_aac.mp4").frames
    assert decibels(np.rot90(plain, axes=(1, 2)), turned) > 35
