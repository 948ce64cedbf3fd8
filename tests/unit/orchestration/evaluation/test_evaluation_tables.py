"""The tables of `evaluate` on a terminal: all runs beside each other, and apart from that what is decided between them."""

from __future__ import annotations

from rich.console import Console

from mutual_forcing.orchestration.evaluation.command import reasons, tables
from mutual_forcing.orchestration.evaluation.page import answers
from mutual_forcing.orchestration.evaluation.result import Evaluation, Judged
from mutual_forcing.workers.evaluation.clip import About
from mutual_forcing.workers.evaluation.figures import Figure
from mutual_forcing.workers.evaluation.gathering import Window
from mutual_forcing.workers.evaluation.intervals import Estimate

SYNC, DRIFT = About("sync_gap", "", True, "test 1"), About("drift", "", False, "test 1")
WINDOWS = (Window(0.0, 5.0), Window(5.0, 15.0))
NOISE = (0.001, -0.002, 0.003, -0.001, 0.0, 0.002)


def figure(about: About, mean: float, noise: float = 1.0) -> Figure:
    values = tuple(mean + noise * n for n in NOISE)
    return Figure(about, Estimate(sum(values) / len(values), mean - 0.01, mean + 0.01), len(values), values=values)


def evaluation(**sync: float) -> Evaluation:
    runs = [
        Judged(name, {}, {w: {"sync_gap": figure(SYNC, mean, 1 + 9 * i), "drift": figure(DRIFT, 5.0)} for i, w in enumerate(WINDOWS)})
        for name, mean in sync.items()
    ]
    return Evaluation({}, [SYNC, DRIFT], {"sync_gap": figure(SYNC, 0.5), "drift": figure(DRIFT, 4.0)}, runs, [])


def printed(found: Evaluation) -> list[str]:
    console = Console(width=80, record=True, quiet=False, file=None)
    with console.capture() as capture:
        for table in tables(found):
            console.print(table)
    return capture.get().splitlines()


def test_runs_stand_beside_each_other_and_what_is_decided_below() -> None:
    lines = printed(evaluation(first=0.1, better=0.3, same=0.1, worse=0.05))
    assert [line.strip() for line in lines if "minus" in line or line.strip() in ("0-5 s", "5-15 s")] == [
        "0-5 s",
        "5-15 s",
        "minus first, where the interval excludes 0",
    ]
    decided = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in lines[lines.index(next(x for x in lines if "minus" in x)) :]
    ]
    told = [(cells[0], cells[1], cells[2], cells[3].split()[-1]) for cells in decided if len(cells) == 4]
    assert told == [(run, w, "sync_gap", run) for run in ("better", "worse") for w in ("0-5 s", "5-15 s")]
    assert not any("…" in line for line in lines), "nothing is cut at 80 columns"


def test_where_nothing_is_decided_nothing_is_told() -> None:
    assert len(tables(evaluation(first=0.1, same=0.1))) == len(WINDOWS)


def test_one_run_has_its_windows_side_by_side() -> None:
    (table,) = tables(evaluation(one=0.1))
    assert [str(column.header) for column in table.columns] == ["figure", "real", "0-5 s", "5-15 s", "last - first"]


def test_the_first_answer_is_of_the_first_window_that_has_one() -> None:
    short, long = WINDOWS
    none = Figure(SYNC, None, 0, "too short")
    run = Judged("one", {}, {short: {"sync_gap": none}, long: {"sync_gap": figure(SYNC, 0.2)}})
    [sync] = answers(Evaluation({}, [SYNC], {"sync_gap": figure(SYNC, 0.5)}, [run], []))
    assert sync.value == "0.201"
    assert sync.detail.endswith(", 5-15 s; real clips 0.501")
    [unknown] = answers(Evaluation({}, [SYNC], {}, [Judged("one", {}, {w: {"sync_gap": none} for w in WINDOWS})], []))
    assert (unknown.value, unknown.detail) == ("not known", "too short")


def test_why_real_clips_have_no_figure_is_told_too() -> None:
    none = Figure(DRIFT, None, 0, "no face")
    found = evaluation(one=0.1)
    assert reasons(found) == []
    assert reasons(Evaluation({}, [DRIFT], {"drift": none, "sync_gap": none}, found.runs, [])) == ["drift, sync_gap: real: no face"]
