"""`mutual-forcing replay FILE`: a table and a verdict, JSON, and one line for a file that is none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from bad_step_material import IDS, bad_step, with_latent
from typer.testing import CliRunner

from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.replay import open_bad_step, replay_file
from mutual_forcing.workers import bad_step as module
from mutual_forcing.workers.bad_step import BadStep, save_bad_step


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[BadStep], str]:
    def save(bad: BadStep) -> str:
        path = tmp_path / "my run" / "step.safetensors"
        save_bad_step(path, bad)
        return str(path)

    return save


def say(*words: str) -> Any:
    return CliRunner().invoke(app, ["replay", *words], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})


def test_the_settings_come_back_as_their_own_types(saved: Callable[[BadStep], str]) -> None:
    sent = bad_step()
    assert open_bad_step(Path(saved(sent))).header == sent.header


def test_the_table_has_a_row_a_part_and_the_verdict_stands_last(saved: Callable[[BadStep], str]) -> None:
    said = say(saved(with_latent(bad_step(), 1)))
    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    assert all(any(line.strip("│ ").startswith(f"{part} ") for line in lines) for part in ("fm", "sc", "dmd", "fake"))
    assert "stage mutual, step 4, rank 1; in training not finite: loss/fm_video; clips c0ffee, decade" in lines[0]
    assert lines[-1].startswith(f"first not finite: real latents, audio: clip {IDS[1]} (position 9); ")
    assert "not finite" in next(line for line in lines if line.strip("│ ").startswith("fm "))


def test_json_is_json_whatever_is_not_finite(saved: Callable[[BadStep], str]) -> None:
    said = say(saved(with_latent(bad_step("flow"), 0)), "--json")
    assert said.exit_code == 0, said.output

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    record = json.loads(said.stdout, parse_constant=refuse)
    assert (record["first"], record["sample_ids"], record["objective"]) == ("real latents, audio", list(IDS), "flow")
    [part] = record["parts"]
    assert (part["part"], part["loss"], part["finite"]) == ("fm", None, False)
    assert [c["name"] for c in record["checks"] if not c["finite"]] == ["real latents, audio"]


def test_a_finite_step_is_replayed_with_success_too(saved: Callable[[BadStep], str]) -> None:
    said = say(saved(bad_step("flow", modalities=("video",))))
    assert said.exit_code == 0
    assert said.stdout.splitlines()[-1].startswith("everything is finite here")


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 64])
def test_a_bad_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    said = say(str(path))
    assert said.exit_code == 1
    [line] = said.stderr.splitlines()
    assert line.startswith(f"error: bad step {path}: ")


def test_a_file_that_is_not_there_or_not_here(tmp_path: Path) -> None:
    assert "No such file" in say(str(tmp_path / "none")).stderr
    assert "only local paths" in say("s3://bucket/x.safetensors").stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["origin"]["setup"]["objective"].update(w_new=1.0), "not those that this release knows"),
        (lambda t: t["origin"]["setup"]["objective"].pop("w_fm"), "not those that this release knows"),
        (lambda t: t["origin"].pop("seed"), "origin.seed: Field required"),
        (lambda t: t["origin"]["setup"]["model"].update(depth=0), "model.depth=0: must be a positive integer"),
        (lambda t: t["origin"].update(kind="both"), "origin.kind"),
    ],
)
def test_a_header_of_another_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], object], words: str) -> None:
    path, bad = tmp_path / "x.safetensors", bad_step("flow")
    tree = asdict(bad.header)
    change(tree)
    with monkeypatch.context() as patch:
        patch.setattr(module, "asdict", lambda _: tree)
        save_bad_step(path, bad)
    with pytest.raises(ValueError, match=words) as found:
        replay_file(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


def test_neither_ray_nor_deepspeed_is_needed(saved: Callable[[BadStep], str]) -> None:
    code = (
        "import sys; sys.modules.update(ray=None, deepspeed=None)\n"
        "from pathlib import Path; from mutual_forcing.orchestration.replay import replay_file\n"
        "print(replay_file(Path(sys.argv[1]))[1].first)"
    )
    done = subprocess.run([sys.executable, "-c", code, saved(with_latent(bad_step(), 0))], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "real latents, audio"), done.stderr
