"""A job as text: what the cluster keeps of it is enough to go on with it, and a shell runs no word of a user's."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.orchestration.jobs.secrets import REFERENCES
from mutual_forcing.orchestration.jobs.spec import HOOK, KEY, JobSpec, next_of, of_metadata, require_id, root_of

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
SPECS = st.builds(
    JobSpec,
    recipe=WORDS,
    settings=st.lists(WORDS, max_size=3).map(tuple),
    media=st.none() | WORDS,
    data=st.none() | WORDS,
    out=WORDS,
    env=st.dictionaries(WORDS, WORDS, max_size=2),
    secrets=st.dictionaries(WORDS, WORDS, max_size=2),
    restarts=st.integers(0, 9),
    stop_s=st.integers(1, 999),
    tag=WORDS,
    python=WORDS.filter(bool),
)


@given(SPECS)
def test_what_the_cluster_keeps_gives_the_job_back(spec: JobSpec) -> None:
    kept = spec.metadata({"git_commit": "abc"})
    assert all(isinstance(value, str) for value in kept.values())
    assert of_metadata(kept, "job") == spec


@given(SPECS)
def test_a_shell_reads_the_words_as_they_are(spec: JobSpec) -> None:
    words = shlex.split(spec.entrypoint("mine.3"))
    assert words[words.index("--", 3) + 1 :] == spec.arguments("mine.3")


def test_continuations_share_a_run_folder() -> None:
    spec = JobSpec("demo")
    assert spec.run_folder("mine") == spec.run_folder("mine.2") == "~/mutual-forcing/runs/mine"
    assert [next_of(job, {"mine", "mine.2"}) for job in ("mine", "mine.2")] == ["mine.3", "mine.3"]
    assert root_of("a.b.12") == "a.b"


def test_secrets_bring_the_hook_that_reads_them_and_packages_an_installation() -> None:
    plain = JobSpec("demo", env={"A": "b"}).runtime_env("x.whl", [])
    assert plain["env_vars"]["A"] == "b"
    assert not {"worker_process_setup_hook", "pip"} & plain.keys()
    assert plain["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "600", "Ray's own patience is 3 s: too short for a checkpoint"
    full = JobSpec("demo", secrets={"K": "file:/k"}).runtime_env("x.whl", ["numpy==2.4.6"])
    assert full["worker_process_setup_hook"] == HOOK
    assert full["env_vars"][REFERENCES] == "K=file:/k"
    assert full["pip"]["packages"] == ["numpy==2.4.6"]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "was not submitted by"),
        ({"recipe": "demo"}, "was not submitted by"),
        ({KEY: "{"}, "cannot be read"),
        ({KEY: "[]"}, "cannot be read"),
        ({KEY: json.dumps({"version": 1, "surprise": 2})}, "cannot be read"),
        ({KEY: json.dumps({"version": 99})}, "newer version"),
    ],
)
def test_other_jobs_are_refused(metadata: dict[str, str] | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        of_metadata(metadata, "job")


@pytest.mark.parametrize("job", ["", "-x", "a/b", "a b", "a?b", "x" * 101, "é"])
def test_names_that_would_steer_an_address_are_refused(job: str) -> None:
    with pytest.raises(ValueError, match="use letters"):
        require_id(job)
