"""What a user names: each file once, under a name that a further input does not change."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.intake import inputs as inputs_module
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.intake.sources import Source, in_folder, source_from_json, source_to_json


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def names(*inputs: Path | str, **how) -> list[str]:
    return [source.name for source in sources_of([str(one) for one in inputs], **how)]


def refusals(sources: Sequence[Source]) -> dict[str, str]:
    return {source.name: source.refused for source in sources if source.refused}


def test_a_folder_is_listed_with_what_is_no_media_refused(tmp_path):
    media = ["b.mp4", "a/x.webm", "c.mp4", "noend", "UPPER.MP4"]
    other = {"lone.json": "not a media file (.json)", "c.JSON": "not a media file (.json)", "list.csv": "a list is read when it is named"}
    tree(tmp_path, *media, *other, "b.json", "b.vtt", "a/x.txt", "a/x.srt", "corpus.json", ".hidden.mp4", ".git/y.mp4", "a/._x.webm")
    os.mkfifo(tmp_path / "pipe.mp4")
    found = sources_of([str(tmp_path)])
    assert [source.name for source in found] == sorted([*media, *other, "pipe.mp4"])
    assert refusals(found).keys() == {*other, "pipe.mp4"}
    assert all(reason in refusals(found)[name] for name, reason in {**other, "pipe.mp4": "a folder, pipe or device"}.items())
    beside = {source.name: [Path(place.path).name for place in source.beside] for source in found if source.beside}
    assert beside == {"b.mp4": ["b.json", "b.vtt"], "a/x.webm": ["x.srt", "x.txt"]}
    assert {source.path for source in found} == {str(tmp_path / source.name) for source in found}


def test_what_a_folder_must_not_lead_to_is_refused(tmp_path):
    media, outside = tree(tmp_path / "media", "inside/a.mp4"), tree(tmp_path / "outside", "a.mp4")
    targets = {"folder": outside, "loop": media, "broken.mp4": tmp_path / "none", "turning.mp4": media / "turning.mp4"}
    targets |= {"out.mp4": outside / "a.mp4", "in.mp4": media / "inside" / "a.mp4"}
    for name, target in targets.items():
        (media / name).symlink_to(target)
    strange = os.fsdecode(b"caf\xe9.mp4")
    (media / strange).write_text("x")
    found = sources_of([str(media)])
    assert {source.name for source in found} == {*targets, "inside/a.mp4", "caf\\udce9.mp4"}, "nothing behind a link is listed"
    reasons = refusals(found)
    parts = {"folder": "link to a folder", "loop": "link to a folder", "broken.mp4": "not there", "turning.mp4": "not there"}
    parts |= {"out.mp4": "out of the folder", "caf\\udce9.mp4": "not UTF-8: rename it"}
    assert reasons.keys() == parts.keys()
    assert all(part in reasons[name] for name, part in parts.items())
    for source in found:
        assert source_from_json(source_to_json(source)) == source
    assert refusals(sources_of([str(media), str(outside / "a.mp4"), str(media / "out.mp4")])).keys() == parts.keys() - {"out.mp4"}, (
        "what the user names is followed"
    )


def test_a_closed_folder_is_refused(tmp_path, monkeypatch):
    """Permissions do not bind the user that tests often run as: the system's answer is put in its mouth."""
    tree(tmp_path, "closed/b.mp4", "a.mp4")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = sources_of([str(tmp_path)])
    assert [source.name for source in found] == ["a.mp4", "closed"]
    assert refusals(found) == {"closed": "a folder that cannot be opened: change its permissions"}


def test_a_file_that_several_inputs_name_is_listed_once(tmp_path):
    folder = tree(tmp_path / "m", "sub/x.mp4", "sub/x.txt", "y.mp4")
    (tmp_path / "alias").symlink_to(folder)
    for inputs in (
        [folder, folder / "sub/x.mp4"],
        [folder / "sub", folder, folder],
        [tmp_path / "alias", folder],
        [folder / "y.mp4", folder],
    ):
        found = sources_of([str(one) for one in inputs])
        assert len(found) == 2
        assert {os.path.realpath(source.path) for source in found} == {str(folder / "sub/x.mp4"), str(folder / "y.mp4")}
        assert sum(len(source.beside) for source in found) == 1, "whoever names it, its text is beside it"
    assert names(folder / "sub/x.mp4", folder) == ["x.mp4", "y.mp4"], "the first name stays"


def test_names_that_are_taken_get_folders_before_them(tmp_path):
    tree(tmp_path, "one/clips/x.mp4", "two/clips/x.mp4", "two/clips/y.mp4", "three/x.mp4")
    one, two = tmp_path / "one/clips", tmp_path / "two/clips"
    assert names(one) == ["x.mp4"]
    assert names(one, two) == ["clips/x.mp4", "x.mp4", "y.mp4"]
    assert names(one, two, tmp_path / "three/x.mp4") == ["clips/x.mp4", "three/x.mp4", "x.mp4", "y.mp4"]
    assert names(tmp_path / "three/x.mp4", two, one) == ["clips/x.mp4", "one/clips/x.mp4", "x.mp4", "y.mp4"]
    known = {source.path: source.name for source in sources_of([str(one), str(two)])}
    for inputs in ([two, one], [tmp_path / "three", two, one]):
        found = {source.path: source.name for source in sources_of([str(i) for i in inputs], known)}
        assert found | known == found, "names that are known stay in any order"
        assert len(set(found.values())) == len(found)


NAMES = st.lists(st.sampled_from(["a", "b", "a/b", "b/a", "a/a/b", "b/b/a"]), min_size=1, max_size=4, unique=True)


@given(st.lists(st.tuples(st.sampled_from(["p", "q", "p/r", "q/r", "p/r/r"]), NAMES), min_size=1, max_size=4), st.data())
def test_any_inputs_in_any_order(tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, list[str]]], data: st.DataObject) -> None:
    """Every file of the made trees appears once; all but names is the same in any order; a further input changes no name."""
    root = tmp_path_factory.mktemp("any")
    for folder, files in made:
        tree(root, *(f"{folder}/{name}.mp4" for name in files))
    candidates = sorted({str(root / folder) for folder, _ in made}) + sorted(str(path) for path in root.rglob("*.mp4"))
    inputs = data.draw(st.lists(st.sampled_from(candidates), min_size=1, max_size=5))
    found = sources_of(inputs)
    wanted = {str(path) for path in root.rglob("*.mp4") if any(path.is_relative_to(one) for one in inputs)}
    assert sorted(source.path for source in found) == sorted(wanted)
    assert len({source.name for source in found}) == len(found)
    assert all(source.path.endswith(source.name) for source in found)
    other = sources_of(data.draw(st.permutations(inputs)))
    assert {(s.path, s.stamp, s.size) for s in other} == {(s.path, s.stamp, s.size) for s in found}
    named = {source.path: source.name for source in found}
    for count in range(1, len(inputs)):
        fewer = {source.path: source.name for source in sources_of(inputs[:count])}
        assert fewer == {path: named[path] for path in fewer}


def test_a_stamp_changes_with_a_file_and_with_what_is_beside_it(tmp_path):
    tree(tmp_path, "a.mp4", "a.json", "b.mp4")

    def stamps() -> dict[str, str]:
        return {source.name: source.stamp for source in in_folder(str(tmp_path))}

    before = stamps()
    assert stamps() == before
    os.utime(tmp_path / "a.json", (1, 1))
    changed = stamps()
    assert changed["a.mp4"] != before["a.mp4"]
    assert changed["b.mp4"] == before["b.mp4"]
    (tmp_path / "b.txt").write_text("a cat")
    assert stamps()["b.mp4"] != before["b.mp4"]


def test_inputs_that_are_none_are_named(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    strange = os.fsdecode(b"caf\xe9")
    for text, why in {
        "": "is empty",
        str(tmp_path / "absent"): "cannot be found",
        str(tmp_path / "empty"): "holds no files; put media files there",
        "https://host/clip.mp4": r"neither a local path nor s3://",
        "s3://": "names no bucket",
        strange: "not UTF-8",
    }.items():
        with pytest.raises(ValueError, match=why) as refused:
            sources_of([text])
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="none is named"):
        sources_of([])
    tree(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    monkeypatch.setattr(inputs_module, "MAX_SOURCES", 2)
    with pytest.raises(ValueError, match="at most 2 in one dataset; split it"):
        sources_of([str(tmp_path)])


def test_what_a_shell_names_beside_media_is_read_with_them(tmp_path: Path) -> None:
    """`data prepare folder/*`: sidecars are no sources of their own, and give their media the same text as where the folder is named."""
    tree(tmp_path, "a.mp4", "a.json", "b.mpg", "b.srt", "lone.txt")
    named = sources_of(sorted(map(str, tmp_path.iterdir())))
    assert named == sources_of([str(tmp_path)])
    assert [source.name for source in named] == ["a.mp4", "b.mpg", "lone.txt"]
    assert refusals(named) == {"lone.txt": "not a media file (.txt)"}
