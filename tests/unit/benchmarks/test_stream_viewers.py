"""The measurement of several viewers: a row each, of real streams."""

from __future__ import annotations

import torch

from mutual_forcing.benchmarks._stream_viewers import viewers
from mutual_forcing.benchmarks.stream import random_model


def test_a_row_for_each_number_of_viewers() -> None:
    torch.set_num_threads(1)
    rows = viewers(random_model("cpu"), 1.0, "few", 1, counts=(1, 2))["viewers"]
    assert [(row["viewers"], row["together"]) for row in rows] == [(1, True), (2, True), (1, False), (2, False)]
    for row in rows:
        assert row["fps"] > 0
        assert row["realtime_factor"] > 0
        assert 0 < row["time_to_first_chunk_s"] < 60
