"""The main job from end to end: the installed command trains the tiny recipe, and its run folder holds everything it promises."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from canary_material import CANARIES, Watch, leaked, leaks
from command_material import Running, Said, command
from mlflow.tracking import MlflowClient

from mutual_forcing.datasets.ffmpeg.media import decode, probe
from mutual_forcing.datasets.places.lock import LOCK
from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.run_record import loop_config, open_run
from mutual_forcing.workers.checkpoint import finished

pytestmark = pytest.mark.timeout(900)

COURSE = ("checkpoint.every=3", "course.every=3", "course.clips=2", "course.metrics=[drift,motion]", "course.best=drift")
CONFIG = with_settings(recipe("tiny"), COURSE)
TRAIN = ("train", "tiny", *(word for setting in COURSE for word in ("--set", setting)))
STAGES = [s.name for s in CONFIG.stages]


@dataclass(frozen=True)
class Trained:
    """The finished run and what its command said."""

    folder: Path
    done: Said
    left_behind: set[int]
    watch: Watch

    def lines(self, stage: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "metrics" / f"{stage}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, short_tmp: Path) -> Trained:
    folder = tmp_path_factory.mktemp("tiny") / "run"
    with Running(*TRAIN, "--out", str(folder), environment=CANARIES | {"TMPDIR": str(short_tmp)}) as running:
        with Watch(running.processes, short_tmp) as watch:
            done = running.wait(600)  # a minute and a half by itself; other tests run beside it
        assert done.code == 0, done.error[-2000:]
        return Trained(folder, done, running.left_behind(10), watch)


def test_nothing_of_ray_is_left(run: Trained) -> None:
    assert not run.left_behind


def test_no_secret_of_the_environment_is_in_the_run_the_tracker_the_terminal_a_log_or_a_process(run: Trained) -> None:
    assert leaks([run.folder]) == [], "mlflow.db and its artifacts are in it"
    assert leaked((run.done.out + run.done.error).encode()) == []
    assert run.watch.found == set()
    assert any("raylet" in where for where in run.watch.seen), "processes of Ray were looked at"
    assert any(where.startswith("log worker") for where in run.watch.seen), "and the logs of its session"


def test_nothing_of_it_shows_a_dashboard(run: Trained) -> None:
    """Whoever reaches Ray's may start jobs."""
    assert not any("dashboard/dashboard.py" in where for where in run.watch.seen)


def test_the_report_is_one_file_that_names_every_stage(run: Trained) -> None:
    report = (run.folder / "report.html").read_text()
    assert all(stage in report for stage in STAGES)
    assert f"Report: {run.folder / 'report.html'}" in run.done.out


def test_long_work_says_how_far_it_came(run: Trained) -> None:
    for stage in (
        "draw talking characters",
        "encode clips",
        "train mutual",
        "generate chunks, few4",
        "generate chunks, multi",
        "embed clips",
    ):
        assert any(line.startswith(f"{stage}: ") for line in run.done.error.splitlines()), stage


def test_every_stage_ends_with_a_line_of_its_figures(run: Trained) -> None:
    for stage in CONFIG.stages:
        [line] = [x for x in run.done.error.splitlines() if x.startswith(f"{stage.name}  {stage.steps}/{stage.steps}  ")]
        assert all(unit in line for unit in ("loss ", "clips/s", "tokens/s")), line
        assert ("  age " in line) == (stage.objective == "mutual")


def test_every_rank_kept_a_log(run: Trained) -> None:
    for rank in range(CONFIG.workers.count):
        lines = [json.loads(line) for line in (run.folder / "logs" / f"rank-{rank:05d}.jsonl").read_text().splitlines()]
        assert [line["stage"] for line in lines if line["message"] == "starts at step 0"] == STAGES
        assert not any(line["level"] == "critical" for line in lines)
        complete = [line["stage"] for line in lines if line["message"].endswith(" is complete")]
        assert list(dict.fromkeys(complete)) == (STAGES if rank == 0 else []), "the first rank commits"


def test_every_step_says_where_its_time_went(run: Trained) -> None:
    for stage in CONFIG.stages:
        for line in run.lines(stage.name):
            m = line["metrics"]
            assert m["step_s"] >= m["data_wait_s"] + m["rollout_wait_s"]
            assert m["tokens_per_s"] > m["samples_per_s"] > 0
            assert m["checkpoint_s"] >= 0
            assert ("comm_s" in m) == (line["step"] % stage.health_every == 0)
            assert 0 < m.get("comm_s", 1e-9) < m["step_s"]


def test_every_stage_left_a_verified_checkpoint(run: Trained) -> None:
    config = open_run(run.folder)
    assert config == CONFIG
    loop = loop_config(config, run.folder)
    for stage in config.stages:
        roles = ("live", "ema", "fake") if stage.objective == "mutual" else ("live", "ema")
        checkpoint = finished(loop.checkpoints, stage.name)
        assert checkpoint is not None
        checkpoint.require(loop.architecture())
        assert (checkpoint.step, set(checkpoint.manifest["roles"])) == (stage.steps, set(roles))
        assert all(bool(x.isfinite().all()) for role in roles for x in checkpoint.weights(role).values())


def test_every_step_of_every_stage_is_recorded_and_finite(run: Trained) -> None:
    for stage in CONFIG.stages:
        lines = run.lines(stage.name)
        assert [line["step"] for line in lines] == list(range(stage.steps))
        assert all(value is not None and math.isfinite(value) for line in lines for value in line["metrics"].values())


def test_a_unimodal_stage_trains_its_modality_alone(run: Trained) -> None:
    for stage, other in (("pretrain-video", "audio"), ("pretrain-audio", "video")):
        assert not any(name.endswith(other) for line in run.lines(stage) for name in line["metrics"])


def test_rollouts_are_never_older_than_allowed(run: Trained) -> None:
    for line in run.lines("mutual"):
        ages = {int(name.removeprefix("age/")): count for name, count in line["metrics"].items() if name.startswith("age/")}
        assert ages
        assert all(0 <= age <= CONFIG.rollouts.max_age for age in ages)
        assert line["metrics"]["rollout_wait_s"] >= 0


def test_mlflow_has_finished_runs_with_artifacts(run: Trained) -> None:
    record = json.loads((run.folder / "run.json").read_text())["mlflow"]
    client = MlflowClient(tracking_uri=record["tracking_uri"])
    parent = client.get_run(record["run_id"])
    runs = client.search_runs([parent.info.experiment_id])
    assert {r.info.status for r in runs} == {"FINISHED"}
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == record["run_id"]]
    named = {(r.info.run_name or "").removeprefix("tiny "): r for r in children}
    assert sorted(named) == sorted([*STAGES, "evaluation"])
    judged = named.pop("evaluation")
    for stage in ("joint", "mutual"):
        history = client.get_metric_history(judged.info.run_id, f"{stage}.drift")
        assert [(m.step, m.value) for m in history] == [
            (line["step"], line["metrics"][f"{stage}/drift"]) for line in run.lines("evaluation") if f"{stage}/drift" in line["metrics"]
        ]
        assert history, "the end of each stage at least"
    for stage, child in named.items():
        history = client.get_metric_history(child.info.run_id, "loss")
        assert [(m.step, m.value) for m in history] == [(line["step"], line["metrics"]["loss"]) for line in run.lines(stage)]
    assert {a.path for a in client.list_artifacts(record["run_id"])} >= {"report.html", "data", "samples", "course"}
    sheets = sorted(path.name for path in (run.folder / "course").iterdir())
    assert sorted(Path(a.path).name for a in client.list_artifacts(record["run_id"], "course")) == sheets


def test_checkpoints_were_judged_meanwhile_and_the_best_is_kept(run: Trained, tmp_path: Path) -> None:
    assert "mutual 6/6 evaluated  drift " in run.done.error
    done = command("checkpoint", "list", str(run.folder), "--json")
    best = {c["stage"]: c["step"] for c in json.loads(done.out) if c["best"]}
    judged = [json.loads(path.read_text()) for path in (run.folder / "course").glob("*.json")]
    for stage in ("joint", "mutual"):
        of_stage = {one["step"]: one["figures"]["drift"]["value"] for one in judged if one["stage"] == stage}
        assert best[stage] == min(of_stage, key=of_stage.__getitem__)
    done = command("checkpoint", "export", str(run.folder), "--best", "--out", str(tmp_path / "weights"), "--json")
    assert done.code == 0, done.error[-2000:]
    told = json.loads(done.out)
    assert (told["stage"], told["step"]) == ("mutual", best["mutual"])
    assert 'id="course"' in (run.folder / "report.html").read_text()


def test_generate_writes_a_clip_that_plays(run: Trained, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    done = command("generate", str(run.folder), "--out", str(clip), "--seconds", "1.5", "--json")
    assert done.code == 0, done.error[-2000:]
    record = json.loads(done.out)
    decoded = decode(clip, probe(clip), CONFIG.data.decoding)
    assert len(decoded.frames) == record["frames"] == CONFIG.data.timeline.frames(3)
    assert decoded.audio is not None
    assert record["stage"] == STAGES[-1]


def test_running_again_returns_at_once(run: Trained) -> None:
    files = {p: p.stat().st_mtime_ns for p in run.folder.rglob("*") if p.is_file() and p.name != LOCK}
    start = time.monotonic()
    done = command(*TRAIN, "--out", str(run.folder), "--json")
    assert done.code == 0, done.error[-2000:]
    assert time.monotonic() - start < 60
    came_to = json.loads(done.out)
    assert [(s["name"], s["steps"]) for s in came_to["stages"]] == [(s.name, s.steps) for s in CONFIG.stages]
    assert came_to["report"] == str(run.folder / "report.html")
    assert "nothing to do" in done.error
    assert {p: p.stat().st_mtime_ns for p in run.folder.rglob("*") if p.is_file() and p.name != LOCK} == files


def test_the_record_tells_what_each_stage_took(run: Trained) -> None:
    record = json.loads((run.folder / "run.json").read_text())
    assert [(s["name"], s["steps"], s["samples"]) for s in record["stages"]] == [
        (s.name, s.steps, s.steps * s.batch) for s in CONFIG.stages
    ]
    assert all(s["seconds"] > 0 for s in record["stages"])
    assert record["total_seconds"] > sum(s["seconds"] for s in record["stages"])


@pytest.mark.slow
def test_other_settings_of_the_samples_have_them_made_again_without_training(run: Trained) -> None:
    weights = {p: p.stat().st_mtime_ns for p in (run.folder / "checkpoints").rglob("*")}
    before = json.loads((run.folder / "run.json").read_text())
    done = command(*TRAIN, "--out", str(run.folder), "--set", "samples.clips=1", "--set", "samples.shown=1")
    assert done.code == 0, done.error[-2000:]
    assert "nothing to do" not in done.error
    assert {p: p.stat().st_mtime_ns for p in (run.folder / "checkpoints").rglob("*")} == weights
    after = json.loads((run.folder / "run.json").read_text())
    assert after["config"]["samples"]["clips"] == 1
    assert (after["stages"], after["mlflow"]) == (before["stages"], before["mlflow"])
    assert after["total_seconds"] > before["total_seconds"]
    assert len(json.loads((run.folder / "samples" / "samples.json").read_text())["clips"]) == 1
    assert not list((run.folder / "samples").glob("*-001.mp4"))


@pytest.mark.slow
def test_evaluations_that_a_stopped_command_left_are_made_up_for(run: Trained) -> None:
    """As if it had been killed while the run waited for its last evaluation."""
    best, [last] = run.folder / "checkpoints" / "mutual" / "best.json", (run.folder / "course").glob("mutual-*6.json")
    weights = {p: p.stat().st_mtime_ns for p in (run.folder / "checkpoints").rglob("*.safetensors")}
    best.write_text(json.dumps(json.loads(best.read_text()) | {"judged": 3}))
    record = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(record | {"finished": False}))
    last.unlink()
    done = command(*TRAIN, "--out", str(run.folder))
    assert done.code == 0, done.error[-2000:]
    assert "mutual 6/6 evaluated  drift " in done.error
    assert last.is_file()
    assert json.loads(best.read_text())["judged"] == 6
    assert {p: p.stat().st_mtime_ns for p in (run.folder / "checkpoints").rglob("*.safetensors")} == weights
