"""Bytes and text of a source, from a disk, from S3 and out of tars in both: right or an OSError, never a bad file."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs
from s3_server import S3, Fault, s3_server

from mutual_forcing.datasets.intake import at_hand as at_hand_module
from mutual_forcing.datasets.intake import prefixes
from mutual_forcing.datasets.intake.at_hand import at_hand
from mutual_forcing.datasets.intake.inputs import moved, sources_of
from mutual_forcing.datasets.intake.sidecars import Sidecar
from mutual_forcing.datasets.intake.source_text import text_of
from mutual_forcing.datasets.intake.sources import Source
from mutual_forcing.datasets.places import store


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    """One for all: it takes seconds to start, and each test has a prefix of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "FIRST_PAUSE", 0.001)
        patch.setattr(store, "ATTEMPTS", 4)
        with s3_server(patch) as place:
            yield place


@pytest.fixture
def s3(server: S3) -> S3:
    server.faults.clear()
    server.met.clear()
    return server


def put(uri: str, content: bytes) -> None:
    s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"]).pipe_file(uri, content)


def by_name(*inputs: str) -> dict[str, Source]:
    return {source.name: source for source in sources_of(inputs)}


def test_a_local_file_is_not_copied(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"film")
    (source,) = sources_of([str(tmp_path)])
    with at_hand(source, tmp_path / "there is no such scratch folder") as path:
        assert path == tmp_path / "a.mp4"
    assert path.is_file()


def test_a_prefix_is_listed_once_with_what_is_beside_each_object(s3, tmp_path):
    at = f"{s3.uri}/listed ü+%41"
    objects = {f"{folder}/{i}.mp4": b"film %d" % i for folder in ("a", "b/c", "d") for i in range(4)} | {"top.mp4": b"top"}
    texts = {"a/0.txt": b"a cat", "b/c/1.json": b'{"caption": "a dog", "license": "CC0"}', "lone.txt": b"x"}
    for name, content in (objects | texts | {"a/.hidden.mp4": b"", ".git/x.mp4": b""}).items():
        put(f"{at}/{name}", content)
    found = by_name(at)
    assert by_name(f"{at}/") == found
    assert found.keys() == {*objects, "lone.txt"}
    assert {name: source.refused for name, source in found.items() if source.refused} == {"lone.txt": "not a media file (.txt)"}
    assert [found[name].path for name in ("a/0.mp4", "top.mp4")] == [f"{at}/a/0.mp4", f"{at}/top.mp4"]
    s3.faults += [Fault("503", "GET", "/a/0.mp4", 2), Fault("reset", "GET", "/a/0.txt", 1)]
    assert text_of(found["a/0.mp4"]) == Sidecar("a cat")
    assert text_of(found["b/c/1.mp4"]) == Sidecar("a dog", tags=(("licence", "CC0"),))
    assert text_of(found["d/0.mp4"]) == Sidecar()
    for name in ("a/0.mp4", "d/3.mp4"):
        with at_hand(found[name], tmp_path) as path:
            assert path.read_bytes() == objects[name]
        assert list(tmp_path.iterdir()) == []
    assert len(s3.met) == 3, "what failed was asked for again"
    before = {name: source.stamp for name, source in found.items()}
    put(f"{at}/a/0.txt", b"a dog")
    put(f"{at}/d/3.mp4", b"film X")
    changed = {name for name, source in by_name(at).items() if source.stamp != before[name]}
    assert changed == {"a/0.mp4", "d/3.mp4"}


def test_pages_are_read_to_the_end(s3, monkeypatch):
    at = f"{s3.uri}/pages"
    for i in range(7):
        put(f"{at}/{i % 2}/{i}.mp4", b"")
    monkeypatch.setattr(prefixes, "PAGE", 2)
    s3.faults.append(Fault("503", "GET", "", 3))
    assert len(by_name(at)) == 7
    assert len(s3.met) == 3
    monkeypatch.setattr(prefixes, "MAX_KEYS", 3)
    with pytest.raises(ValueError, match="more than 3 objects; give a prefix below it"):
        by_name(at)


def test_one_object_is_an_input(s3):
    at = f"{s3.uri}/one"
    for name in ("a.mp4", "a.txt", "a.mp4.bak", "b.mp4", "a/inner.mp4"):
        put(f"{at}/{name}", b"x")
    assert [(s.name, len(s.beside)) for s in sources_of([f"{at}/a.mp4"])] == [("a.mp4", 1)]
    assert list(by_name(f"{at}/a")) == ["inner.mp4"]
    assert list(by_name(f"{at}/b.mp4", f"{at}/")) == ["a.mp4", "a.mp4.bak", "a/inner.mp4", "b.mp4"]
    for absent in ("/none", "/none.mp4"):
        with pytest.raises(ValueError, match="holds no files"):
            by_name(at + absent)


def test_keys_that_are_no_paths_are_refused(s3):
    at = f"{s3.uri}/keys"
    put(f"{at}/a.mp4", b"x")
    client = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    bucket, _, prefix = at.removeprefix("s3://").partition("/")
    client.call_s3("put_object", Bucket=bucket, Key=f"{prefix}/b//c.mp4", Body=b"x")
    refused = {name: source.refused for name, source in by_name(at).items() if source.refused}
    assert refused == {"b//c.mp4": "a part of its key is empty, `.` or `..`: give it another key"}


def test_what_s3_does_not_give_is_an_error_of_s3(s3, tmp_path, monkeypatch):
    at = f"{s3.uri}/gone"
    content = np.random.default_rng(0).bytes(5000)
    put(f"{at}/a.mp4", content)
    put(f"{at}/a.txt", b"a cat")
    (source,) = sources_of([at])
    monkeypatch.setattr(at_hand_module, "CHUNK", 512)
    s3.faults += [Fault("503", "GET", "a.mp4", 2), Fault("reset", "GET", "a.mp4", 1)]
    with at_hand(source, tmp_path) as path:
        assert path.read_bytes() == content, "piece by piece, with failures between"
    assert len(s3.met) == 3
    for kind in ("503", "denied", "missing"):
        s3.faults[:] = [Fault(kind, "GET", "a.mp4", 10**6), Fault(kind, "GET", "a.txt", 10**6)]
        with pytest.raises(OSError, match=r"."), at_hand(source, tmp_path):
            raise AssertionError("unreachable")
        with pytest.raises(OSError, match=r"."):
            text_of(source)
        assert list(tmp_path.iterdir()) == [], "nothing is left of a copy that failed"
    s3.faults.clear()
    for other in (content[:100], content + b"x"):
        put(f"{at}/a.mp4", other)
        with pytest.raises(OSError, match="when it was listed: give the command again"), at_hand(source, tmp_path):
            raise AssertionError("unreachable")


def test_a_copy_that_has_no_room_is_not_begun(s3, tmp_path, monkeypatch):
    put(f"{s3.uri}/room/a.mp4", b"x")
    (source,) = sources_of([f"{s3.uri}/room"])
    monkeypatch.setattr(at_hand_module, "SPARE", 1 << 60)
    with pytest.raises(OSError, match="make room or set TMPDIR"), at_hand(source, tmp_path):
        raise AssertionError("unreachable")
    assert s3.met == []


def test_members_of_a_tar_in_s3(s3, tmp_path):
    made = {f"{i}.mp4": np.random.default_rng(i).bytes(3000 + i) for i in range(3)} | {"1.json": b'{"caption": "one"}'}
    for name in made:
        (tmp_path / name).write_bytes(made[name])
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in made:
            tar.add(tmp_path / name, name)
    (tmp_path / "scratch").mkdir()
    at = f"{s3.uri}/tars"
    put(f"{at}/s.tar", (tmp_path / "s.tar").read_bytes())
    s3.faults.append(Fault("503", "GET", "s.tar", 2))
    found = by_name(at)
    assert found.keys() == {f"s.tar/{i}.mp4" for i in range(3)}
    assert found["s.tar/1.mp4"].path == f"{at}/s.tar//1.mp4"
    assert {name: text_of(source).caption for name, source in found.items()} == {"s.tar/0.mp4": "", "s.tar/1.mp4": "one", "s.tar/2.mp4": ""}
    for name, source in found.items():
        with at_hand(source, tmp_path / "scratch") as path:
            assert path.read_bytes() == made[name.removeprefix("s.tar/")]
    assert len(s3.met) == 2


def test_lists_in_s3_and_lists_that_name_objects(s3, tmp_path):
    at = f"{s3.uri}/lists"
    for name in ("sub/a.mp4", "sub/a.txt", "b.mp4", "v/vid_eo-1.mp4"):
        put(f"{at}/{name}", b"x")
    paths = ["sub/a.mp4", f"{at}/b.mp4", "gone.mp4", "../lists/b.mp4", "/etc/passwd", "s3://no-such-bucket-here/x.mp4", "s3:///x.mp4"]
    rows = "".join(json.dumps({"path": path, "caption": path[-5:]}) + "\n" for path in paths)
    put(f"{at}/l.jsonl", rows.encode())
    found = by_name(f"{at}/l.jsonl")
    assert {name for name, source in found.items() if not source.refused} == {"sub/a.mp4", "b.mp4"}
    assert found["sub/a.mp4"].caption == "a.mp4"
    assert len(found["sub/a.mp4"].beside) == 1
    reasons = [found[f"l.jsonl#{row}"].refused for row in (3, 4, 5, 6, 7)]
    for reason, part in zip(
        reasons, ["no such object", "leads out", "names no files of this machine", "cannot be read", "names no bucket"], strict=True
    ):
        assert part in reason
    (tmp_path / "local.jsonl").write_text(rows)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.mp4").write_bytes(b"x")
    local = by_name(str(tmp_path / "local.jsonl"))
    assert {source.path for source in local.values() if not source.refused} == {
        str(tmp_path / "sub/a.mp4"),
        f"{at}/b.mp4",
        "/etc/passwd",
    }, "a list on this machine may name what is on it in full"
    put(f"{at}/panda.csv", b"videoID,url,timestamp,caption\nvid_eo-1,u,\"[['0:00:01.000', '0:00:02.000']]\",['x']\n")
    (panda,) = sources_of([f"{at}/panda.csv"])
    assert (panda.path, panda.spans[0].caption) == (f"{at}/v/vid_eo-1.mp4", "x")


def test_prefixes_that_are_gone_are_told_from_those_that_are_there(s3):
    put(f"{s3.uri}/there/a.mp4", b"x")
    for uri in (f"{s3.uri}/there", f"{s3.uri}/there/", f"{s3.uri}/there/a.mp4", s3.uri.removesuffix("/runs")):
        assert moved([uri, "/gone"], ["new"]) == (uri, "new")
    for uri in (f"{s3.uri}/the", f"{s3.uri}/there/a", "s3://no-such-bucket-here/x"):
        assert moved([uri, f"{s3.uri}/there"], ["new"]) == ("new", f"{s3.uri}/there")
    s3.faults.append(Fault("denied", "GET", "", 10**6))
    assert moved([f"{s3.uri}/there", "/gone"], ["new"]) == (f"{s3.uri}/there", "new"), "who lists it is told why it cannot be read"


def test_s3_that_does_not_answer_is_said_in_one_line(s3):
    put(f"{s3.uri}/down/a.mp4", b"x")
    s3.faults.append(Fault("denied", "GET", "", 10**6))
    with pytest.raises(ValueError, match=r"input='s3://.*/down': cannot be read \(.*\); check permissions, or bucket") as refused:
        by_name(f"{s3.uri}/down")
    assert "\n" not in str(refused.value)


def test_text_of_a_list_and_of_files_is_one(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "a.json").write_text('{"transcript": [{"word": "so", "start": 0, "end": 1}]}')
    (tmp_path / "l.jsonl").write_text('{"path": "a.mp4", "caption": "A cat.", "speaker": "anna"}\n')
    (source,) = sources_of([str(tmp_path / "l.jsonl")])
    assert text_of(source) == Sidecar("A cat.", (("so", 0.0, 1.0),), tags=(("speaker", "anna"),))
    (tmp_path / "a.txt").write_text("A dog.")
    (source,) = sources_of([str(tmp_path / "l.jsonl")])
    with pytest.raises(ValueError, match=r"sidecar a\.txt: gives a caption too: the list does; remove one of them"):
        text_of(source)
    (tmp_path / "l.jsonl").write_text('{"path": "a.mp4", "transcript": "so it is"}\n')
    (source,) = sources_of([str(tmp_path / "l.jsonl")])
    with pytest.raises(ValueError, match=r"sidecar a\.json: gives a transcript too: the list does"):
        text_of(source)


def test_a_sidecar_that_is_no_file_is_refused_and_not_waited_for(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.mp4").write_bytes(b"x")
    (tmp_path / "b.json").symlink_to(tmp_path / "none")
    for source in sources_of([str(tmp_path)]):
        with pytest.raises(ValueError, match=rf"sidecar {Path(source.beside[0].path).name}: cannot be read"):
            text_of(source)
