"""Folders that the machines of a cluster must share: judged, and tried on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.shared_folder import judge, local_folders

RUN, APART = Path("/runs/one"), Path("/shared/checkpoints")
OTHER = ["other (10.0.0.2)"]


def test_what_lies_in_s3_need_not_be_shared() -> None:
    def folders(*settings: str) -> dict[str, Path]:
        return local_folders(with_settings(recipe("tiny"), list(settings)), RUN)

    assert folders() == {"--out": RUN, "checkpoint.uri": RUN}
    assert folders(f"checkpoint.uri={APART}") == {"--out": RUN, "checkpoint.uri": APART}
    assert folders("remote.uri=s3://b/x") == folders("checkpoint.uri=s3://b/x") == {"--out": RUN}


@pytest.mark.parametrize(
    ("local", "unseen_by", "elsewhere", "parts"),
    [
        ({"--out": RUN, "checkpoint.uri": RUN}, {"--out": OTHER, "checkpoint.uri": OTHER}, False, ["--out='/runs/one'", "set remote.uri="]),
        ({"--out": RUN, "checkpoint.uri": APART}, {"--out": [], "checkpoint.uri": OTHER}, True, ["checkpoint.uri='/shared", "=s3://"]),
        ({"--out": RUN, "checkpoint.uri": APART}, {"--out": OTHER, "checkpoint.uri": []}, False, ["not find the data", "set remote.uri="]),
        ({"--out": RUN}, {"--out": OTHER}, False, ["--out='/runs/one'", "not find the data"]),
    ],
)
def test_a_machine_that_would_not_find_them_is_named(
    local: dict[str, Path], unseen_by: dict[str, list[str]], elsewhere: bool, parts: list[str]
) -> None:
    with pytest.raises(ValueError, match="other") as refused:
        judge(local, unseen_by, elsewhere)
    for part in parts:
        assert part in str(refused.value)


def test_a_run_folder_alone_need_not_be_shared() -> None:
    judge({"--out": RUN}, {"--out": OTHER}, True)
