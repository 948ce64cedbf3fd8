"""The verbs of `data`, one after the other, as an operator gives them: prepare, audit, a better file, requeue, inspect, play a clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from captioner_material import blip_folder
from command_material import Said, command

from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, write_corpus
from mutual_forcing.datasets.ffmpeg.media import probe
from mutual_forcing.datasets.format.clip_table import read_clips
from mutual_forcing.datasets.views.panels import GAP, LABEL, SIDE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def answered(said: Said, code: int = 0) -> Said:
    assert said.code == code, said.error
    return said


def test_a_dataset_is_made_audited_mended_and_looked_at(tmp_path: Path) -> None:
    media, out, late = tmp_path / "media", tmp_path / "data", tmp_path / "more"
    write_corpus(SyntheticConfig(count=4, seconds=2.2, width=32, height=32, seed=3), media)
    (media / "broken.mp4").write_bytes(b"cut off in the middle of nothing")
    words = ("data", "prepare", str(media), "--recipe", "tiny", "--out", str(out), "--json")
    first = json.loads(answered(command(*words)).out)
    assert first["yield"] == {"used": 4, "it opens as none of the containers that we read": 1}
    assert "adds up" not in answered(command("data", "audit", str(out))).out

    write_corpus(SyntheticConfig(count=1, seconds=1.2, width=32, height=32, seed=5), late)
    write_corpus(SyntheticConfig(count=1, seconds=1.2, width=32, height=32, seed=6), tmp_path / "download")
    shutil.copyfile(next((tmp_path / "download").glob("*.mp4")), media / "broken.mp4")
    told = answered(command("data", "audit", str(out)), 0).out
    assert "every source and every clip is accounted for" in told, "what changed since it was refused is no fault"
    again = json.loads(answered(command("data", "requeue", str(out), "--stage", "probe", "--json")).out)
    assert (again["version"], again["clips"], again["yield"]) == (2, first["clips"] + 1, {"used": 5})
    assert {s["path"]: s["attempts"] for s in again["sources"]}["broken.mp4"] == 2
    nothing = answered(command("data", "requeue", str(out)), 1)
    assert "refused are, by stage: none" in nothing.errors[0]

    more = (*words[:3], str(late), *words[3:])
    grown = json.loads(answered(command(*more)).out)
    assert (grown["version"], grown["clips"]) == (3, again["clips"] + 1)

    seen = json.loads(answered(command("data", "inspect", str(out), "--json")).out)
    assert Path(seen["page"]).read_text().count("<svg") > 5
    row = read_clips(out / "clips-3.parquet")[0]
    film = tmp_path / "clip.mp4"
    said = answered(command("data", "inspect", str(out), "--clip", row.clip_id, "--out", str(film)))
    assert "its source, and from its latents" in said.out
    assert (probe(film).width, probe(film).height) == (2 * SIDE + GAP, SIDE + LABEL)

    shard = next(out.glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    bad = answered(command("data", "audit", str(out)), 1)
    assert f"fault: {shard.name}: is not what the manifest says" in bad.out
    assert "the account does not add up" in bad.out


def test_a_dataset_whose_captions_a_network_wrote_is_mended(tmp_path: Path) -> None:
    media, out = tmp_path / "media", str(tmp_path / "data")
    write_corpus(SyntheticConfig(count=3, seconds=1.2, width=32, height=32, seed=3), media)
    better = shutil.copyfile(media / "character-00002.mkv", tmp_path / "better.mkv")
    (media / "character-00002.mkv").write_bytes(b"cut off in the middle of nothing")
    for sidecar in media.glob("character*.json"):
        sidecar.unlink()
    network = ("--set", f"data.caption.folder={blip_folder(tmp_path / 'blip')}", "--set", "data.caption.max_tokens=8")
    answered(command("data", "prepare", str(media), "--recipe", "tiny", "--out", out, *network))
    shutil.copyfile(better, media / "character-00002.mkv")
    assert "text was written by other networks" in answered(command("data", "requeue", out), 1).errors[0]
    assert "data.clip_chunks=" in answered(command("data", "requeue", out, *network, "--set", "data.clip_chunks=1"), 1).errors[0]
    mended = json.loads(answered(command("data", "requeue", out, *network, "--json")).out)
    assert (mended["version"], mended["yield"]) == (2, {"used": 3})
