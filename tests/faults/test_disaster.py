"""The whole cluster is lost in mid-training, with its disks: the run is restored from the bucket alone, by the commands of docs/guide.md.

What it is restored on has other machines and another run folder, and knows no password: credentials of stores and trackers are in the
environment, and none of them is found in the bucket, in the tracker, in a log or in the words of a process.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from canary_material import CANARIES, PASSWORD, Watch, leaked, leaks
from cluster_material import Machines
from command_material import Running, command
from mlflow.tracking import MlflowClient
from mlflow_server import mlflow_server
from s3_server import s3_server
from training_material import Training, undisturbed

from mutual_forcing.datasets.format.manifest import MANIFEST
from mutual_forcing.datasets.places.store import Store, store_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide.md"
STEPS, EVERY, LOST_AFTER = 40, 5, 10


@dataclass(frozen=True)
class Restored:
    """What is left of a run that lost its cluster and was finished upon another: where it is, what was said, what was found meanwhile."""

    run: Training
    store: Store
    from_step: int
    said: str
    watched: list[Watch]
    tracker: Path


def documented(uri: str, out: Path, command_before: str) -> list[list[str]]:
    """The commands of the guide that restore a run, with their placeholders filled in; `...` stands for what the first command said."""
    section = GUIDE.read_text(encoding="utf-8").split("\n## Restore a run from S3 alone\n")[1]
    lines = re.findall(r"^mutual-forcing .*$", section.split("```")[1], re.MULTILINE)
    words = shlex.split(command_before)
    at = words.index("--out")
    same = [*words[1:at], *words[at + 2 :]]
    made = []
    for line in lines:
        told = shlex.split(line.replace("s3://BUCKET/RUN", uri).replace("runs/restored", str(out)))[1:]
        made.append([w for word in told for w in (same[1:] if word == "..." else [word])])
    return made


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    folder = tmp_path_factory.mktemp("disaster")
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as s3, mlflow_server(folder, str(folder / "artifacts")) as tracker:
        for name, value in CANARIES.items():
            patch.setenv(name, value)
        tracker.start()
        uri = f"{s3.uri}/one"
        store = store_of(uri)
        environment = {
            "MLFLOW_TRACKING_URI": tracker.uri.replace("://", f"://me:{PASSWORD}@"),
            "XDG_CACHE_HOME": str(folder / "first" / "cache"),
        }
        first = Training(folder / "first" / "run", STEPS, EVERY, f"remote.uri={uri}")
        watched, said = [], ""

        with Machines(2) as machines, Running(*first.words, environment=environment | machines.environment) as running:
            with Watch(here, Path(machines.environment["RAY_TMPDIR"])) as watch:
                running.until(lambda: last_commit(store) >= LOST_AFTER and there(store), 900)
                for node in set(machines.processes("RayTrainWorker").values()):
                    machines.lose(node)
            running.kill()
            said += running.said().out + running.said().error
            watched.append(watch)
        shutil.rmtree(folder / "first")
        step = last_commit(store)
        assert step < STEPS, "it was lost too late to see anything: stretch the stage"

        second = Training(folder / "second" / "elsewhere", STEPS, EVERY)
        environment["XDG_CACHE_HOME"] = str(folder / "second" / "cache")
        before = json.loads(store.fetch("run.json").read_bytes())["commands"][0]
        with Machines(3) as machines, Watch(here, Path(machines.environment["RAY_TMPDIR"])) as watch:
            for words in documented(uri, second.folder, before):
                done = command(*words, environment=environment | machines.environment, seconds=900)
                assert done.code == 0, f"{words}: {done.error}"
                said += done.out + done.error
        watched.append(watch)
        yield Restored(second, store, step, said, watched, folder)


def here() -> set[int]:
    """This process's children, and theirs."""
    return {process.pid for process in psutil.Process(os.getpid()).children(recursive=True)}


def last_commit(store: Store) -> int:
    steps = [int(name.split("/")[2][:8]) for name in store.names("checkpoints/mutual/") if name.endswith("/COMMIT")]
    return max(steps, default=-1)


def there(store: Store) -> bool:
    return {f"data/{MANIFEST}", "metrics/mutual.jsonl", "run.json"} <= store.names().keys()


def test_it_goes_on_from_the_last_commit_and_ends_as_if_nothing_had_happened(restored: Restored, tmp_path: Path) -> None:
    assert "was brought to" in restored.said
    mine, theirs = restored.run.figures(whole=False), undisturbed(tmp_path / "undisturbed", STEPS).figures()
    assert list(mine) == list(theirs)
    for stage, steps in theirs.items():
        assert set(mine[stage]) <= set(steps)
        if stage == "mutual":
            assert set(mine[stage]) >= {step for step in steps if step >= restored.from_step}, "all that was trained since"
        else:
            assert mine[stage], "metrics of the lost machine"
        assert all(mine[stage][step] == steps[step] for step in mine[stage]), stage
    audit = json.loads(command("audit", str(restored.run.folder), "--json").out)
    assert [one["faults"] for one in audit] == [[]] * len(theirs)
    assert {"report.html", "samples/samples.json"} <= restored.store.names().keys()


def test_the_tracker_has_one_run_that_went_on(restored: Restored) -> None:
    record = json.loads((restored.run.folder / "run.json").read_text())["mlflow"]
    client = MlflowClient(tracking_uri=f"sqlite:///{restored.tracker / 'server.db'}")
    history = client.get_metric_history(record["run_id"], "mutual.loss")
    assert sorted({m.step for m in history})[-1] == STEPS - 1
    assert client.get_run(record["run_id"]).info.status == "FINISHED"
    assert PASSWORD not in record["tracking_uri"]


def test_no_secret_is_in_the_bucket_the_tracker_the_run_the_terminal_a_log_or_a_process(restored: Restored, tmp_path: Path) -> None:
    assert leaked(restored.said.encode()) == []
    for watch in restored.watched:
        assert watch.found == set()
        assert any("raylet" in where for where in watch.seen)
        assert any("ray::" in where or "default_worker" in where for where in watch.seen), "workers were looked at"
        assert any(where.startswith("log worker") for where in watch.seen), "and their logs"
    assert leaks([restored.tracker]) == [], "the run folder, the server's database, its artifacts and its log"
    for name in restored.store.names():
        assert leaked(restored.store.fetch(name).read_bytes()) == [], name
