"""What came from other machines stands in the run folder as if it had been written there."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.orchestration.away import pieces
from mutual_forcing.orchestration.away.pieces import Piece, news
from mutual_forcing.orchestration.away.received import Received, go_on
from mutual_forcing.workers.metrics import MetricSpool


def carry(folder: Path, to: Received, room: int = pieces.ROOM) -> None:
    while found := news(folder, to.have("there"), room=room):
        for piece in found:
            to.take("there", piece)


def steps(run_dir: Path, stage: str = "joint") -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / "metrics" / f"{stage}.jsonl").read_text().splitlines()]


@settings(max_examples=30, deadline=None)
@given(
    attempts=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 8), st.integers(0, 3)), min_size=1, max_size=4),
    room=st.integers(200, 2000),
)
def test_metrics_are_those_of_one_folder_that_all_share(attempts: list[tuple[int, int, int]], room: int) -> None:
    """Attempts on other machines, each going on from a step that was reached: after each the spool is the same to the byte, but times."""
    with tempfile.TemporaryDirectory() as name:
        shared, apart, end = Path(name, "shared"), Path(name, "apart"), 0
        for i, (back, count, between) in enumerate(attempts):
            first = max(0, end - back)
            here, there = MetricSpool(shared, "joint", first), MetricSpool(Path(name, f"{i}/metrics"), "joint", first)
            received = Received(apart, lambda text: pytest.fail(text))
            for spool in (here, there):
                spool.note(first, f"attempt {i}")
            for step in range(first, first + count):
                for spool in (here, there):
                    spool.write(step, {"loss": i + step / 10})
                if between and step % between == 0:
                    carry(Path(name, str(i)), received, room=room)
            end = first + count
            carry(Path(name, str(i)), received, room=room)
            for closing in (here, there, received):
                closing.close()

            def told(path: Path) -> list[dict]:
                return [json.loads(line) | {"time": 0} for line in path.read_text().splitlines()]

            assert told(apart / "metrics" / "joint.jsonl") == told(shared / "joint.jsonl")


def test_logs_of_all_attempts_stand_one_after_the_other_and_have_a_bound(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for attempt in range(5):
        received = Received(run, pytest.fail)
        folder = tmp_path / str(attempt)
        (folder / "logs").mkdir(parents=True)
        (folder / "logs" / "rank-00000.jsonl").write_text("".join(f"{attempt} {i} {'x' * 20_000}\n" for i in range(100)))
        carry(folder, received)
        received.close()
    files = [run / "logs" / f"rank-00000.jsonl{end}" for end in (".2", ".1", "")]
    assert sorted(run.glob("logs/*")) == sorted(files)
    heads = [line[:5].split()[:2] for file in files for line in file.read_text().splitlines()]
    assert heads == [[str(attempt), str(i)] for attempt in range(5) for i in range(100)]


def test_a_file_has_its_name_when_all_of_it_is_there(tmp_path: Path) -> None:
    name, data = "bad-steps/joint-3-rank1.safetensors", bytes(range(256)) * 4
    folder, received = tmp_path / "there", Received(tmp_path / "run", pytest.fail)
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(data)
    while found := news(folder, received.have("there"), room=100):
        (piece,) = found
        received.take("there", piece)
        whole = piece.start + len(piece.data) == len(data)
        assert (tmp_path / "run" / name).exists() == whole
    assert (tmp_path / "run" / name).read_bytes() == data
    assert [path.name for path in (tmp_path / "run" / "bad-steps").iterdir()] == [Path(name).name]


def test_nothing_is_left_of_a_file_that_did_not_come_to_its_end(tmp_path: Path) -> None:
    name, received = "bad-steps/joint-3-rank1.safetensors", Received(tmp_path / "run", pytest.fail)
    received.take("there", Piece(name, 1, 0, b"first", 100))
    assert len(list((tmp_path / "run" / "bad-steps").iterdir())) == 1
    received.close()
    assert not list((tmp_path / "run" / "bad-steps").iterdir())


@pytest.mark.parametrize("name", ["../run.json", "metrics/../../x", "checkpoints/one", "/etc/passwd", "stacks/.hidden", "logs/a/b", ""])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    said: list[str] = []
    received = Received(tmp_path / "run", said.append)
    received.take("there", Piece(name, 1, 0, b"x", 1))
    received.take("there", Piece(name, 1, 1, b"x", 2))
    assert said == [f"{name!r} stays on machine there (no run folder has a file of that name)"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", [b"no line\n", b"[]\n", b'{"step": "x"}\n', b'{"stage": 1}\n'])
def test_metrics_that_are_none_are_told_once_and_harm_nothing(tmp_path: Path, line: bytes) -> None:
    said: list[str] = []
    received = Received(tmp_path / "run", said.append)
    MetricSpool(tmp_path / "run" / "metrics", "joint").write(0, {"loss": 1.0})
    for start in (0, len(line)):
        received.take("there", Piece("metrics/joint.jsonl", 1, start, line, len(line)))
    (text,) = said
    assert "'metrics/joint.jsonl' stays on machine there" in text
    assert received.left("there") == ["metrics/joint.jsonl"]
    assert steps(tmp_path / "run") == [0]


def test_what_is_too_large_or_has_no_room_is_told_and_the_rest_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LARGEST", 100)
    said: list[str] = []
    folder, run = tmp_path / "there", tmp_path / "run"
    received = Received(run, said.append)
    for name, size in (("bad-steps/a.safetensors", 101), ("stacks/rank-0.txt", 50), ("profile/joint-rank0.json.gz", 50)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(bytes(size))
    run.mkdir()
    (run / "stacks").write_text("a file where the folder should be")
    carry(folder, received)
    assert sorted(received.left("there")) == ["bad-steps/a.safetensors", "stacks/rank-0.txt"]
    assert len(said) == 2
    assert (run / "profile" / "joint-rank0.json.gz").stat().st_size == 50


@pytest.mark.parametrize("fetched", [1, 3, 7])
def test_what_a_killed_driver_had_not_fetched_is_added(tmp_path: Path, fetched: int) -> None:
    """An attempt from step 2 on, of which the run folder has some; once more it changes nothing."""
    run, there = tmp_path / "run" / "metrics" / "joint.jsonl", MetricSpool(tmp_path / "there", "joint", 2)
    before = MetricSpool(run.parent, "joint")
    for step in range(2):
        before.write(step, {"loss": 1.0})
    before.close()
    there.note(2, "goes on")
    for step in range(2, 8):
        there.write(step, {"loss": 2.0})
    there.close()
    data = (tmp_path / "there" / "joint.jsonl").read_bytes()
    with run.open("ab") as file:
        file.write(b"".join(data.splitlines(keepends=True)[:fetched]))
    for _ in range(2):
        go_on(run, data)
        assert run.read_bytes().endswith(data)
        assert steps(tmp_path / "run") == [0, 1, 2, *range(2, 8)]


def test_an_attempt_that_another_has_followed_is_left_alone(tmp_path: Path) -> None:
    spool = MetricSpool(tmp_path / "metrics", "joint")
    for step in range(4):
        spool.write(step, {"loss": 1.0})
    spool.close()
    path = tmp_path / "metrics" / "joint.jsonl"
    before = path.read_bytes()
    go_on(path, b'{"stage": "joint", "step": 1, "time": 0, "metrics": {"loss": 9.0}}\n')
    assert path.read_bytes() == before
    go_on(tmp_path / "metrics" / "other.jsonl", before)
    assert [file.name for file in path.parent.iterdir()] == ["joint.jsonl"]


def test_a_disk_without_room_costs_a_log_and_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    received = Received(tmp_path, said.append)
    (tmp_path / "logs" / "rank-00000.jsonl").mkdir(parents=True)  # stands for a file that cannot be written to
    for start in (0, 5):
        received.take("there", Piece("logs/rank-00000.jsonl", 1, start, b"line\n", start + 5))
    (text,) = said
    assert "'logs/rank-00000.jsonl' stays on machine there (" in text
