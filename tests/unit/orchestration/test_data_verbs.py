"""What the verbs of `data` make of a dataset that is there: its settings, what may be given anew, and what cannot be tried again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from captioner_material import POSITIONS, blip_folder
from dataset_material import CONFIG, make_dataset

from mutual_forcing.datasets.account import LeftOut, SourceLine, write_account
from mutual_forcing.datasets.captions import CaptionConfig
from mutual_forcing.datasets.clip_table import CLIPS, read_clips
from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.progress import silent
from mutual_forcing.datasets.store import LocalStore
from mutual_forcing.orchestration import data_verbs
from mutual_forcing.orchestration.data_commands import show
from mutual_forcing.orchestration.data_page import data_page
from mutual_forcing.orchestration.data_verbs import Requeue, Told, config_of, prepared, requeued


def test_settings_that_shape_no_clip_may_be_given_anew(tmp_path: Path) -> None:
    manifest = make_dataset(tmp_path)
    assert config_of(manifest) == replace(CONFIG, media="/media")
    given = ["data.transcribe.folder=/nets/whisper", "data.pretrained.video=/nets/wan", "data.pool.max_workers=2", "data.clip_chunks=5"]
    config = config_of(manifest, ["/there"], given)
    assert (config.transcribe.folder, config.pretrained.video, config.pool.max_workers) == ("/nets/whisper", "/nets/wan", 2)
    assert (config.media, config.shaping()) == ("/there", config_of(manifest).shaping())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            "data.clip_chunks=2",
            r"clips are made already, of other settings \(data\.clip_chunks=5 there, 2 here\); leave it out, or",
        ),
        ("data.filters.min_luma=0", r"\(data\.filters\.min_luma=6\.0 there, 0\.0 here\)"),
        ("data.media=/elsewhere", r"--set data\.media: .*give --media"),
        ("data.prepared=/elsewhere", r"--set data\.prepared: .*give --media"),
        ("data.transcribe.foldr=x", r"--set data\.transcribe\.foldr: unknown key 'foldr'; did you mean 'folder'\?"),
        ("model.width=8", r"--set model\.width: unknown key 'model'; known here: data"),
        ("data.pool.max_workers=many", r"^data\.pool\.max_workers='many': "),
        ("data.pool.max_workers=-1", r"^data\.pool\.max_workers=-1: must be"),
    ],
)
def test_others_are_refused_by_name(tmp_path: Path, given: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        config_of(make_dataset(tmp_path), (), [given])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("requeue", "words"),
    [
        (Requeue(3, (), 0), "tried again: 3"),
        (Requeue(1, ("x.mp4", "y.mp4"), 2), "tried again: 1; no longer among the inputs: 2 (the first: 'x.mp4'); new: 2"),
    ],
)
def test_what_could_not_be_tried_is_named(requeue: Requeue, words: str) -> None:
    assert str(requeue) == words


def test_networks_that_write_text_are_opened_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_verbs, "ray_session", lambda: pytest.fail("Ray was started"))
    (tmp_path / "media").mkdir()
    blip = CaptionConfig(str(blip_folder(tmp_path / "blip")), max_tokens=POSITIONS + 1)
    with pytest.raises(ValueError, match=rf"^data\.caption\.max_tokens={POSITIONS + 1}: the network has {POSITIONS} positions"):
        prepared(DataConfig(media=str(tmp_path / "media"), caption=blip), str(tmp_path / "data"), silent)


def test_characters_are_not_tried_again(tmp_path: Path) -> None:
    manifest = make_dataset(tmp_path)
    replace(manifest, synthetic=True, sources_refused=1).write(tmp_path)
    lines = [SourceLine("a.mp4", "used", clips=3), SourceLine("b.mp4", "refused", "filter", "silent")]
    write_account(LocalStore(tmp_path), manifest.account, lines)
    with pytest.raises(ValueError, match=r"talking characters, .* trying again changes nothing; prepare others into another folder"):
        requeued(str(tmp_path), "", "", [], silent)


def test_copies_stand_beside_what_rules_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_dataset(tmp_path)
    first, copy, _ = (row.clip_id for row in read_clips(tmp_path / CLIPS))
    quality = {"video_psnr_db": 30.0, "audio_snr_db": 10.0}
    dropped = {copy: f"copy: of {first}, a.mp4 at 0.00 s"}
    manifest = replace(made, clips=2, dropped=dropped, sources_refused=1, codec_quality=quality)
    left_out = (LeftOut(9.0, "silent: -80 dB, at least -60 dB wanted"), LeftOut(12.0, "silent: -91 dB, at least -60 dB wanted"))
    lines = (SourceLine("a.mp4", "used", clips=3, left_out=left_out), SourceLine("b.mp4", "refused", "decode", "damaged"))
    told = Told(manifest, lines, "")
    show(told, as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert answer["clip_yield"] == {"made": 2, "silent": 2, "copy": 1}
    assert answer["yield"] == {"used": 1, "damaged": 1}
    show(told, as_json=False)
    rows = {
        tuple(word.strip(" %") for word in line.strip("│").split("│"))
        for line in capsys.readouterr().out.splitlines()
        if line.endswith("│")
    }
    assert {("made", "2", "40.0"), ("silent", "2", "40.0"), ("copy", "1", "20.0")} <= rows
    page = data_page(manifest, lines, read_clips(tmp_path / CLIPS), None, "mine")
    for name, count in answer["clip_yield"].items():
        assert f'<td>{name}</td><td class="n">{count}</td>' in page
