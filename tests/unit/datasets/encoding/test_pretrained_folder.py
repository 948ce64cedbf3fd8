"""A folder of weights on a hub or in a bucket becomes a local one: whole or not at all, and only what is no code."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pretrained_material import NARROW21, WEIGHTS, text_folder, wan_folder
from remote_folders import Bucket, Hub, Server, serving

from mutual_forcing.datasets.encoding import pretrained_folder
from mutual_forcing.datasets.encoding.pretrained_folder import TEXT_PARTS, local_folder, open_codec, placed
from mutual_forcing.model.codecs import Place, Umt5TextEncoder, codec_from_json, text_encoder_from_json

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OWNED = "someone/net"
HUB = f"hf://{OWNED}@{COMMIT}"
BUCKET = "s3://weights/a/net"


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_folder(tmp_path_factory.mktemp("made") / "vae", NARROW21)


@pytest.fixture
def hub(vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    root = tmp_path / "hub" / OWNED / COMMIT
    shutil.copytree(vae, root / "vae")
    (root / "vae" / "run_me.py").write_text("raise SystemExit")
    (root / "vae" / "old.bin").write_bytes(b"pickle")
    (root / "vae" / "more.json").mkdir()
    (root / "vae" / "more.json" / "config.json").write_text("{}")
    with serving(tmp_path / "hub", Hub) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        yield server


@pytest.fixture
def bucket(vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    shutil.copytree(vae, tmp_path / "store" / "weights" / "a" / "net")
    (tmp_path / "store" / "weights" / "a" / "net" / "old.bin").write_bytes(b"pickle")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    with serving(tmp_path / "store", Bucket) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- what comes, and when ---------------------------------------------------------------------------------------------------


def test_a_local_folder_is_used_where_it_is(vae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_folder("codec.video", str(vae)) == vae
    monkeypatch.chdir(vae.parent)
    assert local_folder("codec.video", "vae") == vae


def test_a_hub_folder_is_copied_once_and_then_needs_no_network(hub: Server, vae: Path, tmp_path: Path) -> None:
    copy = local_folder("codec.video", f"{HUB}/vae", cache=tmp_path / "cache")
    assert names(copy) == ["config.json", WEIGHTS], "no code, no pickles, no other folder"
    assert (copy / WEIGHTS).read_bytes() == (vae / WEIGHTS).read_bytes()
    hub.asked.clear()
    assert local_folder("codec.video", f"{HUB}/vae", cache=tmp_path / "cache") == copy
    assert hub.asked == []


def test_a_bucket_folder_is_copied_again_when_it_has_changed(bucket: Server, vae: Path, tmp_path: Path) -> None:
    one = local_folder("codec.video", BUCKET, cache=tmp_path / "cache")
    assert names(one) == ["config.json", WEIGHTS]
    assert (one / WEIGHTS).read_bytes() == (vae / WEIGHTS).read_bytes()
    bucket.asked.clear()
    assert local_folder("codec.video", f"{BUCKET}/", cache=tmp_path / "cache").parent.parent == one.parent.parent
    assert local_folder("codec.video", BUCKET, cache=tmp_path / "cache") == one
    (bucket.root / "weights" / "a" / "net" / "config.json").write_text("{}")
    two = local_folder("codec.video", BUCKET, cache=tmp_path / "cache")
    assert two != one
    assert (two / "config.json").read_text() == "{}"
    assert (one / "config.json").read_text() != "{}", "who works with the old copy keeps it"


@pytest.mark.parametrize("store", ["hub", "bucket"])
def test_a_codec_from_afar_names_its_address_and_is_found_by_it(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    request.getfixturevalue(store)
    address = f"{HUB}/vae" if store == "hub" else BUCKET
    codec = open_codec("codec.video", address, cache=tmp_path / "one machine")
    data = codec.to_json()
    assert data["folder"] == address
    other = codec_from_json(data, placed(data, cache=tmp_path / "another machine"))
    assert other.to_json() == data
    assert other.identity == codec.identity
    assert sorted(path.name for path in tmp_path.iterdir() if "machine" in path.name) == ["another machine", "one machine"]


def test_the_text_encoder_is_two_folders_of_a_pipeline(hub: Server, tmp_path: Path) -> None:
    text_folder(hub.root / OWNED / COMMIT)
    copy = local_folder("text", HUB, TEXT_PARTS, tmp_path / "cache")
    assert {name.split("/")[0] for name in names(copy)} == set(TEXT_PARTS)
    encoder = Umt5TextEncoder.load(Place(str(copy), reference=HUB))
    data = encoder.to_json()
    again = text_encoder_from_json(data, placed(data, cache=tmp_path / "elsewhere"))
    assert torch.equal(again.encode(["a red fox"]).features_BLE, encoder.encode(["a red fox"]).features_BLE)


def test_embedded_codecs_and_local_ones_need_no_placing(vae: Path, tmp_path: Path) -> None:
    assert placed({"kind": "dct-video"}, cache=tmp_path) == Place()
    local = open_codec("codec.video", str(vae)).to_json()
    assert local["folder"] == str(vae)
    assert placed(local, cache=tmp_path).folder == ""
    assert list(tmp_path.iterdir()) == []


# --- whole or not at all ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["hub", "bucket"])
def test_a_copy_that_breaks_off_leaves_nothing_that_could_be_taken_for_one(
    store: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # both libraries wait before they try again
    server: Server = request.getfixturevalue(store)
    address = f"{HUB}/vae" if store == "hub" else BUCKET
    server.cut = 100
    with pytest.raises(ValueError, match=rf"^codec\.video='{address}': cannot be copied \(.*\); check .*; or give a local folder$"):
        local_folder("codec.video", address, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("copy")) == []
    server.cut = None
    assert names(local_folder("codec.video", address, cache=tmp_path / "cache")) == ["config.json", WEIGHTS]
    assert list((tmp_path / "cache").rglob("partial")) == []


def test_an_object_that_changes_while_it_is_copied_is_no_copy(bucket: Server, tmp_path: Path) -> None:
    bucket.stale = 1
    with pytest.raises(ValueError, match=r"cannot be copied \(config\.json came with \d+ of \d+ bytes\)"):
        local_folder("codec.video", BUCKET, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("copy")) == []


def test_what_a_killed_process_left_does_not_get_into_the_copy(bucket: Server, tmp_path: Path) -> None:
    copy = local_folder("codec.video", BUCKET, cache=tmp_path / "cache")
    shutil.rmtree(copy)
    (copy.parent / "partial").mkdir()
    (copy.parent / "partial" / "stale.safetensors").write_text("x")
    assert names(local_folder("codec.video", BUCKET, cache=tmp_path / "cache")) == ["config.json", WEIGHTS]


def test_of_several_that_ask_at_once_one_copies(bucket: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(lambda _: local_folder("codec.video", BUCKET, cache=tmp_path / "cache"), range(4)))
    assert len(copies) == 1
    assert sum(path.endswith(WEIGHTS) for path in bucket.asked) == 1


# --- refusals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "codec.video is empty"),
        ("gs://bucket/vae", "gs:// is no address of folders; give a local one, s3://BUCKET/FOLDER or hf://OWNER/NAME@COMMIT/FOLDER"),
        (f"hf://{OWNED}/vae", rf"revision '' is no commit.*`git ls-remote https://huggingface\.co/{OWNED}`"),
        (f"hf://{OWNED}@main/vae", "revision 'main' is no commit, and a branch moves"),
        (f"hf://{OWNED}@{COMMIT[:7]}/vae", f"revision '{COMMIT[:7]}' is no commit"),
        (f"hf://net@{COMMIT}", "is no hub address; write hf://OWNER/NAME@COMMIT/FOLDER"),
        (f"hf://{OWNED}@{COMMIT}/../vae", "is no hub address"),
    ],
)
def test_an_address_that_is_none_is_refused(uri: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        local_folder("codec.video", uri, cache=tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (f"hf://nobody/net@{COMMIT}/vae", r"cannot be copied \(.*repository not found.*\); check name, commit and network"),
        (f"hf://{OWNED}@{COMMIT[::-1]}/vae", r"cannot be copied \(.*revision not found"),
        (f"{HUB}/missing", r"cannot be copied \("),
        (f"{HUB}/pickles", r"holds no \*\.json or \*\.safetensors \(only old\.bin and the like\); pickles are not read"),
    ],
)
def test_a_hub_folder_that_is_not_there_is_refused(hub: Server, uri: str, words: str, tmp_path: Path) -> None:
    (hub.root / OWNED / COMMIT / "pickles").mkdir()
    (hub.root / OWNED / COMMIT / "pickles" / "old.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=words) as refused:
        local_folder("codec.video", uri, cache=tmp_path / "cache")
    assert str(refused.value).startswith(f"codec.video='{uri}': ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("uri", ["s3://weights/missing", "s3://no-bucket/a"])
def test_a_bucket_folder_that_is_not_there_is_refused(bucket: Server, uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"codec\.video='{uri}': cannot be copied .* check bucket, folder, credentials") as refused:
        local_folder("codec.video", uri, cache=tmp_path / "cache")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MAX_BYTES", 1000, r"holds \d+ bytes; at most 1000 are copied"),
        ("MAX_JSON", 10, r"config\.json has \d+ bytes; at most 10 of JSON"),
        ("MAX_FILES", 1, "holds 2 files; at most 1"),
    ],
)
def test_a_folder_beyond_the_limits_is_refused_before_it_is_copied(
    bucket: Server, limit: str, value: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained_folder, limit, value)
    with pytest.raises(ValueError, match=words):
        local_folder("codec.video", BUCKET, cache=tmp_path / "cache")
    assert not any("net/" in path for path in bucket.asked)


def test_without_a_network_the_message_says_so(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cannot be copied \(.*offline.*\); check name, commit and network.*; or give a local folder"):
        local_folder("codec.video", f"{HUB}/vae", cache=tmp_path / "cache")


def test_without_huggingface_hub_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"needs the package huggingface_hub .*; pip install 'mutual-forcing\[pretrained\]'$"):
        local_folder("codec.video", f"{HUB}/vae", cache=tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_refused(bucket: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("x")
    with pytest.raises(ValueError, match="cannot create this folder"):
        local_folder("codec.video", BUCKET, cache=tmp_path / "cache")


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, bucket: Server, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    copy = local_folder("codec.video", BUCKET)
    assert copy.is_relative_to(tmp_path / "home" / "mutual-forcing")
    assert os.listdir(tmp_path / "home") == ["mutual-forcing"]
