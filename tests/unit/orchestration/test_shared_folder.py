"""Folders that the machines of a cluster must share: judged, and tried on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.shared_folder import Need, judge, needs_of

RUN, APART = Path("/runs/one"), Path("/shared/checkpoints")
OTHER = ["other (10.0.0.2)"]
S3 = "remote.uri=s3://b/x"


def needs(*settings: str) -> list[Need]:
    return needs_of(with_settings(recipe("tiny"), list(settings)), RUN)


def test_what_lies_in_s3_need_not_be_shared() -> None:
    assert [(need.name, need.path, need.what) for need in needs()] == [("--out", RUN, "checkpoints"), ("--out", RUN, "data")]
    assert [(need.path, need.what) for need in needs(f"checkpoint.uri={APART}")] == [(APART, "checkpoints"), (RUN, "data")]
    assert [need.what for need in needs("checkpoint.uri=s3://b/x")] == ["data"]
    assert needs(S3) == []


@pytest.mark.parametrize(
    ("settings", "place", "parts"),
    [
        ([], RUN, ["--out='/runs/one'", "not find the checkpoints", "or set remote.uri="]),
        ([f"checkpoint.uri={APART}"], APART, ["checkpoint.uri='/shared", "checkpoints", "or set remote.uri="]),
        ([S3, f"checkpoint.uri={APART}"], APART, ["checkpoint.uri='/shared", "checkpoints", "or set checkpoint.uri=s3://"]),
        ([f"checkpoint.uri={APART}"], RUN, ["--out='/runs/one'", "not find the data", "or set remote.uri="]),
        ([S3, "data.stream_sources=4"], RUN, ["--out='/runs/one'", "characters that are streamed", "data.stream_sources=0"]),
        ([S3, "data.stream_sources=4", "data.media=/films"], Path("/films"), ["data.media='/films'", "media that are streamed", "into S3"]),
    ],
)
def test_a_machine_that_would_not_find_them_is_named(settings: list[str], place: Path, parts: list[str]) -> None:
    wanted = needs(*settings)
    with pytest.raises(ValueError, match="other") as refused:
        judge(wanted, {need.path: OTHER if need.path == place else [] for need in wanted})
    for part in parts:
        assert part in str(refused.value)
    judge(wanted, {need.path: [] for need in wanted})


def test_media_in_s3_may_be_streamed_anywhere() -> None:
    assert needs(S3, "data.stream_sources=4", "data.media=s3://b/films") == []
