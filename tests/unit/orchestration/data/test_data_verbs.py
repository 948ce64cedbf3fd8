"""What the verbs of `data` make of a dataset that is there: its settings, what may be given anew, and what cannot be tried again."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from captioner_material import POSITIONS, blip_folder
from dataset_material import CONFIG, make_dataset
from typer.testing import CliRunner

from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, write_corpus
from mutual_forcing.datasets.format.account import LeftOut, SourceLine, write_account
from mutual_forcing.datasets.format.clip_table import CLIPS, read_clips
from mutual_forcing.datasets.intake.inputs import moved
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.progress import silent
from mutual_forcing.datasets.words.captions import CaptionConfig
from mutual_forcing.orchestration.data import verbs as data_verbs
from mutual_forcing.orchestration.data.commands import ADDS_UP, show
from mutual_forcing.orchestration.data.page import data_page
from mutual_forcing.orchestration.data.verbs import Requeue, Told, config_of, prepared, requeued
from mutual_forcing.orchestration.main import app


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


def test_inputs_that_cannot_be_looked_at_are_not_said_to_be_compared(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", sources=("a.mp4", "b.mp4"))  # of /media, which is not there
    said = CliRunner().invoke(app, ["data", "audit", str(tmp_path / "data")])
    assert (said.exit_code, said.output.splitlines()[-1]) == (0, ADDS_UP[False])
    assert "inputs not at hand, not compared" in ADDS_UP[False]
    assert json.loads(CliRunner().invoke(app, ["data", "audit", str(tmp_path / "data"), "--json"]).stdout)["compared"] is False
    (tmp_path / "media").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "media" / name).write_bytes(b"x")
    said = CliRunner().invoke(app, ["data", "audit", str(tmp_path / "data"), "--media", str(tmp_path / "media"), "--json"])
    assert json.loads(said.stdout)["compared"] is True


def test_inputs_that_moved_are_replaced(tmp_path: Path) -> None:
    for name in ("stays", "moved", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").touch()
    a, b, c, d = (str(tmp_path / name) for name in ("gone", "stays", "moved", "other"))
    assert moved((a, b), ()) == (a, b)
    assert moved((a, b), (c,)) == (c, b), "where it was: names follow from the order"
    assert moved((a, b, f"{a}2"), (c, d)) == (c, d, b)
    assert moved((b, d), (c,)) == (c,), "none is gone: they stand for all"
    (tmp_path / "stays" / "a.mp4").unlink()
    assert moved((b, d), (c,)) == (c, d), "an empty folder is no input"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_media_that_moved_are_found_again_without_being_told_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is counted is what was really tried."""
    monkeypatch.setattr(data_verbs, "ray_session", nullcontext)
    media, there, out = tmp_path / "a", tmp_path / "b", str(tmp_path / "data")
    write_corpus(SyntheticConfig(count=2, seconds=1.2, width=32, height=32, seed=3), media)
    for name in ("bad.mp4", "gone.mp4"):
        (media / name).write_bytes(b"no film")
    prepared(DataConfig(media=str(media), clip_chunks=2, width=32, height=32), out, silent)
    media.rename(there)
    (there / "gone.mp4").unlink()
    (there / "new.mp4").write_bytes(b"no film either")
    for media_now, tried in (([str(there)], Requeue(1, ("gone.mp4",), 1)), ([], Requeue(2, ("gone.mp4",), 0))):
        told, found = requeued(out, "probe", "", media_now, silent)
        assert found == tried
        assert told.manifest.inputs == (str(there),)
    assert {line.path: line.attempts for line in told.lines if not line.used} == {"bad.mp4": 3, "gone.mp4": 1, "new.mp4": 2}
    (there / "bad.mp4").unlink()
    (there / "new.mp4").unlink()
    there.rename(tmp_path / "c")
    told, found = requeued(out, "probe", "", [str(tmp_path / "c")], silent)
    assert found == Requeue(0, ("bad.mp4", "gone.mp4", "new.mp4"), 0)
    assert told.manifest.inputs == (str(tmp_path / "c"),), "though there was nothing to do"


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


@pytest.mark.parametrize(("modality", "said"), [("audio", "10.0 dB SNR of sound"), ("video", "30.0 dB PSNR of pictures")])
def test_a_set_of_one_modality_is_told_without_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], modality: str, said: str
) -> None:
    """Also of earlier releases, whose manifests have 0 dB of what there is none of."""
    quality = {"video_psnr_db": 30.0, "audio_snr_db": 10.0}
    manifest = replace(make_dataset(tmp_path), modalities=(modality,), codec_quality=quality)
    told = Told(manifest, (SourceLine("a", "used", clips=3),), "")
    show(told, as_json=True)
    assert json.loads(capsys.readouterr().out).keys() & quality.keys() == {"audio_snr_db" if modality == "audio" else "video_psnr_db"}
    show(told, as_json=False)
    assert f"media: {said}\n" in capsys.readouterr().out
    page = data_page(manifest, told.lines, read_clips(tmp_path / CLIPS), None, "mine")
    assert page.count(" dB</b>") == 1
    assert said.split(" dB ")[1] in page
    assert ("kHz" in page, f"{manifest.width} x {manifest.height} at" in page) == (modality == "audio", modality == "video")
    assert " kB of latents" in page


def test_other_settings_are_refused_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started() -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("mutual_forcing.orchestration.data.verbs.ray_session", started)
    make_dataset(tmp_path / "out")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.mp4").write_bytes(b"x")
    config = DataConfig(media=str(tmp_path / "media"), width=96)
    with pytest.raises(ValueError, match=r"holds a dataset of other settings \(data\..* there, .* here\); choose another folder"):
        prepared(config, str(tmp_path / "out"), silent)


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
