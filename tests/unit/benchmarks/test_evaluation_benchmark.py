"""`bench evaluation`: every table has rows, and what is put in comes out."""

from __future__ import annotations

import pytest

from mutual_forcing.benchmarks import evaluation


def test_lags_and_own_voices_of_characters_are_found() -> None:
    sets = {"characters": evaluation.characters(4)}
    [row] = evaluation.lag(sets)
    assert (row["tried"], row["told"], row["beyond_a_frame"]) == (36, 36, 0)
    assert abs(row["bias_ms"]) < 10
    own, other = evaluation.sync(sets)
    assert own["sync_gap"] > 0.3 > abs(other["sync_gap"])


def test_a_floor_and_spoilt_clips_have_distances() -> None:
    [floor] = evaluation.floor((2,))
    assert floor["frechet_random_video"] > 0
    rows = {row["clips"]: row for row in evaluation.seen(2)}
    assert rows["sound backwards"]["frechet_random_video"] == pytest.approx(rows["as they are"]["frechet_random_video"])
    assert rows["frozen"]["motion"] == 0 < rows["as they are"]["motion"]
    assert rows["noise of 10 %"]["frechet_random_video"] > 5 * rows["as they are"]["frechet_random_video"]
