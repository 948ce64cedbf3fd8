"""Sources that end their worker: each is tried again, and not for ever; what lies beside it in a task is made."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import ending_work_material
import pytest
from ending_work_material import EndingLook, EndingMakePart, EndingWork
from media_material import write_film
from ray import cloudpickle
from ray.experimental import internal_kv

from mutual_forcing.datasets import pipeline
from mutual_forcing.datasets.config import DataConfig, PoolConfig
from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, write_corpus
from mutual_forcing.datasets.format.account import read_account
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.pipeline import prepare
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.preparing.audit import audit
from mutual_forcing.datasets.preparing.spread import spread
from mutual_forcing.datasets.preparing.trials import MOST, SPACE, UNWATCHED, Trials, trials

cloudpickle.register_pickle_by_value(ending_work_material)  # Ray's processes do not find the tests' modules
REFUSED = "ended its worker 2 times: a crash, or more memory than there is"


@pytest.fixture
def job() -> str:
    return secrets.token_hex(4)


@pytest.mark.usefixtures("ray_cluster")
def test_a_source_that_ended_two_workers_is_not_begun_again(job: str) -> None:
    seen = Trials(job, lambda: frozenset({"here"}))
    assert [seen.begin("task", "bad.mp4", worker, "here") for worker in "abcd"] == [0, 0, MOST, MOST]
    assert seen.begin("another task", "bad.mp4", "e", "here") == MOST, "another stage need not lose two more"
    assert seen.begin("task", "good.mp4", "c", "here") == 0
    assert Trials(job + "2", lambda: frozenset({"here"})).begin("task", "bad.mp4", "f", "here") == 0, "of another job"


@pytest.mark.usefixtures("ray_cluster")
def test_what_was_ended_or_goes_on_elsewhere_does_not_count(job: str) -> None:
    seen = Trials(job, lambda: frozenset({"here"}))
    for worker in "abc":
        assert seen.begin("task", "a.mp4", worker, "here") == 0
        seen.end("task", "a.mp4", worker, "here")
    for number in range(5):
        assert seen.begin(f"task {number}", "a.mp4", f"worker {number}", "here") == 0
        assert seen.begin("task", "a.mp4", "the same", "here") == 0


@pytest.mark.usefixtures("ray_cluster")
def test_a_good_beginning_forgives_nothing(job: str) -> None:
    seen = Trials(job, lambda: frozenset({"here"}))

    def task(worker: str) -> int:
        if ended := seen.begin("task", "film.mp4", worker, "here"):
            return ended
        seen.end("task", "film.mp4", worker, "here")  # its first clip is made
        return seen.begin("task", "film.mp4", worker, "here")  # the second one ends the worker

    assert [task(worker) for worker in "abc"] == [0, 0, MOST]


@pytest.mark.usefixtures("ray_cluster")
def test_what_went_away_with_its_machine_does_not_count(job: str) -> None:
    nodes = {"here", "there"}
    seen = Trials(job, lambda: frozenset(nodes))
    assert [seen.begin("task", "a.mp4", worker, place) for worker, place in (("a", "there"), ("b", "here"))] == [0, 0]
    nodes.remove("there")
    assert seen.begin("task", "a.mp4", "c", "here") == 0
    assert seen.begin("task", "a.mp4", "d", "here") == MOST


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["a/b/refused/9", "-x\n'\"", "naïve \udcff.mp4"])
def test_a_name_is_only_a_name(job: str, name: str) -> None:
    seen = Trials(job, lambda: frozenset({"here"}))
    assert [seen.begin("task", name, worker, "here") for worker in "abc"] == [0, 0, MOST]


@pytest.mark.usefixtures("ray_cluster")
def test_nothing_is_left_in_the_store_of_a_job_that_ended() -> None:
    before = internal_kv._internal_kv_list("", namespace=SPACE)
    with trials() as watched:
        watched.begin("task", "a.mp4", "a", "here")
        assert len(internal_kv._internal_kv_list("", namespace=SPACE)) == len(before) + 1
    assert internal_kv._internal_kv_list("", namespace=SPACE) == before


def test_without_a_job_nobody_is_asked() -> None:
    for _ in range(9):
        with UNWATCHED.of("a.mp4"):
            pass


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
@pytest.mark.parametrize("held", [False, True])
def test_a_task_goes_on_beside_sources_that_end_its_worker(tmp_path: Path, held: bool) -> None:
    pool = PoolConfig(max_workers=2, min_workers=int(held))
    rows = [{"sources": ["good 1", "always 1", "once 1", "always 2", "good 2"]}, {"sources": ["good 3"]}]
    with trials() as watched:
        made = list(spread(rows, EndingWork(tmp_path, watched), "work", pool, together=1))
        again = list(spread([{"sources": ["always 1"]}], EndingWork(tmp_path, watched), "another stage", pool))
    found = dict(line.split(": ", 1) for row in made for line in row["became"])
    assert found == dict.fromkeys(("good 1", "good 2", "good 3", "once 1"), "used") | dict.fromkeys(
        ("always 1", "always 2"), f"decode, {REFUSED}"
    )
    assert [row["became"] for row in again] == [[f"always 1: decode, {REFUSED}"]]
    tries = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert tries["always 1"] == tries["always 2"] == MOST
    assert tries["good 2"] == tries["good 3"] == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_ends_beside_files_that_end_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media, out = tmp_path / "media", tmp_path / "data"
    write_corpus(SyntheticConfig(count=3, seconds=1.2, width=32, height=32, seed=3), media)
    bad = {"ends look.mp4", "ends making.mp4"}
    for seed, name in enumerate(sorted(bad)):
        write_film(media / name, 1.3, seed=seed)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "Look", EndingLook)
        patch.setattr(pipeline, "MakePart", EndingMakePart)
        config = DataConfig(media=str(media), clip_chunks=2, width=32, height=32)
        manifest = prepare(config, out)
    assert (manifest.sources_used, manifest.sources_refused) == (3, 2)
    lines = {line.path: line for line in read_account(out / manifest.account)}
    assert {name: (lines[name].stage, lines[name].reason) for name in bad} == dict.fromkeys(bad, ("decode", REFUSED))
    assert audit(LocalStore(out), sources_of(config.inputs)).faults == ()
    undisturbed = prepare(replace(config, media=[str(path) for path in sorted(media.glob("character*"))]), tmp_path / "other")
    assert {shard.rows for shard in undisturbed.shards} == {shard.rows for shard in manifest.shards}
    assert undisturbed.clips == manifest.clips
