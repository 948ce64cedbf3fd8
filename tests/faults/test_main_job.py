"""The whole main job as users run it: submitted to a cluster of three machines that asks for a token, with its copy in S3
and an MLflow server, while `chaos` breaks it. It finishes, and every clip and every update is accounted for.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from command_material import command
from jobs_material import JobCluster
from mlflow.tracking import MlflowClient
from mlflow_server import mlflow_server
from s3_server import s3_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

SETTINGS = (
    "data.stream_sources=4",
    "data.synthetic_count=12",
    "stages.joint.steps=60",
    "stages.mutual.steps=150",
    "rollouts.max_age=2",
    "checkpoint.every=5",
    "workers.max_failures=50",
)
MINUTES = float(os.environ.get("MF_MAIN_JOB_MINUTES", "5"))
OF_S3 = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "NO_PROXY", "no_proxy")


def test_it_is_submitted_broken_and_finishes(tmp_path: Path) -> None:
    out, secret = tmp_path / "run", tmp_path / "aws-secret"
    outside = pytest.MonkeyPatch()
    with s3_server(outside) as s3, mlflow_server(tmp_path, f"{s3.uri}/mlflow") as mlflow:
        mlflow.start()
        secret.write_text(os.environ["AWS_SECRET_ACCESS_KEY"])
        plain = {name: os.environ[name] for name in OF_S3} | {"MLFLOW_TRACKING_URI": mlflow.uri}
        (tmp_path / "aws-id").write_text(os.environ["AWS_ACCESS_KEY_ID"])
        references = (f"AWS_SECRET_ACCESS_KEY=file:{secret}", f"AWS_ACCESS_KEY_ID=file:{tmp_path / 'aws-id'}")
        hidden = pytest.MonkeyPatch()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", *OF_S3):
            hidden.delenv(name)  # machines of the cluster know nothing of the bucket but what the job brings
        with JobCluster([{}, {}]) as cluster:
            hidden.undo()
            words = [word for setting in (*SETTINGS, f"remote.uri={s3.uri}/run") for word in ("--set", setting)]
            words += [word for name, value in plain.items() for word in ("--env", f"{name}={value}")]
            words += [word for reference in references for word in ("--secret", reference)]
            begun = cluster.verb("submit", "tiny", "--name", "main", "--out", str(out), "--restarts", "20", "--detach", *words, seconds=900)
            assert begun.code == 0, begun.error
            while not (out / "run.json").is_file():
                assert job(cluster)["status"] in ("PENDING", "RUNNING"), cluster.verb("logs", "main").out
                time.sleep(1)
            asked = ("chaos", str(out), "--minutes", f"{MINUTES:g}", "--seed", "1", "--gap", "20", "--yes", "--json")
            broken = command(*asked, seconds=3600, environment=cluster.inside | {"MLFLOW_TRACKING_URI": mlflow.uri})
            print(broken.error)
            while job(cluster)["status"] in ("PENDING", "RUNNING"):
                time.sleep(3)
            ended = job(cluster)
            assert ended["status"] == "SUCCEEDED", cluster.verb("logs", "main").out
            assert broken.code == 0, broken.error + broken.out
            audit = command("audit", str(out))
        record = json.loads((out / "run.json").read_text())
        run = MlflowClient(tracking_uri=mlflow.uri).get_run(record["mlflow"]["run_id"])
    outside.undo()
    events = [event for event in json.loads(broken.out)["events"] if event["happened_at_s"] is not None]
    assert len({event["kind"] for event in events}) >= 3, events
    assert audit.code == 0, audit.out + audit.error
    assert record["finished"]
    assert run.info.status == "FINISHED"


def job(cluster: JobCluster) -> dict[str, object]:
    """How it is. The head may be busy: it is asked again."""
    for _ in range(20):
        said = cluster.verb("status", "main", "--json")
        if said.code == 0:
            return json.loads(said.out)
        time.sleep(3)
    raise AssertionError(said.error)
