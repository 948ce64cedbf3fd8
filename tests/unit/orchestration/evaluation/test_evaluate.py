"""`evaluate`: a folder that is whole or not there, figures that add up, the same prompts for all runs, and words that go on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_material import save_checkpoint
from command_material import Running
from hypothesis import given
from hypothesis import strategies as st
from judge_material import ast_folder, audiobox_folder
from run_material import untrained_run
from typer.testing import CliRunner

from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, decode, probe
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.model.sampler import SamplerConfig
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.orchestration.evaluation import evaluate as module
from mutual_forcing.orchestration.evaluation.evaluate import Wish, evaluate
from mutual_forcing.orchestration.evaluation.network import Subject, open_subject
from mutual_forcing.orchestration.evaluation.prompts import spread
from mutual_forcing.orchestration.generation.provenance import detect
from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.run_record import loop_config, open_run
from mutual_forcing.workers.checkpoint import newest
from mutual_forcing.workers.standing import Standing, write_standing

WINDOWS = "0-1,1-2.5"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same data that learned nothing, `a` and `b`: other weights, since nothing seeds them."""
    folder = tmp_path_factory.mktemp("runs")
    untrained_run(folder / "a")
    untrained_run(folder / "b")
    shutil.rmtree(folder / "b" / "data")
    shutil.copytree(folder / "a" / "data", folder / "b" / "data")
    return folder


@pytest.fixture(scope="module")
def compared(runs: Path) -> tuple[dict[str, Any], Path]:
    """What the verb prints with --json, and the folder that it made."""
    words = ["evaluate", "--compare", str(runs / "a"), str(runs / "b"), "--windows", WINDOWS, "--clips", "2", "--out", str(runs / "out")]
    result = CliRunner().invoke(app, [*words, "--json", "--show", "1"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1]), runs / "out"


def test_the_folder_holds_what_was_printed(compared: tuple[dict[str, Any], Path]) -> None:
    printed, out = compared
    assert json.loads((out / "evaluation.json").read_text()) == printed
    assert sorted(p.name for p in out.iterdir()) == ["clips", "evaluation.html", "evaluation.json", "figures.png"]
    assert sorted(p.name for p in (out / "clips").iterdir()) == ["00-00.mp4", "01-00.mp4", "02-00.mp4"], "one of each, real ones first"
    assert not [p for p in out.parent.iterdir() if p.name.startswith(".")]
    assert printed["notes"] == [], "as many clips as were asked for"


def test_generated_clips_say_so_and_real_ones_do_not(compared: tuple[dict[str, Any], Path]) -> None:
    told = {p.name: detect(str(p))["generated"] for p in (compared[1] / "clips").iterdir()}
    assert told == {"00-00.mp4": False, "01-00.mp4": True, "02-00.mp4": True}


def test_figures_of_both_runs_and_their_differences_add_up(compared: tuple[dict[str, Any], Path]) -> None:
    printed, _ = compared
    a, b = printed["runs"]
    assert [a["name"], b["name"]] == ["a", "b"]
    assert list(a["windows"]) == ["0-1 s", "1-2.5 s"]
    for one in (a, b):
        assert one["evaluations_per_chunk"] == 4
        assert one["evaluations_to_commit"] == 1
    for row in printed["differences"]:
        assert (row["run"], row["minus"]) == ("b", "a")
        for name, apart in row["figures"].items():
            values = [run["windows"][row["window"]][name]["value"] for run in (a, b)]
            assert apart["value"] == pytest.approx(values[1] - values[0], abs=1e-4)
    last, first = (a["windows"][w]["motion"]["value"] for w in ("1-2.5 s", "0-1 s"))
    assert a["last_window_minus_first"]["motion"]["value"] == pytest.approx(last - first, abs=1e-4)


def test_what_does_not_apply_has_a_reason_and_no_number(compared: tuple[dict[str, Any], Path]) -> None:
    early = compared[0]["runs"][0]["windows"]["0-1 s"]
    assert early["sync_correlation"] == {"value": None, "clips": 0, "why": "1 s are too short for a lag of half a second; needs 1.5 s"}
    assert "needs 8 of each" in early["frechet_random_joint"]["why"], "two clips of a second are four half seconds"


def test_the_page_needs_no_network_and_names_what_is_on_it(compared: tuple[dict[str, Any], Path]) -> None:
    page = (compared[1] / "evaluation.html").read_text()
    assert 'src="http' not in page
    assert "<script" not in page
    assert page.count("data:video/mp4;base64,") == 3
    for about in compared[0]["metrics"]:
        assert about["name"] in page
        assert about["protocol"].split(";")[0] in page


def test_fewer_clips_than_were_asked_for_are_told(runs: Path, tmp_path: Path) -> None:
    said: list[str] = []
    wish = Wish((str(runs / "a"),), str(tmp_path / "out"), windows="0-1", clips=7, metrics=("motion",), shown=0)
    found = evaluate(wish, warn=said.append)
    told = "--clips=7: the dataset holds out 4, and figures are of those; intervals need 5; prepare more, or give --clips 4"
    assert said == [told]
    assert found.json()["notes"] == [told]
    assert told in (tmp_path / "out" / "evaluation.html").read_text()


@pytest.mark.slow
def test_networks_of_judges_say_nothing_of_their_own(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    judges = ("--judge", f"audio_fd={ast_folder(tmp_path / 'ast')}", "--judge", f"audiobox={audiobox_folder(tmp_path / 'audiobox')}")
    words = (
        "evaluate",
        str(runs / "a"),
        "--windows",
        "0-1",
        "--clips",
        "1",
        "--metrics",
        "motion",
        *judges,
        "--out",
        str(tmp_path / "out"),
    )
    with Running(*words) as running:
        answer = running.wait(200)
    assert answer.code == 0, answer.error
    assert [line for line in answer.error.splitlines() if not line.endswith("done")] == []


def test_mlflow_has_the_figures_beside_the_run(compared: tuple[dict[str, Any], Path], runs: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'b' / 'mlflow.db'}")
    [experiment] = [e.experiment_id for e in client.search_experiments() if e.name == "mutual-forcing"]
    [run] = client.search_runs([experiment])
    assert run.info.run_name == "evaluate b"
    wanted = compared[0]["runs"][1]["windows"]["1-2.5 s"]["motion"]["value"]
    assert run.data.metrics["eval.1-2.5.motion"] == pytest.approx(wanted, rel=1e-5)
    assert {f.path for f in client.list_artifacts(run.info.run_id)} == {"evaluation.json", "evaluation.html", "figures.png"}


def test_a_clip_is_the_same_alone_as_in_a_batch_and_other_seeds_make_others(runs: Path) -> None:
    def first(clips: int, seed: int = 0) -> np.ndarray:
        subject = open_subject(str(runs / "a"), "a", None, "few", None, None, seed)
        records = subject.generator.dataset.held_out_records()[:clips]
        return next(iter(subject.made(records, 1.0, lambda _: None))).frames

    alone, together = first(1).astype(int), first(2).astype(int)
    assert np.abs(alone - together).max() <= 1, "but for rounding of batched products"
    assert np.abs(alone - first(1, seed=1)).max() > 1


def test_the_clip_that_is_shown_is_as_long_as_the_last_window(compared: tuple[dict[str, Any], Path]) -> None:
    path = compared[1] / "clips" / "01-00.mp4"
    film = decode(path, probe(path), DecodeConfig(width=32, height=32))
    assert len(film.frames) == 61
    assert compared[0]["clips"][0]["made"] == {"a": "clips/01-00.mp4", "b": "clips/02-00.mp4"}


@given(st.lists(st.tuples(st.floats(0, 4.5), st.floats(0.05, 0.5)), max_size=6), st.floats(0.5, 30))
def test_words_go_on_as_they_are_spread(spans: list[tuple[float, float]], seconds: float) -> None:
    words = tuple((f"w{i}", s, s + d) for i, (s, d) in enumerate(sorted(spans)))
    found = spread(words, 5.0, seconds)
    assert all(s < e <= seconds or s == e == seconds for _, s, e in found)
    assert found[: len(words)] == tuple((w, s, min(e, seconds)) for w, s, e in words if s < seconds)
    again = [(w, s - 5.0) for w, s, _ in found if 5.0 <= s < 10.0]
    assert again == [(w, pytest.approx(s)) for w, s, _ in words if s + 5.0 < seconds]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"windows": "5-1"}, "--windows="),
        ({"metrics": ("fid",)}, "--metrics: 'fid' is unknown"),
        ({"clips": 0}, "--clips=0"),
        ({"moves": 0}, "--moves=0"),
        ({"mode": "slow"}, "--mode='slow': choose few or multi"),
        ({"guidance": 2.0}, "mode few has learned its guidance"),
        ({"judges": ("wer",)}, "is not NAME=WHERE"),
        ({"data": "nowhere"}, "nowhere"),
        ({"device": "cuda"}, "sees no GPU"),
    ],
)
def test_a_wish_that_cannot_be_met_leaves_nothing(runs: Path, tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(Wish((str(runs / "a"),), str(tmp_path / "out"), **({"windows": "0-1", "clips": 1} | wrong)))
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_that_stage_and_a_folder_that_is_there_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"finished are mutual; give RUN or RUN@STAGE"):
        evaluate(Wish((f"{runs / 'a'}@joint",), str(tmp_path / "out")))
    with pytest.raises(ValueError, match="is there already"):
        evaluate(Wish((str(runs / "a"),), str(tmp_path)))
    with pytest.raises(ValueError, match="a' stands 2 times; give each run once"):
        Wish((str(runs / "a"),) * 2, str(tmp_path / "out"))


def test_what_stands_behind_a_run_tells_its_checkpoint(runs: Path, tmp_path: Path) -> None:
    """Also where the folder's own name has an @."""
    folder = shutil.copytree(runs / "a", tmp_path / "me@home" / "a", symlinks=True)
    store, config = LocalStore(folder / "checkpoints"), open_run(folder)
    network = AVTransformer(config.model, config.data.timeline).state_dict()
    last = newest(store, "mutual")
    assert last is not None
    steps = last.step
    best = save_checkpoint(store, "mutual", steps - 1, steps, loop_config(config, folder).architecture(), {"ema": network}, "aaaaaaaa")
    write_standing(store, "mutual", Standing(1, "drift", path=best, step=steps - 1, value=1.0))
    told = {}
    for run in (str(folder), f"{folder}@mutual", f"{folder}@best"):
        about = open_subject(run, "a", None, "few", None, None, 0).about()
        told[run.removeprefix(str(folder))] = about["stage"], about["step"]
    assert told == {"": ("mutual", steps), "@mutual": ("mutual", steps), "@best": ("mutual", steps - 1)}


def test_an_interruption_leaves_nothing(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "plot", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Wish((str(runs / "a"),), str(tmp_path / "out"), windows="0-1", clips=1, metrics=("motion",)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mode", "guidance", "expected"), [("few", 1.5, (4, 1)), ("multi", 1.5, (8, 2)), ("multi", 1.0, (4, 1))])
def test_a_guided_step_is_two_evaluations(runs: Path, mode: str, guidance: float, expected: tuple[int, int]) -> None:
    subject = open_subject(str(runs / "a"), "a", None, "few", None, None, 0)
    sampler = SamplerConfig("multi", 4, guidance=guidance) if mode == "multi" else subject.sampler
    guided: Subject = replace(subject, sampler=sampler)
    list(guided.made(subject.generator.dataset.held_out_records()[:1], 1.0, lambda _: None))
    assert guided.speed is not None
    assert (guided.speed.evaluations, guided.speed.commit) == expected
