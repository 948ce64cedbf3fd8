"""Which sources a dataset has not seen: decided from names, stamps and what became of them."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.format.account import UNREAD, SourceLine
from mutual_forcing.datasets.intake.sources import Source
from mutual_forcing.datasets.preparing.growth import Again, growth, listed

USED = SourceLine("used", "used", clips=1, stamp="1")
REFUSED = SourceLine("refused", "refused", "decode", "damaged in 3 places", stamp="1")
LOST = SourceLine("lost", "refused", UNREAD, "cannot be read", stamp="1")
ACCOUNT = {line.path: line for line in (USED, REFUSED, LOST)}


def source(name: str, stamp: str = "1") -> Source:
    return Source(name, f"/media/{name}", stamp)


def names(found: tuple[Source, ...]) -> list[str]:
    return [s.name for s in found]


def test_new_sources_and_unread_ones_are_fresh_and_the_rest_is_as_it_was() -> None:
    found = growth([source("used"), source("refused"), source("lost"), source("new")], ACCOUNT, None)
    assert names(found.fresh) == ["lost", "new"]
    assert (found.added, found.changed, found.gone) == (("new",), (), ())


def test_a_refused_source_that_changed_is_tried_again_and_a_used_one_is_named() -> None:
    found = growth([source("used", "2"), source("refused", "2")], ACCOUNT, None)
    assert (names(found.fresh), found.added, found.changed, found.gone) == (["refused"], ("refused",), ("used",), ("lost",))


def test_refused_sources_are_tried_again_when_they_are_asked_for() -> None:
    listed = [source("used"), source("refused")]
    for again, wanted in (
        (Again(), ["refused"]),
        (Again(stage="decode"), ["refused"]),
        (Again(stage="probe"), []),
        (Again(words="damaged"), ["refused"]),
        (Again(stage="decode", words="silent"), []),
    ):
        assert names(growth(listed, ACCOUNT, again).fresh) == wanted, again


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("12")), unique_by=lambda x: x[0]), st.data())
def test_every_source_is_one_of_fresh_changed_known_or_gone(listed: list[tuple[str, str]], data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.sampled_from("abcdefg"), unique=True))
    account = {n: replace(data.draw(st.sampled_from((USED, REFUSED, LOST))), path=n) for n in lines}
    sources = [source(*item) for item in listed]
    found = growth(sources, account, None)
    fresh, named = set(names(found.fresh)), {s.name for s in sources}
    known = {s.name for s in sources if s.name in account and s.name not in fresh and s.name not in found.changed}
    assert fresh | set(found.changed) | known == named
    assert not fresh & set(found.changed)
    assert set(found.gone) == account.keys() - named
    assert all(account[n].used for n in found.changed)
    again = growth(sources, account | {s.name: replace(USED, path=s.name, stamp=s.stamp) for s in found.fresh}, None)
    assert not again.fresh, "what was made is not made again"


def test_names_stay_whatever_is_added_and_wherever_all_is_moved(tmp_path: Path) -> None:
    one, other, moved = tmp_path / "one", tmp_path / "other", tmp_path / "moved"
    for folder in (one, other):
        folder.mkdir()
        (folder / "a.mp4").write_bytes(folder.name.encode())
    inputs = [str(one), str(other)]
    lines = [SourceLine(s.name, "used", stamp=s.stamp, where=s.path) for s in listed(inputs, [])]
    before = {line.where: line.path for line in lines}
    assert len(set(before.values())) == 2
    (one / "other").mkdir()
    (one / "other" / "a.mp4").write_bytes(b"takes the name that another has")
    after = {s.path: s.name for s in listed(inputs, lines)}
    assert before.items() <= after.items()
    assert len(set(after.values())) == 3
    shutil.rmtree(one / "other")
    one.rename(moved)
    assert [s.name for s in listed([str(moved)], lines)] == [before[str(one / "a.mp4")]]


def test_a_file_of_another_folder_does_not_pass_for_one_that_has_its_name_and_stamp(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").write_bytes(folder[:3].encode())
        os.utime(tmp_path / folder / "a.wav", (0, 0))
    (first,) = listed([str(tmp_path / "one")], [])
    lines = [SourceLine(first.name, "used", stamp=first.stamp, where=first.path)]
    (second,) = listed([str(tmp_path / "other")], lines)
    assert second.name != first.name
    assert names(growth([second], {line.path: line for line in lines}, None).fresh) == [second.name]


def test_the_twin_of_a_source_that_came_to_nothing_is_tried() -> None:
    twin = SourceLine("twin", "refused", "filter", "same content as refused", stamp="1")
    kept = SourceLine("kept", "refused", "filter", "same content as used", stamp="1")
    account = ACCOUNT | {"twin": twin, "kept": kept}
    assert names(growth([source("twin"), source("kept")], account, None).fresh) == ["twin"]
