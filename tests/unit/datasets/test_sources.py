"""What the user gave: every file listed once, sidecars read or refused by name, words cut onto the clip's clock."""

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.sources import MAX_SIDECAR_BYTES, Sidecar, cut_words, list_sources, parse_sidecar, read_sidecar, unfollowed


def test_every_file_is_listed_but_sidecars_and_hidden_ones(tmp_path):
    sources = ["b.mp4", "a/x.webm", "a/x.txt", "lone.json", "c.JSON", "c.mp4", "noend"]
    for name in [*sources, "b.json", "corpus.json", ".hidden.mp4", ".git/y.mp4"]:
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


def test_a_sidecar_that_cannot_be_read_is_refused_by_name(tmp_path):
    (tmp_path / "a.json").symlink_to("/proc/self/mem")  # a file whose first byte nobody may read
    with pytest.raises(ValueError, match=r"sidecar a\.json: cannot be read \(Input/output error\); change its permissions"):
        read_sidecar(tmp_path / "a.mp4")


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


def test_a_sidecar_is_read(tmp_path):
    media = tmp_path / "a.b.mp4"
    assert read_sidecar(media) == Sidecar()
    transcript = [{"word": "größe", "start": 0, "end": 0.5}, {"word": "猫", "start": 0.5, "end": 0.5}]
    (tmp_path / "a.b.json").write_text(json.dumps({"caption": "A cat.", "transcript": transcript, "other": 1}))
    assert read_sidecar(media) == Sidecar("A cat.", (("größe", 0.0, 0.5), ("猫", 0.5, 0.5)))
    (tmp_path / "a.b.json").write_text("{}")
    assert read_sidecar(media) == Sidecar()
    assert read_sidecar(tmp_path / "a.b.json") == Sidecar()


def test_the_sidecar_of_the_documentation_is_one():
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    sidecar = parse_sidecar(json.loads(example), "talk.json")
    assert sidecar.caption
    assert sidecar.words[0] == ("good", 0.31, 0.52)


def word(**change: object) -> str:
    return json.dumps({"transcript": [{"word": "a", "start": 0.1, "end": 0.2, **change}]})


BAD_SIDECARS = [
    ("", "not JSON"),
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ('{"transcript": [{"word": "a", "start": ' + "9" * 5000 + ', "end": 1}]}', "not JSON"),
    ('{"transcript": [{"word": "a", "start": ' + "9" * 400 + ', "end": 1}]}', r"transcript\[0\]"),
    ("[]", "must look like"),
    ('{"caption": 3}', "must look like"),
    ('{"transcript": "hello"}', "must look like"),
    ('{"transcript": ["hello"]}', r"transcript\[0\]='hello' must look like"),
    ('{"transcript": [{"word": "a"}]}', r"transcript\[0\]"),
    (word(start="soon"), "must look like"),
    (word(start=None), "must look like"),
    (word(start=float("nan")), "0 <= start <= end"),
    (word(end=float("inf")), "0 <= start <= end"),
    (word(start=-0.1), "0 <= start <= end"),
    (word(start=0.3), "0 <= start <= end"),
    (word(word="\ud83d"), "surrogate"),
    ('{"caption": "\\ud800"}', "surrogate"),
    ('{"caption": "' + "x" * MAX_SIDECAR_BYTES + '"}', "larger than"),
]


@pytest.mark.parametrize(("text", "reason"), BAD_SIDECARS, ids=[f"{i} {reason[:14]}" for i, (_, reason) in enumerate(BAD_SIDECARS)])
def test_a_bad_sidecar_is_refused_by_name(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=reason) as refused:
        read_sidecar(tmp_path / "a.mp4")
    assert str(refused.value).startswith("sidecar a.json: ")
    assert len(str(refused.value)) < 400


def test_a_sidecar_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"caption": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"sidecar a\.json: not JSON"):
        read_sidecar(tmp_path / "a.mp4")


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 40)), max_size=12), st.integers(0, 8), st.integers(1, 100))
def test_every_word_lands_in_each_clip_in_which_it_sounds(spans, first, length):
    """On a grid of 1/64 s, which floating point holds exactly, so that the algebra can be exact."""
    words = tuple((f"w{i}", start / 64, (start + long) / 64) for i, (start, long) in enumerate(spans))
    start, seconds = first * length / 64, length / 64
    cut = {name: (s, e) for name, s, e in cut_words(words, start, seconds)}
    for name, s, e in words:
        assert (name in cut) == (max(s, start) < min(e, start + seconds) or (s == e and start < s < start + seconds))
        if name in cut:
            assert cut[name] == (s - start, e - start)
