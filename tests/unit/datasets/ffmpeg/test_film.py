"""A film that is read as it is needed is the film that is decoded at once, from any place on, in little memory."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_material import FPS, PACK, RATE, film, write_film

from mutual_forcing.datasets.ffmpeg.ffmpeg_child import MediaError
from mutual_forcing.datasets.ffmpeg.ffmpeg_program import ffmpeg_path
from mutual_forcing.datasets.ffmpeg.film import Film, open_film
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, Decoded, decode, write_media
from mutual_forcing.datasets.ffmpeg.probe import probe

CONFIG = DecodeConfig()
LONG_S = 75


def make(path: Path, *arguments: str) -> Path:
    subprocess.run([ffmpeg_path(), "-nostdin", "-v", "error", "-y", *arguments, f"file:{path}"], check=True, timeout=120)
    return path


def opened(path: Path, config: DecodeConfig = CONFIG, start_s: float = 0.0, end_s: float | None = None) -> Film:
    return open_film(path, probe(path, needs_video=False), config, start_s, end_s)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Decoded]:
    path = write_film(tmp_path_factory.mktemp("film") / "film.mp4", seconds=4.0, tick_s=1.5)
    return path, decode(path, probe(path), CONFIG)


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """Pictures and sound of which no second is like another, h264 with pictures out of order; AAC without drawn noise."""
    waves = "0.4*sin(2*PI*(200+7*t)*t)+0.2*sin(2*PI*3000*t)*gt(sin(9*t)\\,0)"
    return make(tmp_path_factory.mktemp("long") / "long.mp4", "-f", "lavfi", "-i", f"testsrc2=s=96x64:r=25:d={LONG_S}", "-f", "lavfi", "-i",
                f"aevalsrc={waves}:s=44100:d={LONG_S}", "-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac",
                "-aac_pns", "0")  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 50)), min_size=1, max_size=6))
def test_clips_of_any_length_and_distance_are_those_of_the_whole(whole, moves):
    path, decoded = whole
    assert decoded.audio is not None
    first = 0
    with opened(path) as reading:
        for step, count in moves:
            first += step
            cut = reading.read(first, count)
            wanted = decoded.frames[first : first + count]
            assert (cut is None) == (len(wanted) == 0)
            if cut is None:
                break
            assert cut.frames is not None
            assert cut.audio is not None
            np.testing.assert_array_equal(cut.frames, wanted)
            sample = round(first * RATE / FPS)
            samples = decoded.audio[sample : sample + round(len(wanted) * RATE / FPS)]
            np.testing.assert_array_equal(cut.audio[: len(samples)], samples)
            assert len(cut.audio) == round(len(wanted) * RATE / FPS)


def test_the_verdict_says_what_the_film_was(whole):
    path, decoded = whole
    with opened(path) as reading:
        while reading.read(reading.first, 10_000) and reading.read(10_000, 1):
            pass
        verdict = reading.verdict()
    assert (verdict.frames, verdict.samples, verdict.notes) == (len(decoded.frames), 4 * RATE, ())


def test_a_frame_behind_is_our_own_mistake(whole):
    with opened(whole[0]) as reading:
        reading.read(10, 5)
        with pytest.raises(AssertionError, match="behind frame 10"):
            reading.read(9, 1)


@pytest.mark.parametrize(
    ("suffix", "start_s"),
    [
        ("mp4", 33.3),
        ("mkv", 33.3),
        ("ts", 33.3),
        *(pytest.param(*way, marks=pytest.mark.slow) for way in (("mp4", 0.52), ("mp4", 61.0), ("mkv", 0.52), ("avi", 33.3))),
    ],
)
def test_a_part_is_the_same_part_of_the_whole(tmp_path, long, suffix, start_s):
    path = long if suffix == "mp4" else make(tmp_path / f"long.{suffix}", "-i", str(long), "-c", "copy")
    if suffix == "avi":  # h264 in AVI has no times of its own
        path = make(path, "-i", str(long), "-c:v", "mpeg4", "-bf", "2", "-c:a", "libmp3lame")
    decoded = decode(path, probe(path), CONFIG)
    assert decoded.audio is not None
    with opened(path, start_s=start_s, end_s=start_s + 5) as reading:
        assert reading.first == int(np.ceil(start_s * FPS))
        cut = reading.read(reading.first, 10_000)
        assert cut is not None
        assert cut.frames is not None
        assert cut.audio is not None
        assert reading.read(reading.first + 10_000, 1) is None
        reading.verdict()
    assert cut.count == 5 * FPS
    np.testing.assert_array_equal(cut.frames, decoded.frames[cut.first : cut.first + cut.count])
    sample = round(cut.first * RATE / FPS)
    there = decoded.audio[sample : sample + len(cut.audio)]
    if suffix == "mkv" and start_s > 30:  # whole milliseconds: after a seek the sound lies by the packet found there, not by the first
        errors = [np.abs(cut.audio[100:-100] - np.roll(there, shift)[100:-100]).max() for shift in range(-16, 17)]
        assert min(errors) < 0.35
        assert abs(int(np.argmin(errors)) - 16) <= 0.0005 * RATE + 1
    else:
        assert 20 * np.log10(np.abs(cut.audio - there).max() + 1e-9) < -60


def test_an_index_that_misleads_is_not_followed(tmp_path, long, monkeypatch):
    whole = decode(long, probe(long), CONFIG)
    monkeypatch.setattr("mutual_forcing.datasets.ffmpeg.film.LANDING_S", -1000.0)  # as if every seek had led too far
    with opened(long, start_s=40.0, end_s=41.0) as reading:
        cut = reading.read(reading.first, FPS)
    assert cut is not None
    assert cut.frames is not None
    np.testing.assert_array_equal(cut.frames, whole.frames[40 * FPS : 41 * FPS])


def test_a_seek_saves_what_lies_before(long):
    found = probe(long)
    with open_film(long, found, CONFIG, start_s=70.0, end_s=71.0) as reading:
        assert reading.read(reading.first, 1) is not None
        assert reading._picture_times is not None
        assert reading._picture_times.count < 25 * 30


@pytest.mark.parametrize(("start_s", "end_s"), [(-1.0, None), (2.0, 2.0), (3.0, 1.0), (float("nan"), None), (float("inf"), None)])
def test_a_part_that_is_none_is_refused(whole, start_s, end_s):
    with pytest.raises(ValueError, match="start_s"):
        opened(whole[0], start_s=start_s, end_s=end_s)


@pytest.mark.parametrize("start_s", [4.5, 100.0])
def test_a_part_behind_the_end_has_nothing(whole, start_s):
    with opened(whole[0], start_s=start_s) as reading:
        assert reading.read(reading.first, 5) is None
        with pytest.raises(MediaError, match=r"no picture decodes from [\d.]+ s on"):
            reading.verdict()


def test_a_child_that_nobody_reads_stands_still(tmp_path, long):
    config = DecodeConfig(width=192, height=128)
    with opened(long, config) as reading:
        first = reading.read(0, 24)
        assert first is not None
        status = Path(f"/proc/{reading._child._process.pid}/stat")
        time.sleep(0.5)
        before = status.read_text().split()[13:15]
        time.sleep(0.5)
        assert status.read_text().split()[13:15] == before
        assert reading._sound is not None
        assert reading._sound.end < 40 * RATE  # of 75 s
        after = reading.read(24, 24)
    assert after is not None
    assert after.count == 24


def test_sound_that_ends_early_does_not_hold_the_pictures_back(tmp_path, long):
    shorter = ["-t", "16", "-i", str(long), "-t", "2", "-i", str(long)]
    path = make(tmp_path / "early.mkv", *shorter, "-map", "0:v", "-map", "1:a", "-c", "copy")
    config = DecodeConfig(width=512, height=512)  # so large that not all pictures may be ahead of their sound
    with opened(path, config) as reading:
        cuts = [reading.read(n, 36) for n in range(0, 16 * FPS, 36)]
        notes = reading.verdict().notes
    sounds = [cut.audio for cut in cuts if cut is not None and cut.audio is not None]
    assert [bool(sound.any()) for sound in sounds] == [True, True] + [False] * 9
    assert any("silence follows" in note for note in notes)


@pytest.mark.parametrize("suffix", ["m4a", "mp3", "wav", "flac", "ogg", "opus", "mka"])
def test_sound_alone_is_a_film_without_pictures(tmp_path, suffix):
    codec = {"ogg": ["-c:a", "libvorbis"], "opus": ["-c:a", "libopus"], "mka": ["-c:a", "aac"]}.get(suffix, [])
    path = make(tmp_path / f"a.{suffix}", "-f", "lavfi", "-i", "aevalsrc=0.5*sin(2*PI*440*t)*gt(t\\,1):s=48000:d=3", *codec)
    with pytest.raises(MediaError, match="no pictures"):
        probe(path)
    found = probe(path, needs_video=False)
    assert (found.has_video, found.has_audio, found.width) == (False, True, 0)
    with open_film(path, found, CONFIG) as reading:
        cuts = [reading.read(first, 24) for first in (0, 12, 36)]
        rest = reading.read(60, 24)
        assert reading.read(90, 1) is None
        verdict = reading.verdict()
    assert all(cut is not None and cut.frames is None and cut.count == 24 and cut.audio is not None for cut in cuts)
    assert rest is not None
    assert rest.count in (11, 12, 13)  # mp3 and opus pad their last frame
    assert cuts[0] is not None
    assert cuts[1] is not None
    assert cuts[0].audio is not None
    assert cuts[1].audio is not None
    assert not (np.abs(cuts[0].audio[: RATE - 100]) > 0.1).any()
    onset = int(np.argmax(np.abs(cuts[1].audio) > 0.1)) / RATE + 0.5
    assert onset == pytest.approx(1.0, abs=0.002)
    assert "no pictures" in verdict.notes
    assert verdict.frames == 60 + rest.count


def test_cover_art_is_no_picture(tmp_path, whole):
    cover = make(tmp_path / "cover.png", "-i", str(whole[0]), "-frames:v", "1")
    song = make(tmp_path / "song.mp3", "-i", str(whole[0]), "-i", str(cover), "-map", "0:a", "-map", "1", "-c:v", "copy")
    with pytest.raises(MediaError, match="no pictures"):
        probe(song)
    assert probe(song, needs_video=False).video_codec is None


@pytest.mark.parametrize("gap_s", [3, 40])
def test_a_gap_between_pictures_is_filled_or_refused_at_once(tmp_path, whole, gap_s):
    later = f"gte(N\\,40)*{gap_s}/TB"
    path = make(tmp_path / "gap.mkv", "-i", str(whole[0]), "-an", "-c", "copy", "-bsf:v", f"setts=pts=PTS+{later}:dts=DTS+{later}")
    if gap_s > CONFIG.max_gap_s:
        with pytest.raises(MediaError, match=r"a gap of 40\.\d s between two pictures"):
            decode(path, probe(path), CONFIG)
    else:
        frames = decode(path, probe(path), CONFIG).frames
        assert len(frames) == pytest.approx((4 + gap_s) * FPS, abs=1)
        np.testing.assert_array_equal(frames[45], frames[39 + gap_s * FPS - 5])


def test_a_film_of_few_pictures_a_second_is_scaled_once_and_stays_in_its_place(tmp_path):
    frames, audio = film(3.0, tick_s=None)
    write_media(tmp_path / "slow.mp4", frames[::6], FPS / 6, audio, RATE)
    shown = decode(tmp_path / "slow.mp4", probe(tmp_path / "slow.mp4"), CONFIG).frames
    nearest = [int(np.argmin([np.abs(picture - frames[n].astype(float)).mean() for n in range(0, FPS, 6)])) for picture in shown]
    assert nearest == [n // 6 % 4 for n in range(3 * FPS)]  # the waves come again every second


@pytest.mark.skipif(not PACK.is_dir(), reason="the optional folder ../shared/media is not beside the checkout")
def test_a_file_cut_off_loses_the_same_pictures_read_clip_by_clip():
    path = PACK / "d15_truncated_faststart.mp4"
    decoded, count = decode(path, probe(path), CONFIG), 0
    with opened(path) as reading:
        while cut := reading.read(count, 7):
            count += cut.count
        assert reading.verdict().notes == decoded.notes
    assert count == len(decoded.frames)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_film(tmp_path, long):
    path = make(tmp_path / "hours.mp4", "-stream_loop", "47", "-i", str(long), "-c", "copy")
    peaks, first = [], 0
    with opened(path) as reading:
        while cut := reading.read(first, 5 * FPS):
            first += cut.count
            if first % (FPS * 600) == 0:
                state = Path(f"/proc/{reading._child._process.pid}/status").read_text() + Path("/proc/self/status").read_text()
                peaks.append(sum(int(line.split()[1]) for line in state.splitlines() if line.startswith("VmRSS")))
        verdict = reading.verdict()
    assert verdict.frames == pytest.approx(48 * LONG_S * FPS, rel=0.01)
    assert len(peaks) == 6
    assert max(peaks) - peaks[0] < 50_000
