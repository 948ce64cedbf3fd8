"""Data at scale, counted instead of timed: twice as many sources take twice as many calls and bytes, and no more memory for their clips."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mutual_forcing.benchmarks import scale
from mutual_forcing.benchmarks._scale_corpus import MIX, Mix, config_of, write_files
from mutual_forcing.benchmarks._scale_listing import listing_seconds
from mutual_forcing.benchmarks._scale_steps import run_steps
from mutual_forcing.datasets.ffmpeg.ffmpeg_program import MediaError
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.preparing.look import Look

SIZES = (100, 200, 400)


class Calls:
    """A clock that is read at the beginning and at the end of a step, and counts the functions that this thread calls meanwhile."""

    def __init__(self) -> None:
        self._count, self._running = 0, False

    def __call__(self) -> float:
        self._running = not self._running
        sys.setprofile(self._called if self._running else None)
        return float(self._count)

    def _called(self, frame: Any, event: str, arg: Any) -> None:
        self._count += event in ("call", "c_call")


def test_no_step_grows_faster_than_its_sources(tmp_path: Path) -> None:
    found, sizes = list[dict[str, float]](), list[int]()
    for count in SIZES:
        found.append(run_steps(count, tmp_path / str(count), Calls()))
        sizes.append(sum(path.stat().st_size for path in (tmp_path / str(count) / "out").iterdir() if path.is_file()))
    exponents = {step: scale.exponent(SIZES, [f[step] for f in found]) for step in found[0]}
    assert {step: slope for step, slope in exponents.items() if slope > 1.1} == {}
    assert found[-1]["write account"] > SIZES[-1], "calls were counted"
    assert scale.exponent(SIZES, sizes) < 1.05, "bytes of the dataset"


def test_the_exponent_is_that_of_the_law() -> None:
    for law in (0.5, 1.0, 2.0):
        assert scale.exponent((100, 400, 1600), [3e-4 * n**law for n in (100, 400, 1600)]) == pytest.approx(law)


def test_files_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    write_files(tmp_path / "media", 950, 100, Mix(5, 3))
    sources = sources_of([str(tmp_path / "media")])
    assert len(sources) == 100
    assert len({source.path.split("/")[-2] for source in sources}) == 2
    look = Look(config_of(tmp_path / "media"))
    found = {source.name: look.look(source) for source in sources if source.size}
    used = [looked for looked in found.values() if not looked.reason]
    assert (len(found), len(used)) == (8, 5)
    assert len({looked.content for looked in used}) == len(used), "each has a content of its own"
    assert {looked.stage for looked in found.values() if looked.reason} == {MediaError("probe", "a", "b").stage}


def test_the_server_lists_as_s3_does() -> None:
    page_by_page, ranges = listing_seconds(1500)
    assert min(page_by_page, ranges) > 0.1


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="--rows: 'speed' is unknown; choose from job, steps, listing"):
        scale.main(["--rows", "speed"])
    with pytest.raises(ValueError, match="--entries=10: fewer than 1000"):
        scale.main(["--entries", "10"])


@pytest.mark.slow
def test_ten_thousand_entries(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--entries", "10000", "--rows", "job,steps", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["clips"] == 10_000 * MIX.films // 100
    assert found["driver_growth"] < 1.25
    assert found["worst_exponent"] < 1.4, found["worst_step"]
    assert len(found["entries_a_second_by_fifth"]) == 5
