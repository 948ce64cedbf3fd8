"""Pictures and sound lie on the clock of the container to a millisecond, and an error of two would be seen."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mutual_forcing.benchmarks import clock
from mutual_forcing.benchmarks._clock_clips import BITS, FORMATS, VARIANTS, due_in, make_clip, pictures_of, read_numbers
from mutual_forcing.benchmarks.clock import CUTS, LONG_CUTS, LONG_FORMATS, LONG_SECONDS, SECONDS, Row, clock_rows, errors_ms
from mutual_forcing.datasets.ffmpeg.probe import probe


def check(rows: list[Row], made: int) -> None:
    assert [row for row in rows if not row.good] == []
    assert sum(not row.not_made for row in rows) == made


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_container_keeps_the_clock(tmp_path, form):
    check(list(clock_rows([form], [VARIANTS[1]], CUTS[1:2], 2.0, tmp_path)), 1)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_keeps_the_clock(tmp_path, variant):
    check(list(clock_rows([FORMATS[0]], [variant], (0.0,), SECONDS, tmp_path)), 1)


@pytest.mark.slow
def test_every_container_keeps_the_clock_in_every_variant_from_every_cut(tmp_path):
    rows = list(clock_rows(FORMATS, VARIANTS, CUTS, SECONDS, tmp_path))
    check(rows, (len(FORMATS) * len(VARIANTS) - 7) * len(CUTS))


@pytest.mark.slow
def test_a_film_that_is_entered_by_its_index_keeps_the_clock(tmp_path):
    long = [form for form in FORMATS if form.name in LONG_FORMATS]
    check(list(clock_rows(long, VARIANTS[:2], LONG_CUTS, LONG_SECONDS, tmp_path)), len(long) * 2 * len(LONG_CUTS))


def test_an_error_of_two_milliseconds_is_seen(tmp_path: Path):
    path = tmp_path / "clip.mp4"
    make_clip(path, FORMATS[0], VARIANTS[0], 2.0)
    due, found = due_in(path, FORMATS[0], VARIANTS[0], 2.0), probe(path)
    for shift in (-0.002, 0.002):
        later = replace(due, clicks=[time + shift for time in due.clicks])
        assert errors_ms(path, found, later, 0.0)[1] == pytest.approx(2, abs=0.1)
        later = replace(due, pictures=[due.pictures[0], *(time + shift for time in due.pictures[1:])])
        assert errors_ms(path, found, later, 0.0)[0] == pytest.approx(2, abs=0.6)
    assert errors_ms(path, found, replace(due, clicks=[time + 0.02 for time in due.clicks]), 0.0)[1] > 10


def test_a_number_is_read_as_it_was_drawn():
    frames = pictures_of(300)
    assert read_numbers(frames).tolist() == [n % 2**BITS for n in range(300)]
    torn = frames.copy()
    torn[:, :16, :16] = 128
    assert (read_numbers(torn) == -1).any()


def test_a_row_without_pictures_or_beyond_a_millisecond_is_not_good():
    good = Row("a", "b", 0.0, 0.9, 0.9, 3, 3)
    assert good.good
    assert not any(replace(good, **change).good for change in ({"picture_ms": 1.1}, {"sound_ms": 1.1}, {"pictures": 0}, {"clicks": 0}))
    assert not replace(good, sound_ms=float("nan")).good


def test_the_command_prints_its_table_and_says_what_it_could_not_make(monkeypatch, capsys):
    monkeypatch.setattr(clock, "QUICK_FORMATS", ("mp4 h264+aac", "none"))
    broken = replace(FORMATS[0], name="none", video=("-c:v", "no-such-encoder"))
    monkeypatch.setattr(clock, "FORMATS", (FORMATS[0], broken))
    assert clock.main(["--quick", "--json"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum("not made: this ffmpeg cannot make none" in line for line in said) == 2
    figures = json.loads(said[-1])
    assert figures["clips"] == 4
    assert figures["sound_ms"] < 1
