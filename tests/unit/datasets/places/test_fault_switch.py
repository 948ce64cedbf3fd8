"""Calls that fail on purpose: those that are named, for as long as was said, and never for longer."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from s3_server import s3_server

from mutual_forcing.datasets.places import fault_switch, store
from mutual_forcing.datasets.places.fault_switch import LONGEST, FailsOnPurpose, may_fail, switch_off, switch_on, tracker_of
from mutual_forcing.datasets.places.store import store_of, write_bytes
from mutual_forcing.orchestration.tracking import Tracker


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fault_switch, "FOLDER", tmp_path / "switches")
    return tmp_path / "switches"


def fails(what: str) -> bool:
    try:
        may_fail(what)
    except FailsOnPurpose:
        return True
    return False


def test_what_is_named_fails_and_what_is_below_it_until_it_is_switched_off(folder: Path) -> None:
    assert not fails("s3://bucket/one")
    switch_on("s3://bucket/one", 60)
    assert [fails(f"s3://bucket/{name}") for name in ("one", "one/checkpoints", "one-more", "two")] == [True, True, False, False]
    assert not fails(tracker_of("/runs/one"))
    switch_off("s3://bucket/one")
    assert not fails("s3://bucket/one")
    assert not folder.exists()


def test_a_switch_ends_by_itself(folder: Path) -> None:
    switch_on("s3://bucket/one", 0.2)
    assert fails("s3://bucket/one")
    time.sleep(0.25)
    assert not fails("s3://bucket/one")
    path = switch_on("s3://bucket/one", 60)
    path.write_text(json.dumps({"what": "s3://bucket/one", "until": time.time() + LONGEST + 60, "share": 1.0}))
    assert not fails("s3://bucket/one"), "one that would last longer than any may counts as none"


def test_a_share_of_the_calls_fails() -> None:
    switch_on("s3://bucket", 60, share=0.5)
    assert 20 < sum(fails("s3://bucket/one") for _ in range(100)) < 80


@pytest.mark.parametrize("content", ["", "[", "[]", "1" * 5000, '{"what": 1}', '{"until": null, "share": 1, "what": "s3://bucket"}'])
def test_what_is_no_switch_is_none(folder: Path, content: str) -> None:
    folder.mkdir(mode=0o700)
    (folder / "a.json").write_text(content)
    assert not fails("s3://bucket")


def test_folders_in_which_others_may_write_are_refused(folder: Path, tmp_path: Path) -> None:
    switch_on("s3://bucket", 60)
    folder.chmod(0o777)
    assert not fails("s3://bucket")
    with pytest.raises(PermissionError, match="others may write"):
        switch_on("s3://bucket", 60)
    folder.chmod(0o700)
    assert fails("s3://bucket")
    os.rename(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert not fails("s3://bucket")


def test_folders_of_somebody_else_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch_on("s3://bucket", 60)
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)  # seen by another user, it is somebody else's
    assert not fails("s3://bucket")
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        switch_on("s3://bucket", 60)


@pytest.mark.parametrize(("seconds", "share"), [(0.0, 1.0), (LONGEST + 1, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_times_and_shares_are_bounded(seconds: float, share: float) -> None:
    with pytest.raises(ValueError, match="must be more than 0"):
        switch_on("s3://bucket", seconds, share)


def test_a_store_sees_its_requests_fail_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch) as s3:
        monkeypatch.setattr(store, "FIRST_PAUSE", 0.01)
        mine, other = store_of(f"{s3.uri}/one"), store_of(f"{s3.uri}/two")
        write_bytes(mine, "a", b"1")
        switch_on(f"{s3.uri}/one", 60)
        with pytest.raises(OSError, match="on purpose"):
            mine.names()
        assert other.names() == {}
        switch_on(f"{s3.uri}/one", 60, share=0.5)
        assert mine.names() == {"a": 1}, "seven tries at half of them"
        switch_off(f"{s3.uri}/one")


def test_a_tracker_takes_it_for_a_server_that_is_away(tmp_path: Path) -> None:
    said = list[str]()
    switch_on(tracker_of(tmp_path / "run"), 60)
    tracker = Tracker(tmp_path / "run", "one", ["joint"], lambda _: False, said.append)
    tracker.open({}, {})
    tracker.finish("FAILED")
    assert len(said) == 1
    assert "cannot be reached (FailsOnPurpose)" in said[0]
