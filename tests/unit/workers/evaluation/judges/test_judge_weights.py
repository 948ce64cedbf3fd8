"""Where a judge's weights are: a folder, a bucket, a hub; and what is refused before anything is computed."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_material import ast_folder, clip, clip_folder, dino_folder, pickled, shaken
from remote_folders import Bucket, Hub, Server, serving
from safetensors.torch import load_file, save_file

from mutual_forcing.workers.evaluation.judges import weights
from mutual_forcing.workers.evaluation.judges.i3d import I3D
from mutual_forcing.workers.evaluation.judges.judges import JUDGES, open_judge
from mutual_forcing.workers.evaluation.judges.weights import read_tensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nets")
    dino_folder(root / "dino")
    ast_folder(root / "ast")
    torch.manual_seed(0)
    pickled(root / "fvd" / "rgb_imagenet.pt", shaken(I3D()))
    (root / "fvd" / "other.pt").write_bytes(b"pickle")
    return root


@pytest.fixture
def bucket(nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    shutil.copytree(nets, tmp_path / "store" / "judges")
    (tmp_path / "store" / "judges" / "none").mkdir()
    (tmp_path / "store" / "judges" / "none" / "other.pt").write_bytes(b"pickle")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    with serving(tmp_path / "store", Bucket) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def test_weights_come_from_a_bucket_published_pickles_by_name_alone(bucket: Server, nets: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    far: Any = open_judge("dino", "s3://judges/dino", cache=cache)
    near: Any = open_judge("dino", str(nets / "dino"))
    assert far.of_clip(clip(1)) == near.of_clip(clip(1))
    open_judge("fvd", "s3://judges/fvd", cache=cache)
    assert {path.name for path in cache.rglob("*.pt")} == {"rgb_imagenet.pt"}, "no other pickle is copied"
    with pytest.raises(ValueError, match=r"judge 'fvd', where='s3://judges/none': holds none of rgb_imagenet.pt"):
        open_judge("fvd", "s3://judges/none", cache=cache)


def test_weights_come_from_a_hub_once(nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(nets / "dino", tmp_path / "hub" / "someone" / "dino" / COMMIT)
    with serving(tmp_path / "hub", Hub) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        open_judge("dino", f"hf://someone/dino@{COMMIT}", cache=tmp_path / "cache")
    open_judge("dino", f"hf://someone/dino@{COMMIT}", cache=tmp_path / "cache")  # nobody answers any more
    with pytest.raises(ValueError, match=r"judge 'dino', where='hf://someone/other@0123.*cannot be copied .*or give a local folder"):
        open_judge("dino", f"hf://someone/other@{COMMIT}", cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="a branch moves"):
        open_judge("dino", "hf://someone/dino@main", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "where", "device", "words"),
    [
        ("fid", "x", "cpu", "judge 'fid': is not one of wer, lse, clap"),
        ("dino", "/nowhere/at/all", "cpu", "where='/nowhere/at/all': does not exist; give the folder"),
        ("dino", __file__, "cpu", "is a file; give the folder"),
        ("dino", "", "cpu", "where is empty"),
        ("dino", "ftp://a/b", "cpu", "ftp:// is no address of folders"),
        ("dino", ".", "quantum", "device='quantum' is not here"),
    ],
)
def test_a_wrong_question_is_answered_in_one_line(name: str, where: str, device: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        open_judge(name, where, device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(JUDGES))
def test_an_empty_folder_says_what_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"judge '{name}', where='{tmp_path}'") as caught:
        open_judge(name, str(tmp_path))
    assert any(file in str(caught.value) for file in JUDGES[name].files)


def test_a_network_of_transformers_must_hold_exactly_its_tensors(nets: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(nets / "dino", tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    name = "embeddings.cls_token"
    assert name in tensors, "the name under which it is published"
    for changed, words in [
        ({k: v for k, v in tensors.items() if k != name}, "they are not of one release"),
        (tensors | {"more": torch.zeros(3)}, "they are not of one release"),
        ({("other" if k == name else k): v for k, v in tensors.items()}, "1 missing keys, 'embeddings.cls_token' the first"),
        (tensors | {name: torch.full_like(tensors[name], float("inf"))}, "not all values are finite"),
    ]:
        save_file(changed, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=words):
            open_judge("dino", str(copy))
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"holds a pickle \(pytorch_model.bin\), which runs code"):
        open_judge("dino", str(copy))


def test_tables_of_older_files_are_no_weights(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    wanted: Any = open_judge("clip", str(folder))
    tensors = load_file(folder / "model.safetensors")
    tables = {"text_model.embeddings.position_ids": torch.arange(77)[None], "vision_model.embeddings.position_ids": torch.arange(5)[None]}
    save_file(tensors | tables, folder / "model.safetensors", metadata={"format": "pt"})
    found: Any = open_judge("clip", str(folder))
    assert found.of_clip(clip(1)) == wanted.of_clip(clip(1))


def test_code_that_a_config_names_is_not_looked_at(nets: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(nets / "dino", tmp_path / "copy"))
    (copy / "run_me.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Net: pass\n")
    config = (copy / "config.json").read_text().rstrip()[:-1]
    (copy / "config.json").write_text(config + ', "auto_map": {"AutoModel": "run_me.Net", "AutoConfig": "run_me.Net"}}')
    open_judge("dino", str(copy))
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_or_becomes_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MAX_PICKLE", 10_000)
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 1_000_000)
    assert (tmp_path / "a.pt").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"a.pt has 1000000 bytes; at most 10000 are read"):
        read_tensors(tmp_path, "a.safetensors", "a.pt")
