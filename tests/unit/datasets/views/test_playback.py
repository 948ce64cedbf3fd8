"""A clip as a film: its source beside it, or before it where there is sound alone; read back from the file that was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from making_material import fitted, look, make, source_at
from matplotlib.image import imread
from media_material import FPS, RATE, decibels, film, write_film

from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, decode, probe
from mutual_forcing.datasets.format.account import write_account
from mutual_forcing.datasets.format.clip_table import read_clips, write_clips
from mutual_forcing.datasets.format.manifest import SHEET, Manifest
from mutual_forcing.datasets.intake.sources import Source
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.preparing.commit import described, line_of
from mutual_forcing.datasets.views import panels
from mutual_forcing.datasets.views.panels import GAP, LABEL, SIDE, side_by_side
from mutual_forcing.datasets.views.pictures import draw_contact_sheet
from mutual_forcing.datasets.views.playback import play
from mutual_forcing.model.types import MODALITIES

SECONDS = 25 / FPS  # of a clip of two chunks


def dataset(folder: Path, modalities: tuple[str, ...]) -> tuple[DataConfig, Manifest, list[Source]]:
    """Of two films, as a job leaves it."""
    config = DataConfig(media="/media", clip_chunks=2, modalities=modalities)
    sources = [source_at(write_film(folder / f"{name}.mp4", 2.1, seed=seed)) for seed, name in enumerate("ab")]
    out = folder / "data"
    codecs = fitted(config, sources)
    receipt = make(config, codecs, out, *sources)
    lines = [line_of(s, look(config, s), outcome, 1) for s, outcome in zip(sources, receipt.outcomes, strict=True)]
    manifest = described(config, codecs, lines, [receipt], None)
    write_account(LocalStore(out), manifest.account, lines)
    write_clips(LocalStore(out), manifest.table, receipt.clips)
    manifest.write(out)
    return config, manifest, sources


@pytest.fixture(scope="module", params=[MODALITIES, ("video",), ("audio",)], ids=["both", "pictures", "sound"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataConfig, Manifest, list[Source]]:
    folder = tmp_path_factory.mktemp("playback")
    return folder, *dataset(folder, request.param)


def test_a_clip_is_seen_and_heard_next_to_its_source(made: tuple[Path, DataConfig, Manifest, list[Source]], tmp_path: Path) -> None:
    folder, config, manifest, sources = made
    store, out = LocalStore(folder / "data"), tmp_path / "clip.mp4"
    row = next(row for row in read_clips(folder / "data" / manifest.table) if row.source == "b.mp4" and row.start_s > 0)
    frames, audio = film(2.1, seed=1)
    first = round(row.start_s * FPS)
    frames, audio = frames[first : first + 25], audio[round(row.start_s * RATE) :][: round(SECONDS * RATE)]
    said = play(store, manifest, config, row.clip_id, sources, out)
    found = probe(out)
    shown = decode(out, found, DecodeConfig(FPS, found.width, found.height, RATE))
    assert shown.frames is not None
    if "video" in config.modalities:
        assert said.endswith("its source, and from its latents")
        assert found.has_audio == ("audio" in config.modalities)
        assert (found.width, found.height) == (2 * SIDE + GAP, SIDE + LABEL)
        large = frames.repeat(4, axis=1).repeat(4, axis=2)
        left, right = shown.frames[:25, LABEL:, :SIDE], shown.frames[:25, LABEL:, -SIDE:]
        assert decibels(large, left) > decibels(large, right) > 20
        assert decibels(large, left) > 30
    else:
        assert said.endswith("its source, then from its latents")
        assert shown.audio is not None
        assert shown.audio.size / RATE == pytest.approx(2 * SECONDS, abs=0.1)
        for start in (0.0, SECONDS):
            heard = shown.audio[round(start * RATE) :][: len(audio)]
            assert np.corrcoef(heard, audio[: len(heard)])[0, 1] > 0.9
    alone = play(store, manifest, config, row.clip_id, None, out)
    assert alone.endswith("s: from its latents")
    assert probe(out).width == (SIDE if "video" in config.modalities else panels.WIDTH)


def test_a_set_of_any_modalities_has_a_contact_sheet(made: tuple[Path, DataConfig, Manifest, list[Source]]) -> None:
    folder, _, manifest, _ = made
    draw_contact_sheet(LocalStore(folder / "data"), manifest, read_clips(folder / "data" / manifest.table))
    assert imread(folder / "data" / SHEET).std() > 0.1


def test_a_source_that_has_gone_leaves_the_clip_alone(made: tuple[Path, DataConfig, Manifest, list[Source]], tmp_path: Path) -> None:
    folder, config, manifest, sources = made
    row = read_clips(folder / "data" / manifest.table)[0]
    moved = (folder / "a.mp4").rename(folder / "gone.mp4")
    try:
        said = play(LocalStore(folder / "data"), manifest, config, row.clip_id, sources, tmp_path / "clip.mkv")
    finally:
        moved.rename(folder / "a.mp4")
    assert said.endswith("s: from its latents")


def test_labels_stand_above_pictures_whose_pixels_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (np.random.default_rng(seed).integers(0, 256, (3, 20, 50, 3)).astype(np.uint8) for seed in (0, 1))
    film = side_by_side([("source", one), ("from its latents", other)])
    assert film.shape == (3, LABEL + 120, 2 * 300 + GAP, 3)
    assert (film[:, LABEL::6, :300:6] == one).all()
    assert (film[:, LABEL + 5 :: 6, 300 + GAP + 5 :: 6] == other).all()
    assert (film[0, :LABEL] == film[2, :LABEL]).all()
    assert film[0, :LABEL, :300].std() > 5
    monkeypatch.setattr(panels, "MOST", 2 * one.nbytes * 5)
    assert side_by_side([("source", one), ("from its latents", other)]).shape[2] == 2 * 100 + GAP, "enlarged by 2: more has no room"
    large = np.zeros((1, 300, 200, 3), np.uint8)
    assert side_by_side([("source", large)]).shape == (1, LABEL + 300, 200, 3)


def test_a_line_shows_where_it_sounds() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.uniform(-0.5, 0.5, size).astype(np.float32) for size in (RATE, 2 * RATE))
    film, audio = panels.one_after_the_other([("source", one), ("from its latents", other)], RATE)
    assert (audio == np.concatenate([one, other])).all()
    assert len(film) == round(3 * panels.SOUND_FPS)
    for number in (0, 11, 12, 35):
        lines = (film[number] == 255).all(axis=-1)
        at = (number + 0.5) / panels.SOUND_FPS
        for top, begin, end in ((LABEL, 0, 1), (2 * LABEL + panels.HEIGHT, 1, 3)):
            columns = np.flatnonzero(lines[top : top + panels.HEIGHT].all(axis=0))
            if begin <= at < end:
                assert abs(columns.max() - (at - begin) / (end - begin) * panels.WIDTH) <= 2
            else:
                assert not len(columns)
