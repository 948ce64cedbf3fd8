"""What the user gave: every file listed once, and nothing behind a link."""

import os
from pathlib import Path

import pytest

from mutual_forcing.datasets.sources import list_sources, unfollowed


def test_every_file_is_listed_but_sidecars_and_hidden_ones(tmp_path):
    sources = ["b.mp4", "a/x.webm", "lone.json", "lone.srt", "c.JSON", "c.mp4", "noend"]
    for name in [*sources, "b.json", "b.vtt", "a/x.txt", "a/x.srt", "corpus.json", ".hidden.mp4", ".git/y.mp4"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    os.mkfifo(tmp_path / "pipe.mp4")
    found = [str(path.relative_to(tmp_path)) for path in list_sources(tmp_path)]
    assert found == sorted([*sources, "pipe.mp4"])
    assert {unfollowed(path, tmp_path) for path in list_sources(tmp_path)} == {""}


def test_links_are_listed_and_lead_nowhere(tmp_path):
    media, outside = tmp_path / "media", tmp_path / "outside"
    for folder in (media / "inside", outside):
        folder.mkdir(parents=True)
        (folder / "a.mp4").write_text("x")
    targets = {"folder": outside, "loop": media, "broken.mp4": tmp_path / "none", "turning.mp4": media / "turning.mp4"}
    targets |= {"out.mp4": outside / "a.mp4", "in.mp4": media / "inside" / "a.mp4"}
    for name, target in targets.items():
        (media / name).symlink_to(target)
    reasons = {str(path.relative_to(media)): unfollowed(path, media) for path in list_sources(media)}
    assert reasons.keys() == {*targets, "inside/a.mp4"}, "nothing behind a link is listed"
    assert reasons["in.mp4"] == reasons["inside/a.mp4"] == ""
    assert reasons["folder"] == reasons["loop"]
    for name, part in {
        "folder": "link to a folder",
        "broken.mp4": "not there",
        "turning.mp4": "not there",
        "out.mp4": "out of the",
    }.items():
        assert part in reasons[name]


def test_a_closed_folder_is_listed(tmp_path, monkeypatch):
    """Permissions do not bind the user that tests often run as: the system's answer is put in its mouth."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.mp4").write_text("x")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list_sources(tmp_path)
    assert [path.name for path in found] == ["a.mp4", "closed"]
    assert "cannot be opened" in unfollowed(found[1], tmp_path)


def test_folders_without_sources_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match=r"data\.media="):
            list_sources(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="no such folder"):
        list_sources(tmp_path / "file")
    strange = tmp_path / os.fsdecode(b"caf\xe9")
    strange.mkdir()
    with pytest.raises(ValueError, match="not UTF-8"):
        list_sources(strange)
