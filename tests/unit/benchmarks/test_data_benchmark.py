"""The benchmark of decoding: ours and ffmpeg alone do the same work, and it says how much of it."""

import json
import subprocess

import pytest

from mutual_forcing.benchmarks import data
from mutual_forcing.benchmarks._data_decode import decode_ratio, null_command
from mutual_forcing.datasets.media import DecodeConfig, decode
from mutual_forcing.datasets.probe import probe


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return data.files_of(tmp_path_factory.mktemp("none") / "absent", tmp_path_factory.mktemp("made"))


def test_ffmpeg_alone_makes_as_many_frames_with_the_same_filters(clips):
    path, config = clips["short"][0], DecodeConfig(height=32, width=32)
    command = null_command(path, probe(path), config)
    told = subprocess.run([*command, "-progress", "pipe:1"], capture_output=True, text=True, check=True)
    frames = [int(line.split("=")[1]) for line in told.stdout.splitlines() if line.startswith("frame=")]
    assert frames[-1] == len(decode(path, probe(path), config).frames) == 72


def test_a_ratio_is_of_times_that_were_measured(clips):
    ratio = decode_ratio(clips["short"][:1], DecodeConfig(height=32, width=32), 1, 1)
    assert 0.1 < ratio.of_ffmpeg < 3
    assert 0.1 < ratio.of_ffmpeg_cpu < 3
    assert 0 < ratio.probe_share < 1
    assert 0 < ratio.seconds < 10


def test_the_command_prints_one_object(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "QUICK", 1)
    assert (
        data.main(["--quick", "--json", "--media", str(tmp_path / "absent"), "--size", "32x32", "--processes", "1", "--rounds", "1"]) == 0
    )
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["vs_ffmpeg"] > 0
    assert figures["vs_ffmpeg_short"] > 0


@pytest.mark.parametrize("option", ["--size=big", "--size=0x8", "--processes=0", "--rounds=0"])
def test_an_option_that_is_none_is_refused(option):
    with pytest.raises(ValueError, match=option.partition("=")[0]):
        data.main([option])
