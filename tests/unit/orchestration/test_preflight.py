"""Preflight: what a run needs is counted, and what stands against it is told before it starts, all at once."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from checkpoint_material import save_checkpoint, save_stage
from dead_servers import closed
from typer.testing import CliRunner

from mutual_forcing.datasets.places.storage import write_json
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.orchestration import preflight
from mutual_forcing.orchestration.config import RunConfig, with_settings
from mutual_forcing.orchestration.launch import train
from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.planning.loads import chosen, load
from mutual_forcing.orchestration.planning.memory import peak
from mutual_forcing.orchestration.preflight import Finding, awaited, examine, needs_of, short_of
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.run_record import claim, loop_config
from mutual_forcing.workers.checkpoint import newest
from mutual_forcing.workers.train_loop import _same_run

TINY = recipe("tiny")


def told(config: RunConfig, folder: Path) -> list[str]:
    return [f.text for f in examine(config, folder) if f.kind == "problem"]


def test_nothing_stands_against_a_run_that_can_start(tmp_path: Path) -> None:
    assert told(TINY, tmp_path / "run") == []


def test_a_checkpoint_is_as_large_as_it_was_reckoned(tmp_path: Path) -> None:
    """Of a finished stage: the average, both networks, in fp32; headers are small."""
    loop = loop_config(TINY, tmp_path)
    weights = AVTransformer(loop.network, loop.timeline).state_dict()
    save_stage(tmp_path, "mutual", 6, loop.architecture(), {"ema": weights, "live": weights, "fake": weights})
    needs = needs_of(TINY)
    assert needs.parameters == sum(x.numel() for x in weights.values())
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert needs.weights <= written < 1.1 * needs.weights


def test_a_process_holds_what_the_plan_says_of_its_heaviest_stage() -> None:
    """One truth: the memory of `plan`, with the run's own choices."""
    most = max(peak(load(TINY, stage, chosen(TINY))).total for stage in TINY.stages)
    assert needs_of(TINY).worker == most
    alone = replace(TINY, stages=TINY.stages[:3])
    assert needs_of(alone).worker < most, "a mutual stage trains two networks"


def test_all_problems_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(preflight, "free_memory_gb", lambda: 0.5)
    config = with_settings(TINY, [f"data.media={tmp_path / 'nowhere'}", f"checkpoint.uri={tmp_path / 'file'}", "init.video=/nowhere"])
    problems = told(config, tmp_path / "run")
    for words in ("memory: ", "input=", "init.video=", "checkpoint.uri="):
        assert sum(text.startswith(words) for text in problems) == 1, (words, problems)
    assert all(";" in text for text in problems), "each with a remedy"
    with pytest.raises(ValueError, match=r"^4 problems: \(1\) .* \(4\) .*") as refused:
        train(config, tmp_path / "run", [], lambda *_: None, lambda _: None)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_fewest_workers_that_may_train_decide_whether_it_can_begin() -> None:
    config = with_settings(TINY, ["workers.count=4", "workers.min_count=2", "workers.use_gpu=true", "engine.zero_stage=3"])
    assert awaited(config, {"CPU": 2.0, "GPU": 4.0}) == []
    (text,) = awaited(config, {"CPU": 2.0, "GPU": 3.0})
    assert text.startswith("GPU: 4 are reserved (4 workers x 1), 3 are there; lower workers.count; training begins with fewer workers")
    (text,) = awaited(config, {"CPU": 2.0, "GPU": 1.0})
    assert text.startswith("GPU: 2 are reserved (2 workers x 1), 1 are there; lower workers.min_count; training waits until nodes")
    two = with_settings(config, ["workers.count=2", "workers.min_count=0"])
    assert needs_of(config).worker == needs_of(two).worker > needs_of(config, 4).worker, "the fewest hold the most"


def test_what_is_reserved_is_held_against_what_is_there(tmp_path: Path) -> None:
    config = with_settings(TINY, ["workers.count=4", "workers.use_gpu=true"])
    assert short_of(config, {"CPU": 2.0, "GPU": 4.0}) == []
    (text,) = short_of(config, {"CPU": 2.0, "GPU": 3.0})
    assert text == "GPU: 4 are reserved (4 workers x 1), 3 are there; lower workers.count"
    (text,) = short_of(with_settings(TINY, ["workers.count=4"]), {"CPU": 1.5})
    assert text == "CPU: 2 are reserved (4 workers x 0.5), 1.5 are there; lower workers.count"
    pool = with_settings(config, ["rollouts.actors=3", "rollouts.gpus=0.5", "rollouts.cpus=1", "rollouts.resource=rollout"])
    assert short_of(pool, {"CPU": 5.0, "GPU": 6.0, "rollout": 3.0}) == []
    assert short_of(pool, {"CPU": 4.0, "GPU": 5.0, "rollout": 2.0}) == [
        "CPU: 5 are reserved (4 workers x 0.5 + 3 rollout actors x 1), 4 are there; lower workers.count or rollouts.actors",
        "GPU: 6 are reserved (4 workers x 1 + 3 rollout actors x 0.5), 5 are there; lower workers.count or rollouts.actors",
        "rollout: 3 are reserved (3 rollout actors x 1), 2 are there; lower workers.count or rollouts.actors",
    ]


@pytest.mark.parametrize(("share", "gpus"), [("0.6", 4.0), ("0.5", 3.0), ("0.4", 3.0), ("0.3", 2.0), ("2", 7.0)])
def test_what_does_not_fit_onto_one_gpu_takes_another(share: str, gpus: float) -> None:
    """A GPU for a worker, and three actors of this share of one each."""
    config = with_settings(TINY, ["workers.count=1", "workers.use_gpu=true", "rollouts.actors=3", f"rollouts.gpus={share}"])
    assert short_of(config, {"CPU": 4.0, "GPU": gpus}) == []
    assert len(short_of(config, {"CPU": 4.0, "GPU": gpus - 1})) == 1


@pytest.mark.parametrize(("worker", "actor", "gpus"), [("0.5", "0.5", 2.0), ("0.5", "0.25", 2.0), ("0.4", "0.2", 1.0), ("0.9", "0.1", 2.0)])
def test_a_worker_that_leaves_some_of_its_gpu_has_actors_beside_it(worker: str, actor: str, gpus: float) -> None:
    """One worker, three actors: those that fit go onto the worker's GPU."""
    pool = ["rollouts.actors=3", f"rollouts.gpus={actor}"]
    config = with_settings(TINY, ["workers.count=1", "workers.use_gpu=true", f"workers.gpus={worker}", *pool])
    assert short_of(config, {"CPU": 4.0, "GPU": gpus}) == []
    (text,) = short_of(config, {"CPU": 4.0, "GPU": gpus - 1})
    assert text.startswith(f"GPU: {gpus:g} are reserved (1 workers x {worker} + 3 rollout actors x {actor})")


def test_a_pool_that_cannot_grow_as_far_as_it_may_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    config = with_settings(TINY, ["rollouts.actors=auto", "rollouts.max_actors=8", "rollouts.cpus=1"])
    warnings = [f.text for f in examine(config, tmp_path / "run") if f.kind == "warning" and "auto" in f.text]
    assert warnings == [
        "rollouts.actors=auto cannot grow to rollouts.max_actors=8 here: CPU: 9 are reserved (2 workers x 0.5 + 8 rollout actors x 1), "
        "4 are there; lower workers.count or rollouts.max_actors"
    ]
    fits = with_settings(config, ["rollouts.max_actors=3"])
    assert not [f for f in examine(fits, tmp_path / "run") if "auto" in f.text]


def test_nodes_of_workers_are_held_against_what_is_there() -> None:
    config = with_settings(TINY, ["workers.count=4", "workers.resource=trainer"])
    assert short_of(config, {"CPU": 4.0, "trainer": 4.0}) == []
    (text,) = short_of(config, {"CPU": 4.0, "trainer": 3.0})
    assert text.startswith("trainer: 4 are reserved (4 workers x 1), 3 are there")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_are_not_here_are_told(tmp_path: Path) -> None:
    (text,) = told(with_settings(TINY, ["workers.use_gpu=true"]), tmp_path / "run")
    assert "GPU: 2 are reserved (2 workers x 1), 0 are there" in text


def test_a_gpu_must_hold_the_networks_and_what_is_offloaded_is_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = with_settings(TINY, ["workers.use_gpu=true", "engine.zero_stage=2"])
    needs, away = needs_of(gpu), needs_of(with_settings(gpu, ["engine.offload=optimizer"]))
    assert needs.worker - needs.device == 2 * 4 * needs.parameters, "a network that is made, and the weights that the stage began with"
    assert needs.device - away.device >= int(2 * (8 + 4) / 2 * needs.parameters)
    assert (away.worker - away.device) - (needs.worker - needs.device) == pytest.approx(2 * (8 + 4) / 2 * needs.parameters, rel=1e-3)
    assert needs_of(TINY).device == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for size, stands in ((needs.device, False), (needs.device - 1, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda size=size: (0, size))
        assert [text.startswith("GPU memory: ") for text in told(gpu, tmp_path / "run")] == [True] * stands


def test_bf16_halves_weights_and_gradients() -> None:
    needs, half = needs_of(TINY), needs_of(with_settings(TINY, ["engine.precision=bf16"]))
    assert needs.worker - half.worker > 2 * 2 * needs.parameters  # weights of two trained networks at stage 1, and what they make


def test_a_disk_too_small_for_the_checkpoints_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10**6

    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: Usage)
    (text,) = told(TINY, tmp_path / "run")
    assert "disk: checkpoints take up to" in text
    assert "0.001 GB are free" in text
    assert told(with_settings(TINY, [f"checkpoint.uri={tmp_path / 'other'}"]), tmp_path / "run") != [], "that folder counts instead"


def test_checkpoints_of_another_run_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    """Whether found by the preflight or by the training itself."""
    uri, other = tmp_path / "shared", with_settings(TINY, ["seed=1"])
    stage = TINY.stages[0]
    loop = replace(loop_config(TINY, tmp_path / "run"), about={"settings": TINY.settings()})
    weights = {"ema": {"a": torch.zeros(1)}}
    for settings, stands in ((other.settings(), True), (TINY.settings(), False)):
        save_checkpoint(uri, stage.name, stage.steps, stage.steps, loop.architecture(), weights, about={"settings": settings})
        problems = told(with_settings(TINY, [f"checkpoint.uri={uri}"]), tmp_path / "run")
        assert ["of a run with other settings; choose another checkpoint.uri" in text for text in problems] == [True] * stands
        found = newest(LocalStore(uri), stage.name)
        assert found is not None
        if stands:
            with pytest.raises(ValueError, match="of a run with other settings"):
                _same_run(loop, found, stage)
        else:
            _same_run(loop, found, stage)
            with pytest.raises(ValueError, match="of a run with other settings"):
                _same_run(loop, found, replace(stage, steps=stage.steps + 1))
        shutil.rmtree(uri)


def test_a_run_goes_on_with_other_processes_and_its_record_says_so(tmp_path: Path) -> None:
    before = with_settings(TINY, ["workers.count=1"])
    write_json(tmp_path / "run.json", {"settings": before.settings(), "config": asdict(before), "stages": []})
    record = claim(with_settings(TINY, ["workers.count=2", "checkpoint.every=3"]), tmp_path, [])
    assert (record["config"]["workers"]["count"], record["config"]["checkpoint"]["every"]) == (2, 3)
    assert json.loads((tmp_path / "run.json").read_text())["config"]["workers"]["count"] == 2
    with pytest.raises(ValueError, match=r"checkpoint\.uri='/elsewhere': the checkpoints of the run in .* are in .*checkpoints"):
        claim(with_settings(TINY, ["checkpoint.uri=/elsewhere"]), tmp_path, [])


def test_a_tracker_that_does_not_answer_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closed() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        findings = examine(TINY, tmp_path / "run")
    assert [f.kind for f in findings] == ["warning"]
    assert address in findings[0].text


def test_a_dry_run_says_so_and_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "tiny", "--out", str(tmp_path / "run"), "--dry-run"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.output)
    assert made["findings"] == []
    with torch.device("meta"):
        count = sum(p.numel() for p in AVTransformer(TINY.model, TINY.data.timeline).parameters())
    assert made["needs"]["parameters"] == count
    assert not list((tmp_path / "run").rglob("*")) or not (tmp_path / "run" / "run.json").exists()
    monkeypatch.setattr(preflight, "examine", lambda config, run_dir: [Finding("problem", "too small; enlarge it")])
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "problem: too small; enlarge it" in result.output
