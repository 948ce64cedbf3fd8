"""Jobs on a real Ray cluster, with its dashboard and a token: submitted, looked at, stopped with a checkpoint, gone on with; or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs_material import JobCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CANARY = "CANARY-4c1d0f"
SMALL = ("--set", "workers.count=1", "--set", "rollouts.actors=1", "--set", "data.synthetic_count=6")


@pytest.fixture(scope="module")
def cluster() -> Iterator[JobCluster]:
    with JobCluster([{}, {}], {"TEAM_TOKEN": f"{CANARY}-env"}) as cluster:
        yield cluster


def steps(folder: Path, stage: str) -> list[int]:
    path = folder / f"metrics/{stage}.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.is_file() else []


def test_a_run_is_submitted_stopped_with_a_checkpoint_and_gone_on_with(cluster: JobCluster, tmp_path: Path) -> None:
    out, secret = tmp_path / "run", tmp_path / "secret"
    secret.write_text(f"{CANARY}-file\n")
    out_words = ("--out", str(out), "--name", "mine", "--tag", "a tag")
    secrets = ("--secret", f"HF_TOKEN=file:{secret}", "--secret", "MLFLOW_TRACKING_TOKEN=env:TEAM_TOKEN")
    long = ("--set", "stages.mutual.steps=600", "--set", "checkpoint.every=1000")
    begun = cluster.verb("submit", "tiny", *out_words, *secrets, *SMALL, *long, "--detach")
    assert (begun.code, begun.out) == (0, "mine\n"), begun.error
    assert "3 machines can run it" in begun.error

    while len(steps(out, "mutual")) < 3:
        record = json.loads(cluster.verb("status", "mine", "--json").out)
        assert record["status"] in ("PENDING", "RUNNING"), cluster.verb("logs", "mine").out
    assert (record["recipe"], record["run"], record["tag"]) == ("tiny", str(out), "a tag")
    assert len(record["config_hash"]) == 64

    again = cluster.verb("submit", "tiny", *out_words)
    assert (again.code, "a job of that name is there already" in again.error) == (1, True), again.error
    early = cluster.verb("resume", "mine")
    assert (early.code, "`mutual-forcing stop mine` first" in early.error) == (1, True), early.error

    stopped = cluster.verb("stop", "mine", "--json")
    assert stopped.code == 0, stopped.error
    assert json.loads(stopped.out)["status"] == "STOPPED"
    (commit,) = out.glob("checkpoints/mutual/*/COMMIT")
    done = len(steps(out, "mutual"))
    assert 3 <= done < 600
    assert int("".join(c for c in commit.parent.name.split("-")[0] if c.isdigit())) == done, "every step that was made is in it"

    resumed = cluster.verb("resume", "mine", "--follow")
    assert resumed.code == 0, resumed.error + resumed.out
    assert "job mine.2: SUCCEEDED" in resumed.error
    assert steps(out, "mutual") == list(range(600))
    listed = {record["job"]: record["status"] for record in json.loads(cluster.verb("status", "--json").out)}
    assert listed == {"mine": "STOPPED", "mine.2": "SUCCEEDED"}
    assert "Report: " in cluster.verb("logs", "mine.2").out

    for path in (out, cluster.folder):
        held = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink() and CANARY.encode() in p.read_bytes()]
        assert not held, "a secret was written down"


def test_followed_logs_end_with_the_job_and_its_code(cluster: JobCluster, tmp_path: Path) -> None:
    wrong = cluster.verb("submit", "tiny", "--out", str(tmp_path / "run"), *SMALL, "--set", "stages.joint.optimizer.lr=1e30", "--json")
    assert wrong.code == 1
    record = json.loads(wrong.out)
    assert record["status"] == "FAILED"
    status = json.loads(cluster.verb("status", record["job"], "--json").out)
    assert "not finite" in status["message"]
    assert cluster.verb("logs", record["job"], "--follow").code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "rollouts.actors=90", "--set", "rollouts.cpus=1"), "lower workers.count or rollouts.actors, or pass --grows"),
        (("--data", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--data", "here/and/there"), "the cluster reads it, so give an absolute path there, or s3://"),
        (("--set", "workers.cuont=2"), "did you mean 'count'"),
        (("--secret", "HF_TOKEN=file:/nowhere/at/all"), "--secret HF_TOKEN: '/nowhere/at/all' cannot be read on this machine"),
        (("--python", "/nowhere/python"), "--python '/nowhere/python': on the head it has no Ray"),
        (("--install", "sometimes"), "--install"),
    ],
)
def test_what_cannot_run_there_is_told_in_one_line_and_nothing_is_started(
    cluster: JobCluster, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    before = cluster.verb("status", "--json").out
    refused = cluster.verb("submit", "tiny", "--out", str(tmp_path / "run"), *words)
    assert refused.code == 1
    (line,) = refused.errors
    assert said in line
    assert not (tmp_path / "run").exists()
    assert cluster.verb("status", "--json").out == before


def test_a_wrong_token_and_no_token_are_told(cluster: JobCluster, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    for place in (str(wrong), str(tmp_path / "none")):
        refused = cluster.verb("status", environment={"RAY_AUTH_TOKEN_PATH": place, "HOME": str(tmp_path)})
        assert refused.code == 1
        assert "RAY_AUTH_TOKEN_PATH" in refused.error
