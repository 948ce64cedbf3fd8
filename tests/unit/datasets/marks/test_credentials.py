"""Content Credentials: what is signed is read back, what was changed afterwards is not valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from certificates import write_chain

from mutual_forcing.datasets.ffmpeg.media import decode, probe, write_media
from mutual_forcing.datasets.ffmpeg.media_stream import Format, MediaStream
from mutual_forcing.datasets.marks.credentials import Signer, check_signer, read_credentials, sign
from mutual_forcing.datasets.marks.tags import read_tags

pytest.importorskip("c2pa")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(*write_chain(tmp_path_factory.mktemp("keys")))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), np.uint8)
    write_media(tmp_path / "clip.mp4", frames, 24, np.zeros(16000), 16000, {"comment": "a; b=c\\d\nnext é"})
    return tmp_path / "clip.mp4"


def test_what_is_signed_is_read_back(signer: Signer, clip: Path) -> None:
    from mutual_forcing.datasets.ffmpeg.film_command import DecodeConfig

    done = clip.with_name("signed.mp4")
    sign(clip, done, check_signer(signer), "0.1", {"model_sha256": "ab" * 32})
    found = read_credentials(done)
    assert found is not None
    assert (found.state, found.generator, found.generated, found.signed_by, found.problems) == (
        "Valid",
        "mutual-forcing 0.1",
        True,
        "A Test",
        (),
    )
    assert b"ab" * 32 in done.read_bytes()
    config = DecodeConfig(24, 32, 32, 16000)
    assert np.array_equal(decode(done, probe(done), config).frames, decode(clip, probe(clip), config).frames)
    assert read_tags(done) == read_tags(clip)
    assert sorted(p.name for p in clip.parent.iterdir()) == ["clip.mp4", "signed.mp4"]


def test_what_was_changed_afterwards_is_not_valid(signer: Signer, clip: Path) -> None:
    done = clip.with_name("signed.mp4")
    sign(clip, done, check_signer(signer), "0.1", {})
    content = bytearray(done.read_bytes())
    content[-100] ^= 1
    done.write_bytes(content)
    found = read_credentials(done)
    assert found is not None
    assert found.state == "Invalid"
    assert found.problems == ("assertion.bmffHash.mismatch",)


def test_what_has_none_has_none(clip: Path, tmp_path: Path) -> None:
    assert read_credentials(clip) is None
    (tmp_path / "text.mp4").write_text("no film")
    assert read_credentials(tmp_path / "text.mp4") is None or read_credentials(tmp_path / "text.mp4").state == "Invalid"  # pyright: ignore[reportOptionalMemberAccess]
    assert read_credentials(tmp_path / "clip.webm") is None


def test_what_cannot_sign_is_refused(signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no key")
    for chain, key, told in (
        (signer.chain, tmp_path / "text.pem", "is no private key in PEM without a password"),
        (signer.chain, signer.chain, "is no private key in PEM"),
        (tmp_path / "text.pem", signer.key, "cannot sign with it"),
        (tmp_path / "gone.pem", signer.key, "must be a PEM file"),
    ):
        with pytest.raises(ValueError, match=told):
            check_signer(Signer(chain, key))


def test_tags_come_back_as_they_were_written(clip: Path, tmp_path: Path) -> None:
    assert read_tags(clip)["comment"] == "a; b=c\\d\nnext é"
    for name in ("clip.mkv", "clip.webm"):
        with MediaStream(tmp_path / name, Format(32, 32, 24, 16000, {"comment": "x=y"})) as out:
            out.push(np.zeros((12, 32, 32, 3), np.uint8), np.zeros(8000, np.float32))
        assert read_tags(tmp_path / name)["comment"] == "x=y"
