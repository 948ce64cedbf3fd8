"""A prepared dataset enters a run whole and checked, and the run does not need the other folder afterwards; changed sources are refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from dataset_material import CONFIG, make_dataset

from mutual_forcing.datasets.adopt import adopt, prepared_dataset
from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.format.account import SOURCES, SourceLine, read_account, write_account
from mutual_forcing.datasets.format.manifest import read_manifest
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.pipeline import prepare
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.progress import silent
from mutual_forcing.datasets.unchanged import require_unchanged


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def config(prepared: Path) -> DataConfig:
    return replace(CONFIG, prepared=str(prepared))


def test_the_run_has_all_of_it_and_needs_the_folder_no_more(tmp_path: Path, prepared: Path, config: DataConfig) -> None:
    out = tmp_path / "run" / "data"
    wanted = read_manifest(prepared)
    assert prepare(config, out, silent) == wanted == read_manifest(out)
    (prepared / SOURCES).write_text("changed\n")
    shutil.rmtree(prepared)
    assert [line.path for line in read_account(out / SOURCES)] == ["a.mp4"]
    assert adopt(config, out, silent) == wanted


def test_where_links_are_impossible_files_are_copied(tmp_path: Path, config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    adopt(config, tmp_path / "data", silent)
    assert read_manifest(tmp_path / "data").clips == 3


def test_what_a_killed_attempt_left_is_replaced(tmp_path: Path, config: DataConfig) -> None:
    out = tmp_path / "data"
    out.mkdir()
    (out / "shard-0.arrow").write_bytes(b"half")
    assert adopt(config, out, silent) == read_manifest(out)


def test_a_dataset_prepared_again_is_refused(tmp_path: Path, prepared: Path, config: DataConfig) -> None:
    adopt(config, tmp_path / "data", silent)
    shutil.rmtree(prepared)
    make_dataset(prepared, clips=4)
    with pytest.raises(ValueError, match=r"data\.prepared=.*prepared again since.*--out"):
        adopt(config, tmp_path / "data", silent)
    assert read_manifest(tmp_path / "data").clips == 3


def test_a_dataset_whose_sources_alone_are_counted_anew_is_the_run_s(tmp_path: Path, prepared: Path, config: DataConfig) -> None:
    made = adopt(config, tmp_path / "data", silent)
    replace(made, sources_refused=3).write(prepared)
    assert adopt(config, tmp_path / "data", silent) == made


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("timeline.fps", 25),
        ("timeline.sample_rate", 22050),
        ("timeline.chunk_frames", 8),
        ("video_codec.channels", 24),
        ("audio_codec.channels", 64),
        ("clip_chunks", 2),
        ("width", 32),
    ],
)
def test_what_does_not_fit_the_recipe_is_refused_by_name(prepared: Path, config: DataConfig, place: str, value: int) -> None:
    path = prepared / "manifest.json"
    data = json.loads(path.read_text())
    node, *rest = (data, *place.split("."))
    for key in rest[:-1]:
        node = node[key]
    node[rest[-1]] = value
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"made with data\.{place}={value}, this recipe has .*--set data\.{place}={value}") as caught:
        prepared_dataset(config)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_dataset_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data prepare"):
        prepared_dataset(replace(CONFIG, prepared=str(tmp_path)))


def test_sources_that_have_changed_are_refused(tmp_path: Path) -> None:
    media, out = tmp_path / "media", tmp_path / "data"
    media.mkdir()
    (media / "a.mp4").write_bytes(b"one")
    config = replace(CONFIG, media=str(media))
    require_unchanged(config, out)  # nothing has been made of them yet
    manifest = replace(make_dataset(out), settings=config.shaping())
    manifest.write(out)
    lines = [SourceLine(source.name, "used", clips=3, stamp=source.stamp) for source in sources_of([str(media)])]
    write_account(LocalStore(out), manifest.account, lines)
    require_unchanged(config, out)
    (media / "b.mp4").write_bytes(b"two")
    with pytest.raises(ValueError, match=r"data\.media=.*have changed.*--out") as caught:
        require_unchanged(config, out)
    assert "\n" not in str(caught.value)
    (media / "b.mp4").unlink()
    require_unchanged(config, out)
    shutil.rmtree(media)
    with pytest.raises(ValueError, match="cannot be found"):
        require_unchanged(config, out)


def test_a_prepared_dataset_that_has_changed_is_refused(tmp_path: Path, prepared: Path, config: DataConfig) -> None:
    adopt(config, tmp_path / "data", silent)
    require_unchanged(config, tmp_path / "data")
    make_dataset(prepared, clips=4)
    with pytest.raises(ValueError, match="prepared again since"):
        require_unchanged(config, tmp_path / "data")
