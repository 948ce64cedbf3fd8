"""The benchmark of streaming runs from a prompt to bytes, and refuses what it cannot measure."""

from __future__ import annotations

import json

import pytest

from mutual_forcing.benchmarks import stream


@pytest.mark.slow
def test_ten_seconds_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert stream.main(["--quick", "--seconds", "10", "--json", "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures.keys() >= {"time_to_first_chunk_s", "fps", "realtime_factor", "jitter_p99_ms", "rss_growth_mb"}
    assert 0 < figures["time_to_first_chunk_s"] < figures["time_to_first_fragment_s"] < 60
    assert figures["realtime_factor"] == pytest.approx(figures["fps"] / 24, rel=0.01)
    assert figures["kbit_per_s"] > 10


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seconds", "5"], "--seconds=5: from 10 to 14400"),
        (["--only", "smell"], "--only='smell': choose from alone"),
        (["--device", "tpu"], "--device='tpu': there is none here"),
        (["--checkpoint", "/nowhere"], "checkpoint '/nowhere': is no folder"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        stream.main(arguments)
