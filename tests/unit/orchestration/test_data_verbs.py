"""What the verbs of `data` make of a dataset that is there: its settings, what may be given anew, and what cannot be tried again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from dataset_material import CONFIG, make_dataset

from mutual_forcing.datasets.account import SourceLine, write_account
from mutual_forcing.datasets.progress import silent
from mutual_forcing.datasets.store import LocalStore
from mutual_forcing.orchestration.data_verbs import config_of, requeued


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


def test_characters_are_not_tried_again(tmp_path: Path) -> None:
    manifest = make_dataset(tmp_path)
    replace(manifest, synthetic=True, sources_refused=1).write(tmp_path)
    lines = [SourceLine("a.mp4", "used", clips=3), SourceLine("b.mp4", "refused", "filter", "silent")]
    write_account(LocalStore(tmp_path), manifest.account, lines)
    with pytest.raises(ValueError, match=r"talking characters, .* trying again changes nothing; prepare others into another folder"):
        requeued(str(tmp_path), "", "", [], silent)
