"""Many clips: a line of provenance each, nothing made twice, and a row that fails hurts no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from run_material import untrained_run

from mutual_forcing.datasets.places.lock import locked
from mutual_forcing.datasets.places.storage import sha256_file
from mutual_forcing.orchestration.generation import batch
from mutual_forcing.orchestration.generation.generating import generate_clip
from mutual_forcing.orchestration.generation.opened_model import open_model
from mutual_forcing.orchestration.generation.prompts import Wishes

SHORT = Wishes(seconds=0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    untrained_run(folder)
    return folder


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.fixture
def here(run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """A batch without Ray: the actor's work in this process."""

    def made(checkpoint: str, settings: Any, rows: Any, folder: Path, device: str, actors: int, marks: Any) -> Any:
        maker = batch.Maker(checkpoint, list(settings), str(folder), "cpu", marks)
        for row in rows:
            yield json.loads(maker({"row": json.dumps(row)})["line"])

    class NoRay:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(batch, "made", made)
    monkeypatch.setattr(batch, "ray_session", NoRay)
    return lambda prompts, out, settings=(): batch.generate_batch(str(run), str(prompts), str(out), SHORT, settings, "cpu")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / "provenance.jsonl").read_text().splitlines()]


def test_every_clip_has_a_line_and_none_is_made_twice(here: Callable[..., dict[str, Any]], run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prompts = written(tmp_path / "p.jsonl", {"id": "one", "seed": 1}, {"caption": "a voice", "transcript": "so it is"}, {"seconds": 1.0})
    first = here(prompts, out)
    assert {k: first[k] for k in ("clips", "made", "kept", "failed")} == {"clips": 3, "made": 3, "kept": 0, "failed": {}}
    made = lines(out)
    assert [line["id"] for line in made] == ["one", "000002", "000003"]
    assert [line["frames"] for line in made] == [13, 13, 25]
    assert made[1]["notes"] == ["--transcript: 3 words without times are spread evenly from 0 to 0.5 s"]
    assert {line["model"] for line in made} == {open_model(str(run), device="cpu").identity}
    assert all(line["sha256"] == sha256_file(out / line["file"]) for line in made)
    assert made[0]["sampler"] == {"mode": "few", "moves": 4, "few_sampler": "ode"}
    assert made[0]["evaluations_per_chunk"] == 4
    alone = generate_clip(str(run), str(tmp_path / "alone.mp4"), Wishes(seconds=0.5, seed=1), device="cpu")
    assert alone["sha256"] == made[0]["sha256"]
    again = here(prompts, out)
    assert (again["made"], again["kept"]) == (0, 3)
    (out / "one.mp4").write_bytes(b"damaged")
    (out / "000002.mp4").unlink()
    with (out / "provenance.jsonl").open("a") as file:
        file.write('{"id": "one", "sha2')  # a job was killed here
    mended = here(prompts, out)
    assert (mended["made"], mended["kept"]) == (2, 1)
    assert [(line["id"], line["sha256"]) for line in lines(out)] == [(line["id"], line["sha256"]) for line in made]
    other = written(tmp_path / "p.jsonl", {"id": "one", "seed": 2}, {"caption": "a voice", "transcript": "so it is"}, {"seconds": 1.0})
    assert here(other, out)["made"] == 1
    assert here(other, out, ["objective.few.sampler=renoise"])["made"] == 3


def test_a_row_that_fails_hurts_no_other(here: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    prompts = written(tmp_path / "p.jsonl", {"first_frame": "text.png"}, {"id": "good"})
    told = here(prompts, tmp_path / "out")
    assert (told["made"], list(told["failed"])) == (1, ["000001"])
    assert told["failed"]["000001"] == f"--first-frame={str(tmp_path / 'text.png')!r}: is none of PNG, JPEG, WEBP; convert it"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".lock", "good.mp4", "provenance.jsonl"]
    assert here(prompts, tmp_path / "out")["kept"] == 1, "the other one is tried again"


def test_a_clip_that_has_its_name_when_the_command_is_stopped_is_not_made_again(
    here: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows come to the driver later than clips get their names."""
    out, all_of = tmp_path / "out", batch.made
    prompts = written(tmp_path / "p.jsonl", *({"seed": n} for n in range(3)))

    def stopped(checkpoint: str, settings: Any, rows: Any, *rest: Any) -> Any:
        late = all_of(checkpoint, settings, rows, *rest)
        yield next(late)
        next(late)
        (out / ".0123456789abcdef.part.mp4").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(batch, "made", stopped)
        with pytest.raises(KeyboardInterrupt):
            here(prompts, out)
    assert [line["id"] for line in lines(out)] == ["000001", "000002"]
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == [".lock"]
    last = lines(out)[1]
    (out / "provenance.jsonl").write_text(json.dumps(lines(out)[0]))  # the driver was killed before it gathered the second
    (out / ".000002.line").write_text(json.dumps(last))
    (out / ".000003.line").write_text(json.dumps(last | {"id": "000003"}))  # of no clip that is there: it does not hold
    (out / ".0123456789abcdef.part.mp4").write_bytes(b"half")
    again = here(prompts, out)
    assert (again["made"], again["kept"]) == (1, 2)
    assert [line["id"] for line in lines(out)] == ["000001", "000002", "000003"]
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == [".lock"]


def test_one_batch_at_a_time_works_in_a_folder(here: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    prompts, out = written(tmp_path / "p.jsonl", {}), tmp_path / "out"
    out.mkdir()
    with locked("--out", out), pytest.raises(ValueError, match="is working in it; wait for its end"):
        here(prompts, out)
    assert [p.name for p in out.iterdir()] == [".lock"]


@pytest.mark.parametrize(("out", "told"), [("-", "--out=-: standard output takes one clip"), ("x.mp4", "give a folder, such as 'x'")])
def test_many_clips_need_a_folder(here: Callable[..., dict[str, Any]], tmp_path: Path, out: str, told: str) -> None:
    prompts = written(tmp_path / "p.jsonl", {})
    with chdir(tmp_path), pytest.raises(ValueError, match=told):
        here(prompts, out)
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


def test_a_line_tells_what_its_mode_applied(here: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    here(written(tmp_path / "p.jsonl", {"mode": "multi", "moves": 2, "guidance": 1.5}), tmp_path / "out")
    [line] = lines(tmp_path / "out")
    assert (line["sampler"], line["evaluations_per_chunk"]) == ({"mode": "multi", "moves": 2, "guidance": 1.5}, 4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "line 1: is not JSON"),
        ("[]", "line 1: is no object"),
        ('{"captoin": "a"}', "line 1: unknown field 'captoin'; did you mean 'caption'"),
        ('{"id": "../up"}', "line 1: id='../up': use letters"),
        ('{"id": 7}', "id='7'"),
        ('{"seconds": 0}', "line 1: --seconds=0: must be above 0"),
        ('{"seconds": "long"}', "line 1: seconds: "),
        ('{"transcript": "p.jsonl"}', "p.jsonl': is a file, and those that are read end in .json, .txt, .srt, .vtt"),
        ('{}\n{"caption": ""}', "line 2: --caption is empty"),
        ('{"id": "a"}\n{"id": "A"}', "id 'A' stands twice"),
        ("", "holds 0 prompts"),
    ],
)
def test_a_row_that_is_none_is_told_before_anything_is_made(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the text is looked at
        batch.read_prompts(tmp_path / "p.jsonl", SHORT)
    assert told in str(refused.value)


def test_a_word_that_is_also_the_name_of_a_file_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("no words")
    [row] = batch.read_prompts(written(tmp_path / "p.jsonl", {"transcript": "hello"}), SHORT)
    assert row["prompt"]["transcript"] == "hello"


def test_a_file_of_prompts_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe")
    for path, told in ((tmp_path / "gone", "must be a file"), (tmp_path / "p.jsonl", "is not UTF-8")):
        with pytest.raises(ValueError, match=told):
            batch.read_prompts(path, SHORT)


@pytest.mark.slow
def test_actors_make_them_through_ray_data(run: Path, ray_cluster: str, tmp_path: Path) -> None:
    rows = batch.read_prompts(written(tmp_path / "p.jsonl", *({"seed": n} for n in range(5))), SHORT)
    made = list(batch.made(str(run), [], rows, tmp_path, "cpu", 2))
    assert sorted(line["id"] for line in made) == [row["id"] for row in rows]
    assert all(line["sha256"] == sha256_file(tmp_path / line["file"]) for line in made)
    with pytest.raises(ValueError, match="the cluster has no GPU"):
        list(batch.made(str(run), [], rows, tmp_path, "cuda", 1))
