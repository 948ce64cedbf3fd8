"""A generated file says that it is, in every way that was asked for, and `detect` hears it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from certificates import write_chain
from run_material import untrained_run
from typer.testing import CliRunner

from mutual_forcing.datasets.ffmpeg.ffmpeg_program import ffmpeg_path
from mutual_forcing.datasets.ffmpeg.media import write_media
from mutual_forcing.orchestration.main import app


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    untrained_run(folder)
    return folder


def said(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_everything_that_was_asked_for_is_heard(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("c2pa")
    chain, key = write_chain(tmp_path)
    clip = tmp_path / "out" / "clip.mp4"
    signing = ("--c2pa-chain", str(chain), "--c2pa-key", str(key))
    made = said("generate", str(run), "--out", str(clip), "--seconds", "6", "--device", "cpu", "--watermark", *signing, "--json")
    assert [p.name for p in clip.parent.iterdir()] == ["clip.mp4"]
    told = json.loads(said("detect", str(clip), "--json"))
    assert told["generated"]
    assert json.loads(made)["model"] in told["tag"]
    assert told["watermark"]["sound"]["found"]  # cells of these tiny pictures are too small for the encoder
    assert (told["credentials"]["state"], told["credentials"]["generated"]) == ("Valid", True)
    again = tmp_path / "again.mp4"
    subprocess.run([ffmpeg_path(), "-v", "error", "-i", str(clip), "-map_metadata", "-1", "-crf", "20", str(again)], check=True)
    stripped = json.loads(said("detect", str(again), "--json"))
    assert stripped["generated"], "by its watermark alone"
    assert (stripped["tag"], stripped["credentials"]) == (None, None)
    assert not json.loads(said("detect", str(again), "--watermark-key", "other", "--json"))["generated"]
    assert "watermark in sound" in said("detect", str(again))


def test_a_film_that_says_nothing_is_not_called_generated(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    write_media(tmp_path / "film.mp4", noise.integers(0, 255, (60, 32, 32, 3), np.uint8), 24, noise.standard_normal(40000) * 0.1, 16000)
    told = json.loads(said("detect", str(tmp_path / "film.mp4"), "--json"))
    assert (told["generated"], told["tag"], told["credentials"]) == (False, None, None)


def test_what_cannot_be_marked_is_refused_first(run: Path, tmp_path: Path) -> None:
    chain, key = write_chain(tmp_path)
    words = ("generate", str(run), "--device", "cpu", "--out")
    assert "give both or neither" in said(*words, str(tmp_path / "a.mp4"), "--c2pa-chain", str(chain), code=1)
    signing = ("--c2pa-chain", str(chain), "--c2pa-key", str(key))
    assert "signed into .mp4 files" in said(*words, str(tmp_path / "a.webm"), *signing, code=1)
    assert "cannot be opened" in said("detect", str(tmp_path / "gone.mp4"), code=1)
