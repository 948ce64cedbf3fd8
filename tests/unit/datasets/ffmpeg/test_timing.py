"""What is found on a source's clock, against material of which it is known, and as a function of rows."""

import math
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_material import PACK

from mutual_forcing.datasets.ffmpeg.ffmpeg_child import Overrun
from mutual_forcing.datasets.ffmpeg.ffmpeg_program import ffmpeg_path
from mutual_forcing.datasets.ffmpeg.film import open_film
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig
from mutual_forcing.datasets.ffmpeg.probe import probe
from mutual_forcing.datasets.ffmpeg.timing import PictureTimes, SoundTimes, Table, Timing, timing_of

H264 = ("-c:v", "libx264", "-preset", "ultrafast")
PICTURES = ("-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=4")


def made(path: Path, *arguments: str, sound: str = "anull", late_s: float = 0.0) -> Path:
    inputs = (*PICTURES, "-itsoffset", str(late_s), "-f", "lavfi", "-i", f"sine=f=300:r=48000:d=4,{sound}")
    subprocess.run([ffmpeg_path(), "-nostdin", "-v", "error", "-y", *inputs, *arguments, f"file:{path}"], check=True, timeout=60)
    return path


def timing(path: Path, config: DecodeConfig | None = None) -> Timing:
    config = config or DecodeConfig()
    with open_film(path, probe(path), config) as film:
        while film.read(film._at, 48):
            pass
        return film.verdict().timing


@pytest.mark.parametrize(
    ("suffix", "arguments", "priming_ms"),
    [
        ("mp4", (*H264, "-c:a", "aac"), 1024 / 48),  # an edit list
        ("webm", ("-c:v", "libvpx", "-c:a", "libopus"), 6.5),  # CodecDelay: 312 samples
        ("mkv", (*H264, "-c:a", "libopus"), 6.5),
        ("mkv", (*H264, "-c:a", "libmp3lame"), 1105 / 48),  # the encoder's and the decoder's delay
        ("mkv", (*H264, "-c:a", "flac"), 0),
        ("avi", ("-c:v", "mpeg4", "-c:a", "libmp3lame"), 0),  # AVI cannot say how much it was
        ("ts", (*H264, "-c:a", "aac"), 0),  # nor can MPEG-TS: the sound begins that much earlier
    ],
)
def test_priming_is_known_where_the_container_tells(tmp_path, suffix, arguments, priming_ms):
    found = timing(made(tmp_path / f"a.{suffix}", *arguments))
    assert found.priming_ms == pytest.approx(priming_ms, abs=1.0 if suffix in ("mkv", "webm") else 0.05)
    if suffix != "avi":  # whose writer leaves a place free after the first picture
        assert found.source_fps == pytest.approx(25, rel=1e-3)
        assert not found.rate_varies
        assert found.picture_gap_ms == pytest.approx(40, abs=1)
    assert abs(found.drift_ms) < 1.5
    assert (found.sound_gaps, found.sound_gap_ms) == (0, 0)


@pytest.mark.parametrize(
    ("suffix", "codec", "late_ms"), [("mp4", "aac", 120), ("mkv", "libopus", 120), ("mkv", "flac", 80), ("ts", "mp2", 120)]
)
def test_the_offset_of_the_sound_is_the_containers(tmp_path, suffix, codec, late_ms):
    path = made(tmp_path / f"a.{suffix}", *H264, "-c:a", codec, late_s=late_ms / 1000)
    priming_ms = {"libopus": 6.5, "aac": 1024 / 48, "flac": 0, "mp2": 481 / 48}[codec]  # where it is not taken away, sound begins with it
    assert late_ms - priming_ms - 1 <= timing(path).av_offset_ms <= late_ms + 1


@pytest.mark.parametrize("codec", ["flac", "libopus"])
def test_gaps_in_the_sound_are_counted(tmp_path, codec):
    path = made(tmp_path / "gap.mkv", *H264, "-c:a", codec, sound="aselect='not(between(t,1,1.3)+between(t,2,2.5))'")
    found = timing(path)
    assert found.sound_gaps == 2
    assert found.sound_gap_ms == pytest.approx(800, abs=90)  # whole frames of 1024 samples and of the codec
    assert abs(found.drift_ms) < 21


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("faster", [0.999, 1.002])
def test_drift_is_what_samples_last_longer_than_they_claim(tmp_path, suffix, faster):
    path = made(tmp_path / f"drift.{suffix}", *H264, "-c:a", "aac" if suffix == "mp4" else "flac", sound=f"asetpts=PTS*{faster}")
    assert timing(path).drift_ms == pytest.approx(4000 * (1 - faster), abs=1.6)


def test_a_rate_that_varies_and_the_largest_gap_are_seen(tmp_path):
    path = made(tmp_path / "vfr.mkv", *H264, "-c:a", "flac", "-vf", "select='not(between(n,30,40))'", "-fps_mode", "vfr")
    found = timing(path)
    assert found.rate_varies
    assert found.picture_gap_ms == pytest.approx(12 * 40, abs=1)
    assert found.source_fps == pytest.approx(88 / (99 / 25), rel=1e-3)


def test_a_stream_that_starts_late_has_no_offset_of_its_own(tmp_path):
    path = made(tmp_path / "late.ts", *H264, "-c:a", "mp2", "-output_ts_offset", "7")
    assert probe(path).zero_s > 7
    assert timing(path).av_offset_ms == pytest.approx(-481 / 48, abs=0.1)  # the encoder's priming


def test_a_part_has_the_timing_of_its_part(tmp_path):
    path = made(tmp_path / "gap.mkv", *H264, "-c:a", "flac", sound="aselect='not(between(t,1,1.3))'")
    with open_film(path, probe(path), DecodeConfig(), start_s=2.0, end_s=3.0) as film:
        while film.read(film._at, 24):
            pass
        assert film.verdict().timing.sound_gaps == 0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(0, 2**32))
def test_pictures_stored_out_of_order_have_the_intervals_in_which_they_are_shown(intervals, seed):
    shown = [0]
    for interval in intervals:
        shown.append(shown[-1] + interval)
    stored, dice = list(shown), random.Random(seed)
    for begin in range(0, len(stored), 8):  # as far apart as a decoder allows
        group = stored[begin : begin + 8]
        dice.shuffle(group)
        stored[begin : begin + 8] = group
    times = PictureTimes(100.0)
    for tick in stored:
        times.add(tick, 1)
    times.close()
    assert (times.smallest_s, times.largest_s) == (min(intervals), max(intervals))
    assert times.fps == pytest.approx(len(intervals) / sum(intervals))


@given(st.lists(st.tuples(st.sampled_from([0, 0, 0, 0.3, 2.0]), st.integers(-3, 3)), max_size=40))
def test_gaps_and_drift_of_sound_add_up(steps):
    times, due, drift, gaps = SoundTimes(10.0), 5.0, 0.0, []
    times.add(due, 0.02)
    for gap, late in steps:
        start = due + 0.02 + gap + (late / 1000 if not gap else 0)
        gaps, drift = ([*gaps, gap], drift) if gap else (gaps, drift - late / 1000)
        times.add(start, 0.02)
        due = start
    assert times.gaps == len(gaps)
    assert times.gap_s == pytest.approx(sum(gaps), abs=1e-9)
    assert times.drift_s == pytest.approx(drift, abs=1e-9)


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_are_a_table_or_refused(data, piece):
    sink = Table(PictureTimes(10.0))
    try:
        for begin in range(0, len(data), piece):
            part = data[begin : begin + piece]
            sink.room()[: len(part)] = part
            sink.took(len(part))
        sink.close()
    except Overrun:
        pass


def test_a_line_without_an_end_is_no_table():
    sink = Table(PictureTimes(10.0))
    sink.room()[:] = b"0," * (len(sink.room()) // 2)
    with pytest.raises(Overrun, match="no table"):
        sink.took(len(sink.room()))


def test_without_rows_nothing_is_claimed():
    assert math.isnan(timing_of(0.0, None, None, None).priming_ms)
    assert replace(timing_of(0.0, 0.0, PictureTimes(1.0), SoundTimes(1.0)), priming_ms=0.0) == Timing()


@pytest.mark.skipif(not PACK.is_dir(), reason="the optional folder ../shared/media is not beside the checkout")
def test_the_pack_is_what_its_manifest_says():
    assert timing(PACK / "d07_vfr.mp4").rate_varies
    assert timing(PACK / "d04_audio_plus120ms.mov").av_offset_ms == pytest.approx(96.009, abs=0.01)
    assert timing(PACK / "d21_60fps.mp4").source_fps == pytest.approx(60, rel=1e-3)
