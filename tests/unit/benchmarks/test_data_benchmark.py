"""`bench data` on files that are really decoded: the rows that are asked for, with their figures, and one that is none refused."""

from __future__ import annotations

import json

import pytest

from mutual_forcing.benchmarks import data


def test_a_row_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--rows: 'speed' is unknown; choose from decode, encode"):
        data.main(["--rows", "decode,speed"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_row_gives_the_figures_that_have_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["--quick", "--json", "--processes", "2"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert data.TARGETS.keys() <= found.keys()
    assert all(found[name] > 0 for name in data.TARGETS)
    assert 0.05 < found["vs_ffmpeg_encoded"] < 2, "of what ffmpeg alone does"
