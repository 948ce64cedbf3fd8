"""Tars: members read where they stand, and what a hostile one holds refused in bounded time and memory."""

import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.intake import tars
from mutual_forcing.datasets.intake.at_hand import at_hand
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.intake.source_text import text_of
from mutual_forcing.datasets.intake.sources import Source


def add(tar: tarfile.TarFile, name: str, content: bytes = b"x", **change: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in change.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(content))


def made(path: Path, *members: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            add(tar, name, content)
    return path


def listed(path: Path) -> dict[str, Source]:
    return {source.name: source for source in sources_of([str(path)])}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_that_belong_together_are_one_source(tmp_path, form):
    long = "d" * 60 + "/" + "e" * 60
    members = [
        ("./000001.mp4", b"first film"),
        ("./000001.json", json.dumps({"caption": "one", "license": "CC0"}).encode()),
        ("a.b/000002.wav", b"second"),
        ("a.b/000002.txt", b"two"),
        ("a.b/000002.cls", b"3"),
        ("000003.flac", b""),
        ("alone.json", b"{}"),
        (f"{long}.mp4", b"fourth"),
        ("._000001.mp4", b"hidden"),
        ("__meta__", b"kept by WebDataset"),
    ]
    found = listed(made(tmp_path / "s.tar", *members, form=form))
    media = ["000001.mp4", "a.b/000002.wav", "000003.flac", f"{long}.mp4"]
    assert {name for name, source in found.items() if not source.refused} == {f"s.tar/{name}" for name in media}
    refused = {name: source.refused for name, source in found.items() if source.refused}
    assert refused == {"s.tar/a.b/000002.cls": "not a media file (.cls)", "s.tar/alone.json": "not a media file (.json)"}
    assert [text_of(found[f"s.tar/{name}"]).caption for name in media] == ["one", "two", "", ""]
    assert text_of(found["s.tar/000001.mp4"]).tags == (("licence", "CC0"),)
    contents = dict(members)
    for name in media:
        source = found[f"s.tar/{name}"]
        with at_hand(source, tmp_path) as path:
            assert path.read_bytes() == contents.get(name, contents.get(f"./{name}"))
            assert path.suffix == Path(name).suffix
        assert not path.exists()


def test_tars_in_a_folder_are_opened_and_told_by_their_content_when_named(tmp_path):
    (tmp_path / "shards").mkdir()
    for number in range(3):
        made(tmp_path / f"shards/{number:06d}.tar", ("0.mp4", b"%d" % number))
    (tmp_path / "shards/x.mp4").write_bytes(b"x")
    assert list(listed(tmp_path / "shards")) == [*(f"{number:06d}.tar/0.mp4" for number in range(3)), "x.mp4"]
    os.rename(tmp_path / "shards/000001.tar", tmp_path / "noend")
    assert list(listed(tmp_path / "noend")) == ["noend/0.mp4"]


def test_a_stamp_changes_with_the_tar(tmp_path):
    before = listed(made(tmp_path / "s.tar", ("0.mp4", b"one"), ("1.mp4", b"two")))
    assert len({source.stamp for source in before.values()}) == 2
    after = listed(made(tmp_path / "s.tar", ("0.mp4", b"one"), ("1.mp4", b"TWO")))
    assert all(after[name].stamp != source.stamp for name, source in before.items())


def test_members_that_are_no_files_of_the_tar_are_refused_one_by_one(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        add(tar, "good.mp4", b"good")
        for name in ("/etc/passwd.mp4", "../out.mp4", "a/../../b.mp4", "a//b.mp4", "caf\udce9.mp4", "good.mp4"):
            add(tar, name)
        for name, kind in (("link.mp4", tarfile.SYMTYPE), ("hard.mp4", tarfile.LNKTYPE)):
            add(tar, name, b"", type=kind, linkname="/etc/passwd")
        for name, kind in (("pipe.mp4", tarfile.FIFOTYPE), ("disk.mp4", tarfile.BLKTYPE), ("tty.mp4", tarfile.CHRTYPE), ("odd.mp4", b"Z")):
            add(tar, name, b"", type=kind)
        add(tar, "folder", b"", type=tarfile.DIRTYPE)
        add(tar, "last.mp4", b"last")
    found = sources_of([str(tmp_path / "s.tar")])
    assert [source.name for source in found if not source.refused] == ["s.tar/good.mp4", "s.tar/last.mp4"]
    whys = sorted(source.refused.split(":")[0] for source in found if source.refused)
    assert whys == sorted(
        [
            *["its name leads out of the tar"] * 4,
            "its name is not UTF-8",
            "the tar has another member of this name",
            *["a link, which is not followed"] * 2,
            *["no file but a pipe, a device or the like"] * 4,
        ]
    )


def sparse(tar: tarfile.TarFile) -> None:
    """As GNU tar writes a hole of a terabyte."""
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "hole.mp4", "GNU.sparse.realsize": str(1 << 40)}
    add(tar, "GNUSparseFile.0/hole.mp4", b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512, pax_headers=pax)


def test_a_sparse_member_is_refused(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        sparse(tar)
        add(tar, "b.mp4", b"b")
    found = listed(tmp_path / "s.tar")
    assert "a sparse file" in found["s.tar/hole.mp4"].refused
    with at_hand(found["s.tar/b.mp4"], tmp_path) as path:
        assert path.read_bytes() == b"b"


def header(name: str, size: int, kind: bytes = b"0", **change: object) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = 0, kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    field = b"%011o\0" % size if size >= 0 else b"\xff" * 4 + size.to_bytes(8, "big", signed=True)
    block[124:136] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = b"\0" * 1024
FILE = header("a.mp4", 3) + b"abc".ljust(512, b"\0")
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no tar, or damaged after byte 0"),
    "text": (b"no tar at all " * 100, "no tar, or damaged after byte 0"),
    "nothing but zeros": (END, "no tar, or damaged|a tar without members"),
    "gzip": (b"\x1f\x8b" + b"x" * 600, "a compressed tar, whose members cannot be read one by one: unpack it with gunzip"),
    "zstd": (b"\x28\xb5\x2f\xfd" + b"x" * 600, "unpack it with unzstd"),
    "garbage after a member": (FILE + b"x" * 2048, "damaged at byte 1024, and not read any further"),
    "cut within a header": (FILE + FILE[:300], "damaged|no tar"),
    "a size that is negative": (FILE + header("b.mp4", -512) + END, "damaged at byte 1024"),
    "a size that leads back": (FILE + header("b.mp4", -1024) + END, "damaged at byte"),
    "a long name of gigabytes": (FILE + header("x", 8 << 29, b"L") + END, "headers of more than 65536 bytes"),
    "attributes of gigabytes": (FILE + header("x", 8 << 29, b"x") + END, "headers of more than 65536 bytes"),
    "attributes of negative size": (FILE + header("x", -512, b"x") + END, "headers of more than|damaged"),
    "attributes of attributes": (FILE + (header("x", 0, b"x")) * 5000 + FILE + END, "headers of more than|damaged after"),
    "long names of long names": (FILE + (header("x", 1, b"L") + b"y".ljust(512, b"\0")) * 5000 + END, "headers of more than|damaged after"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_is_refused_after_what_is_right(tmp_path, name):
    content, why = HOSTILE[name]
    (tmp_path / "s.tar").write_bytes(content)
    os.truncate(tmp_path / "s.tar", max(len(content), 6 << 30) if "gigabytes" in name else len(content))
    tracemalloc.start()
    found = sources_of([str(tmp_path / "s.tar")])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    refused = [source.refused for source in found if source.refused and source.name == "s.tar"]
    assert len(refused) == 1
    assert any(part in refused[0] for part in why.split("|")), refused
    if content.startswith(FILE):
        assert found[-1].name == "s.tar/a.mp4"
        with at_hand(found[-1], tmp_path) as path:
            assert path.read_bytes() == b"abc"


def test_a_tar_that_is_cut_off_loses_its_last_member_alone(tmp_path):
    made(tmp_path / "s.tar", ("a.mp4", b"a" * 5000), ("b.mp4", b"b" * 5000))
    os.truncate(tmp_path / "s.tar", 8192)
    found = listed(tmp_path / "s.tar")
    assert found["s.tar/a.mp4"].refused == ""
    assert found["s.tar/b.mp4"].refused == f"the tar is cut off: {8192 - 512 - 5120 - 512} of 5000 bytes are there"
    assert "no tar, or damaged after byte 5632" in found["s.tar"].refused


def test_a_tar_of_too_many_members_is_refused(tmp_path, monkeypatch):
    made(tmp_path / "s.tar", *((f"{i}.mp4", b"") for i in range(11)))
    assert len(listed(tmp_path / "s.tar")) == 11
    monkeypatch.setattr(tars, "MAX_MEMBERS", 10)
    (source,) = listed(tmp_path / "s.tar").values()
    assert source.refused == "more than 10 members: split it"


def test_many_members_take_little_memory_each(tmp_path):
    made(tmp_path / "s.tar", *((f"{i}.mp4", b"") for i in range(5000)), form=tarfile.USTAR_FORMAT)
    tracemalloc.start()
    count = len(sources_of([str(tmp_path / "s.tar")]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5000
    assert peak < 1200 * count, "bytes"


def test_headers_are_read_and_nothing_else(tmp_path):
    """Of members far apart a window each; in S3 of members close together a few large ones."""
    for size, count, remote, most in ((1 << 20, 20, False, 20 * 3 * 4096), (1 << 25, 4, True, 12 * (64 << 10) + (8 << 20))):
        made(tmp_path / "s.tar", *((f"{i}.mp4", bytes(size)) for i in range(count)))
        asked: list[int] = []
        content = (tmp_path / "s.tar").read_bytes()

        def read(first: int, length: int, content: bytes = content, asked: list[int] = asked) -> bytes:
            asked.append(length)
            return content[first : first + length]

        archive = Source("s.tar", f"{'s3://bucket' if remote else ''}/s.tar", "", size=len(content))
        assert len(tars.in_tar(archive, read)) == count
        assert sum(asked) < most


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["mp4", "wav", "json", "cls"]), st.binary(max_size=600)), max_size=8))
def test_any_members_come_back_as_they_are(tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, str, bytes]]) -> None:
    folder = tmp_path_factory.mktemp("any")
    members = {f"{key}.{suffix}": content for key, suffix, content in parts}
    found = listed(made(folder / "s.tar", *members.items()))
    media = {f"s.tar/{name}": content for name, content in members.items() if name.endswith(("mp4", "wav"))}
    assert {name for name, source in found.items() if not source.refused} == media.keys()
    for name, content in media.items():
        with at_hand(found[name], folder) as path:
            assert path.read_bytes() == content


@given(st.binary(max_size=400), st.integers(0, 3000))
def test_any_damage_ends_in_reasons(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = made(folder / "s.tar", ("a.mp4", b"a" * 700), ("b.mp4", b"b" * 700), ("b.json", b"{}"))
    content = bytearray(path.read_bytes())
    content[at : at + len(noise)] = noise
    path.write_bytes(content)
    for source in sources_of([str(path)]):
        assert "\n" not in source.refused
        assert source.refused or source.first + source.size <= len(content)
