"""The command line: help with examples that parse, and failures of one line that name the field, the value and the remedy."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from command_material import Said, command
from rich.text import Text
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from mutual_forcing.datasets.places.storage import write_json
from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.data.commands import milliseconds
from mutual_forcing.orchestration.launch import command_line
from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.recipes import recipe


def verbs(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb of the command line with the words that lead to it."""
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from verbs(inner, (*words, name))
    else:
        yield words, command


VERBS = dict(verbs(get_command(app)))


def say(*words: str) -> Said:
    """Run in this process: for what fails before any work begins."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    finally:
        signal.signal(signal.SIGTERM, handler)
    return Said(result.exit_code, result.stdout, result.stderr)


def test_help_names_every_benchmark() -> None:
    made = {path.stem for path in (Path(__file__).resolve().parents[3] / "benchmarks").glob("[a-z]*.py")}
    words = " ".join(p.help for p in VERBS[("bench",)].params if p.name == "name")
    assert made == set(re.split(r", | or ", words.partition(";")[0]))


def assert_one_line(said: Said, *parts: str) -> None:
    assert said.code == 1
    lines = said.error.splitlines()
    assert len(lines) == 1, said.error
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_there_are_the_verbs_of_the_readme() -> None:
    wanted = {("train",), ("generate",), ("report",), ("replay",), ("doctor",), ("data", "prepare"), ("data", "inspect")}
    assert wanted <= VERBS.keys()


@pytest.mark.parametrize("verb", list(VERBS), ids=" ".join)
def test_help_shows_an_example(verb: tuple[str, ...]) -> None:
    said = say(*verb, "--help")
    assert said.code == 0
    assert f"Example: mutual-forcing {' '.join(verb)}" in said.out


@pytest.mark.parametrize("verb", list(VERBS), ids=" ".join)
def test_the_example_is_a_command_that_parses(verb: tuple[str, ...]) -> None:
    command = VERBS[verb]
    words = shlex.split((command.epilog or "").removeprefix("Example: mutual-forcing "))
    assert tuple(words[: len(verb)]) == verb
    with command.make_context("example", words[len(verb) :]) as context:
        assert context.params


@pytest.mark.parametrize("verb", list(VERBS), ids=" ".join)
def test_help_loses_no_word(verb: tuple[str, ...]) -> None:
    """What stands in square brackets is markup where help is printed, and not seen."""
    said = say(*verb, "--help").out
    for parameter in VERBS[verb].params:
        text = getattr(parameter, "help", None) or ""
        assert Text.from_markup(text).plain == text, parameter.name
        assert text.split("(")[-1][:40] in " ".join(said.replace("│", " ").split()), parameter.name


def test_no_words_print_the_help() -> None:
    said = say()
    assert "Usage" in said.out + said.error
    assert "train" in said.out + said.error


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("huge",), ("recipe 'huge'", "choose from demo, tiny, paper, mutual")),
        (("tiny", "--set", "rollouts.max_aeg=0"), ("--set rollouts.max_aeg", "did you mean 'max_age'?")),
        (("tiny", "--set", "workers.count=many"), ("workers.count='many'", "integer")),
        (("tiny", "--set", "seed"), ("--set 'seed'", "for example")),
        (("tiny", "--media", "gs://bucket/clips"), ("--media='gs://bucket/clips'", "local")),
        (("tiny", "--media", ""), ("--media", "give a path")),
        (("tiny", "--data", "gs://bucket/data"), ("--data='gs://bucket/data'", "local")),
        (("tiny", "--data", "mine", "--media", "clips"), ("--data='mine'", "--media='clips'", "one of the two")),
        (("tiny", "--out", "s3://bucket/run"), ("--out='s3://bucket/run'", "local")),
    ],
)
def test_bad_words_of_train(words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert_one_line(say("train", *words), *parts)


def test_a_folder_without_a_prepared_dataset_leaves_no_run_behind(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert_one_line(say("train", "tiny", "--data", str(tmp_path), "--out", str(run)), "manifest.json", "mutual-forcing data prepare")
    assert not run.exists()


def test_a_run_folder_of_another_configuration(tmp_path: Path) -> None:
    other = with_settings(recipe("tiny"), ["seed=1"])
    write_json(tmp_path / "run.json", {"settings": other.settings(), "config": asdict(other), "stages": []})
    assert_one_line(say("train", "tiny", "--out", str(tmp_path)), str(tmp_path), "another configuration", "--out")


def test_a_run_folder_with_something_else_in_it(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert_one_line(say("train", "tiny", "--out", str(tmp_path)), str(tmp_path), "not empty", "--out")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    assert_one_line(say("train", "tiny", "--out", str(tmp_path / "run")), str(tmp_path / "run"), "choose another")


def test_media_that_are_not_there_leave_no_run_behind(tmp_path: Path) -> None:
    missing, empty, run = tmp_path / "missing", tmp_path / "empty", tmp_path / "run"
    empty.mkdir()
    assert_one_line(say("train", "tiny", "--media", str(missing), "--out", str(run)), str(missing), "cannot be found")
    assert_one_line(say("train", "tiny", "--media", str(empty), "--out", str(run)), str(empty), "put media files there")
    assert not run.exists()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "data prepare"])
def test_a_folder_without_a_usable_clip(tmp_path: Path, verb: str) -> None:
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    (media / "broken.mp4").write_bytes(b"this is no film")
    words = ("train", "tiny", "--media", str(media)) if verb == "train" else ("data", "prepare", str(media))
    said = command(*words, "--out", str(out))
    assert said.code == 1
    errors = [line for line in said.error.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in said.error
    for part in (f"data.media={str(media)!r}", "none of its 1 files", "sources.jsonl"):
        assert part in errors[0]


def test_generate_needs_a_run_and_a_finished_stage(tmp_path: Path) -> None:
    clip = str(tmp_path / "clip.mp4")
    assert_one_line(say("generate", str(tmp_path / "none"), "--out", clip), str(tmp_path / "none"), "mutual-forcing train")
    write_json(tmp_path / "run.json", {"config": asdict(recipe("tiny"))})
    assert_one_line(say("generate", str(tmp_path), "--out", clip), str(tmp_path), "no stage is finished", "mutual-forcing train tiny")
    assert not Path(clip).exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--out", "clip.gif"), ("--out='clip.gif'", ".mp4")),
        (("--out", "clip.mp4", "--mode", "some"), ("--mode='some'", "few or multi")),
        (("--out", "clip.mp4", "--moves", "0"), ("--moves=0", "from 1 to 1000 a chunk")),
        (("--out", "clip.mp4", "--seconds", "0"), ("--seconds=0", "above 0 and at most 14400")),
        (("--out", "clip.mp4", "--seconds", "nan"), ("--seconds=nan", "above 0 and at most 14400")),
    ],
)
def test_bad_words_of_generate(tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert_one_line(say("generate", str(tmp_path), *words), *parts)


@pytest.mark.parametrize("record", [{}, [], {"config": None}, {"config": {}}])
def test_a_run_record_without_a_configuration(tmp_path: Path, record: Any) -> None:
    write_json(tmp_path / "run.json", record)
    assert_one_line(say("generate", str(tmp_path), "--out", str(tmp_path / "clip.mp4")), "run.json", "train the run again")


@pytest.mark.parametrize(("text", "wanted"), [("80ms", 80.0), ("0.08s", 80.0), ("80", 80.0), ("1e2ms", 100.0)])
def test_a_lag_is_given_as_people_write_it(text: str, wanted: float) -> None:
    assert milliseconds(text) == wanted
    with pytest.raises(ValueError, match=r"--max-av-lag='soon': is no time"):
        milliseconds("soon")


def test_a_file_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert_one_line(say("data", "inspect", str(tmp_path / "notes.txt")), "dataset manifest", "notes.txt", "Not a directory")


def test_the_command_of_a_run_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "demo", "--media", "my clips/a'b", "--set", "seed=1"]
    monkeypatch.setattr("sys.argv", ["mutual-forcing", *words])
    assert shlex.split(command_line()) == ["mutual-forcing", *words]


@pytest.mark.parametrize("verb", ["report", "data inspect"])
def test_what_is_not_there_cannot_be_shown(tmp_path: Path, verb: str) -> None:
    assert_one_line(say(*verb.split(), str(tmp_path / "none")), str(tmp_path / "none"))
