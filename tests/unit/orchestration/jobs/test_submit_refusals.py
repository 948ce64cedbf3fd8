"""What `submit` and `resume` refuse before anything is sent: names that would share a run folder, folders that somebody trains in."""

from __future__ import annotations

import pytest
from head_material import Head

from mutual_forcing.orchestration.jobs.cluster import Cluster
from mutual_forcing.orchestration.jobs.spec import JobSpec
from mutual_forcing.orchestration.jobs.submit import Wishes, resume, submit


def quiet(_: str) -> None:
    pass


def started(head: Head) -> list[str]:
    return [request for request in head.asked if not request.startswith("GET ")]


@pytest.mark.parametrize("name", ["seed.2", "demo-lr-0.01", "a.b.3"])
def test_a_name_that_ends_as_continuations_do_is_refused(name: str) -> None:
    head = Head()
    with head as cluster, pytest.raises(ValueError, match=r"ends as the continuations do") as refused:
        submit(cluster, JobSpec("tiny"), Wishes(name), quiet, quiet)
    assert repr(name.replace(".", "-")) in str(refused.value)
    assert not started(head)


def going_on(cluster: Cluster) -> None:
    resume(cluster, "mine", Wishes(), quiet, quiet)


def test_a_run_is_not_gone_on_with_while_a_continuation_of_it_runs() -> None:
    head = Head()
    head.job("mine", "STOPPED", JobSpec("tiny"))
    head.job("mine.2", "RUNNING", JobSpec("tiny", out="~/mutual-forcing/runs/mine"))
    with head as cluster, pytest.raises(ValueError, match=r"^job 'mine\.2': it is RUNNING in the same run folder.*stop mine\.2"):
        going_on(cluster)
    assert not started(head)


def test_two_jobs_do_not_train_in_one_folder() -> None:
    head = Head()
    head.job("theirs", "PENDING", JobSpec("tiny", out="/runs/one"))
    with head as cluster, pytest.raises(ValueError, match=r"^job 'theirs': it is PENDING in the same run folder, /runs/one"):
        submit(cluster, JobSpec("tiny", out="/runs/one"), Wishes("mine"), quiet, quiet)
    assert not started(head)


def test_what_is_over_or_not_ours_keeps_nobody_out() -> None:
    head = Head()
    head.job("mine", "STOPPED", JobSpec("tiny", out="/runs/one"))
    head.job("mine.2", "FAILED", JobSpec("tiny", out="/runs/one"))
    head.job("other", "RUNNING")
    head.job("elsewhere", "RUNNING", JobSpec("tiny", out="/runs/two"))
    with head as cluster, pytest.raises(ValueError, match=r"probe-mine\.3"):
        going_on(cluster)
    assert started(head), "the probe is sent"
