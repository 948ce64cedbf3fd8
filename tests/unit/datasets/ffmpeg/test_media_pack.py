"""More of media in and out: files that repeat bit for bit, sound that ends early, and what becomes of each file of the media pack."""

from pathlib import Path

import numpy as np
import pytest
from media_material import FPS, PACK, RATE, decibels, film, names, write_film

from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, Decoded, MediaError, decode, probe, write_media


def look(path: Path) -> Decoded:
    return decode(path, probe(path), DecodeConfig())


@pytest.mark.parametrize("suffix", ["mp4", "webm", "mkv"])
def test_the_same_film_is_the_same_file(tmp_path, suffix):
    first, again = (write_film(tmp_path / f"{name}.{suffix}") for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_sound_shorter_than_the_pictures_ends_in_silence(tmp_path):
    frames, audio = film()
    write_media(tmp_path / "short.mkv", frames, FPS, 20 * audio[: RATE // 2], RATE)
    found = look(tmp_path / "short.mkv")
    assert found.audio is not None
    assert len(found.audio) == len(audio)
    assert np.abs(found.audio[: RATE // 2]).max() > 0.1
    assert not found.audio[round(0.6 * RATE) :].any()
    assert any("silence follows" in note for note in found.notes)


def test_a_folder_of_that_name_is_not_written_over(tmp_path):
    frames, audio = film(0.2, None)
    (tmp_path / "taken.mp4").mkdir()
    with pytest.raises(MediaError, match="a folder has this name"):
        write_media(tmp_path / "taken.mp4", frames, FPS, audio, RATE)
    assert names(tmp_path) == ["taken.mp4"]


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
    "d17_corrupt_bytes.mp4": "damaged: in",
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
