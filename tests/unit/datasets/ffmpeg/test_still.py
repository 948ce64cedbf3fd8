"""Pictures of strangers: told by their content, bounded, and fitted as frames of films are."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, MediaError, decode, probe, write_media
from mutual_forcing.datasets.ffmpeg.still import read_still


def gradient(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 200 // height, columns * 200 // width, 255 * (columns < width // 2)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_is_told_by_its_content(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "face.txt"
    Image.fromarray(gradient(64, 64)).save(path, kind)
    assert np.abs(read_still(path, 32, 32).astype(int) - gradient(32, 32)).mean() < 8


def test_a_picture_is_fitted_as_a_film_is(tmp_path: Path) -> None:
    """Of a wide one and of a high one the same part is seen, at the same size."""
    for height, width in ((96, 160), (160, 96)):
        picture = gradient(height, width)
        Image.fromarray(picture).save(tmp_path / "still.png")
        write_media(tmp_path / "film.mkv", np.repeat(picture[None], 24, axis=0), 24, None, 16000)
        film = decode(tmp_path / "film.mkv", probe(tmp_path / "film.mkv"), DecodeConfig(24, 48, 48, 16000)).frames[0]
        assert np.abs(read_still(tmp_path / "still.png", 48, 48).astype(int) - film).mean() < 3


def test_a_camera_that_was_turned_is_turned_back(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    Image.fromarray(np.rot90(gradient(64, 64)).copy()).save(tmp_path / "face.png", exif=exif)
    assert np.abs(read_still(tmp_path / "face.png", 64, 64).astype(int) - gradient(64, 64)).mean() < 2


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "1", "CMYK"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (20, 20)).save(tmp_path / f"face.{suffix}")
    assert read_still(tmp_path / f"face.{suffix}", 16, 16).shape == (16, 16, 3)


def test_what_is_transparent_is_black(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 255, 255, 0)).save(tmp_path / "face.png")
    assert read_still(tmp_path / "face.png", 8, 8).max() == 0


def claims(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    )


def test_what_is_no_fit_picture_is_refused_by_name(tmp_path: Path) -> None:
    png = tmp_path / "whole.png"
    Image.fromarray(gradient(64, 64)).save(png)
    bmp = tmp_path / "a.bmp"
    Image.fromarray(gradient(64, 64)).save(bmp)
    for name, content, told in (
        ("text.png", b"#EXTM3U\n/etc/passwd\n", "is none of PNG, JPEG, WEBP"),
        ("bitmap.png", bmp.read_bytes(), "is none of PNG, JPEG, WEBP"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is none of"),
        ("empty.png", b"", "the file is empty"),
        ("cut.png", png.read_bytes()[:150], "cannot be read as a picture"),
        ("wide.png", claims(60_000, 60_000), "pixels"),
        ("large.png", claims(5000, 5000), "has 5000x5000 pixels"),
        ("long.png", claims(100_000, 1), "has 100000x1 pixels"),
        ("liar.png", claims(2000, 2000), "cannot be read as a picture"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=f"{name}: .*{told}"):
            read_still(tmp_path / name, 64, 64)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(MediaError, match="not a regular file"):
        read_still(tmp_path / "pipe.png", 64, 64)
    with pytest.raises(MediaError, match="cannot be opened"):
        read_still(tmp_path / "gone.png", 64, 64)
