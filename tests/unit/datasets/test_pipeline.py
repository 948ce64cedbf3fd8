"""From a folder of anything to a finished dataset, on a real Ray cluster."""

import os
import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media_material import film, names, write_film

from mutual_forcing.datasets import pipeline
from mutual_forcing.datasets.config import DataConfig, PoolConfig
from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, make_character_clip, write_corpus
from mutual_forcing.datasets.ffmpeg.media import write_media
from mutual_forcing.datasets.format.account import SOURCES, UNREAD, SourceLine, read_account
from mutual_forcing.datasets.format.clip_table import read_clips
from mutual_forcing.datasets.format.manifest import MANIFEST, SHEET, Manifest, read_manifest
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.intake.sources import Source
from mutual_forcing.datasets.pipeline import prepare
from mutual_forcing.datasets.places.lock import LOCK
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.preparing import growth
from mutual_forcing.datasets.preparing.audit import audit
from mutual_forcing.datasets.preparing.growth import Again
from mutual_forcing.datasets.reading.loader import LatentDataset
from mutual_forcing.datasets.views.pictures import decode_record
from mutual_forcing.model.text import TextConfig

CLIPS = SyntheticConfig(count=6, seconds=2.2, seed=5)
USED = {f"character-{i:05d}.{end}" for i, end in enumerate(["mp4", "webm", "mkv"] * 2)} | {"sub folder/früh\u2028spät.mp4", "aa.mp4"}
REFUSED = {
    "character-00001 copy.webm": "same content as character-00001.webm",  # which has the caption
    "zz.mp4": "same content as aa.mp4",
    "empty.mp4": "the file is empty",
    "lost.json": "not a media file (.json)",
    "notes.txt": "not a media file (.txt)",
    "short.mkv": "too short",
    "strange.mp4": "none of the containers",
    "strange sidecar.mp4": "sidecar strange sidecar.json: must look like",
    "\\udce9.mp4": "its name is not UTF-8",
    "elsewhere": "a link to a folder",
    "gone.mp4": "a link to what is not there",
    "closed.mp4": "sidecar closed.json: cannot be read",
}


@dataclass(frozen=True)
class Job:
    config: DataConfig
    out: Path
    manifest: Manifest
    stages: tuple[str, ...]


def run(config: DataConfig, out: Path, grow: bool = False, again: Again | None = None) -> Job:
    progress: list[tuple[str, int, int]] = []
    manifest = prepare(config, out, lambda *step: progress.append(step), grow, again)
    assert all(0 <= done <= total for _, done, total in progress)
    return Job(config, out, manifest, tuple(dict.fromkeys(stage for stage, _, _ in progress)))


def account(out: Path) -> list[SourceLine]:
    return read_account(out / read_manifest(out, verify=False).account)


def files_of(manifest: Manifest) -> list[str]:
    return sorted([LOCK, MANIFEST, manifest.account, manifest.table, SHEET, *(shard.file for shard in manifest.shards)])


def fill(media: Path) -> None:
    write_corpus(CLIPS, media)
    shutil.copyfile(media / "character-00001.webm", media / "character-00001 copy.webm")
    (media / "sub folder").mkdir()
    write_film(media / "sub folder" / "früh\u2028spät.mp4", 1.3)
    write_film(media / "short.mkv", 0.5)
    for name in ("zz.mp4", "aa.mp4"):
        write_film(media / name, 1.3, seed=1)
    write_film(media / "strange sidecar.mp4", 1.3, seed=3)
    (media / "strange sidecar.json").write_text("3")
    (media / "empty.mp4").touch()
    (media / "strange.mp4").write_bytes(os.urandom(3000))
    (media / os.fsdecode(b"\xe9.mp4")).write_bytes(b"x")
    (media / "notes.txt").write_text("hello")
    (media / "lost.json").write_text("{}")
    (media / ".hidden.mp4").write_text("x")
    (media / "elsewhere").symlink_to(media.parent)
    (media / "gone.mp4").symlink_to(media / "nowhere.mp4")
    write_film(media / "closed.mp4", 1.3, seed=4)
    (media / "closed.json").symlink_to("closed.json")


@pytest.fixture(scope="module")
def job(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    fill(folder / "media")
    return run(DataConfig(media=str(folder / "media"), clip_chunks=2, held_out_share=0.3), folder / "data")


def test_every_file_is_accounted_for(job):
    lines = {line.path: line for line in account(job.out)}
    used = {name for name, line in lines.items() if line.used}
    assert used == USED
    assert set(lines) == USED | set(REFUSED)
    for name, reason in REFUSED.items():
        assert reason in lines[name].reason, name
        assert (lines[name].status, lines[name].clips) == ("refused", 0)
    for name in used:
        at, fps, rate = lines[name], 24, 16000
        assert at.clips + len(at.left_out) == (2 if "character" in name else 1), name
        assert all("silent" in clip.reason for clip in at.left_out), "nobody speaks there"
        assert at.frames / fps == pytest.approx(at.seconds, abs=1e-3)
        assert at.samples == round(at.frames * rate / fps)
        assert at.av_offset_ms is not None
        assert abs(at.av_offset_ms) < 60, name
        assert dict(at.timing)["source_fps"] == pytest.approx(fps, rel=2e-3)
    assert all(lines[name].av_offset_ms is None for name in REFUSED)
    m = job.manifest
    assert (m.sources_used, m.sources_refused, m.clips) == (len(USED), len(REFUSED), sum(line.clips for line in lines.values()))
    assert [line.path for line in account(job.out)] == sorted(lines)


def test_the_account_adds_up(job):
    found = audit(LocalStore(job.out), sources_of(job.config.inputs))
    assert found.faults == ()
    assert (found.sources, found.clips, found.shards) == (len(USED) + len(REFUSED), job.manifest.clips, len(job.manifest.shards))


def test_the_folder_holds_the_dataset_and_nothing_else(job):
    assert read_manifest(job.out) == job.manifest
    assert names(job.out) == files_of(job.manifest)
    assert sum(shard.rows for shard in job.manifest.shards) == job.manifest.clips
    assert job.manifest.codec_quality["video_psnr_db"] > 25


def test_the_manifest_tells_what_the_latents_are_like(job):
    dataset = LatentDataset(job.out, TextConfig())
    records = [s.row(i) for s, i in dataset.train + dataset.held_out]
    for name, axis in (("video", (0, 2, 3)), ("audio", (0,))):
        found = np.concatenate([getattr(r, name) for r in records]).astype(np.float64)
        told = job.manifest.statistics[name]
        np.testing.assert_allclose(told["mean"], found.mean(axis), atol=1e-9)
        np.testing.assert_allclose(told["std"], found.std(axis), rtol=1e-9, atol=1e-12)
    assert job.manifest.schema["clip_id"] == "string"
    assert "halffloat" in job.manifest.schema["video"]


def test_whole_sources_are_held_out(job):
    dataset = LatentDataset(job.out, TextConfig(), verify=True)
    train = [shard.row(i) for shard, i in dataset.train]
    held_out = dataset.held_out_records()
    assert len({r.clip_id for r in (*train, *held_out)}) == job.manifest.clips
    assert {r.source for r in held_out}.isdisjoint(r.source for r in train)
    assert len({r.source for r in held_out}) == round(0.3 * job.manifest.sources_used)


def test_latents_give_back_the_character_and_its_words(job):
    dataset = LatentDataset(job.out, TextConfig())
    records = {(Path(r.source).stem, r.start_s): r for r in (s.row(i) for s, i in dataset.train + dataset.held_out)}
    for index in (0, 2, 4):
        drawn = make_character_clip(CLIPS, index)
        record = records[f"character-{index:05d}", 1.0]
        shown = decode_record(record, job.manifest, "")
        assert shown.frames is not None
        reference = drawn.frames[24:49].astype(np.float64)
        assert 10 * np.log10(255**2 / np.mean((shown.frames[: len(reference)] - reference) ** 2)) > 22
        assert record.caption == drawn.caption
        assert [w for w, _, _ in record.words] == [w.text for w in drawn.words if w.end > 1.0 and w.start < 1.0 + 25 / 24]


def test_a_rerun_reuses_what_is_there(job):
    before = {path: path.stat().st_mtime_ns for path in job.out.iterdir() if path.name != LOCK}
    again = run(job.config, job.out)
    assert again.manifest == job.manifest
    assert again.stages == ()
    assert {path: path.stat().st_mtime_ns for path in job.out.iterdir() if path.name != LOCK} == before


def test_inputs_are_listed_once(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listings = []

    def counted(*words: Any) -> list[Source]:
        listings.append(words)
        return sources_of(*words)

    for module in (pipeline, growth):
        monkeypatch.setattr(module, "sources_of", counted)
    run(job.config, job.out, grow=True)
    assert len(listings) == 1, "of a dataset that is there"
    stopped(job, tmp_path / "data", monkeypatch)
    assert len(listings) == 2, "of one that is not"
    with pytest.raises(ValueError, match="cannot be found"):
        run(replace(job.config, media=str(tmp_path / "missing")), tmp_path / "data")
    with pytest.raises(ValueError, match="cannot be found"):
        run(replace(job.config, media=str(tmp_path / "missing")), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_other_settings_are_refused_and_destroy_nothing(job):
    with pytest.raises(ValueError, match=r"other settings \(data\.seed=0 there, 1 here\)"):
        run(replace(job.config, seed=1), job.out, grow=True)
    assert read_manifest(job.out) == job.manifest


def test_a_damaged_shard_is_found_on_reuse(job, tmp_path):
    copy = shutil.copytree(job.out, tmp_path / "data")
    with (copy / job.manifest.shards[0].file).open("r+b") as shard:
        shard.seek(-400, os.SEEK_END)
        byte = shard.read(1)
        shard.seek(-1, os.SEEK_CUR)
        shard.write(bytes([byte[0] ^ 16]))
    with pytest.raises(ValueError, match=r"damaged.*remove this folder"):
        run(job.config, copy)


def stopped(job: Job, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave in `out` what a job leaves that is killed when all is encoded."""
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_lines", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            run(job.config, out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK}


def test_a_job_goes_on_where_another_was_killed(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(job, out := tmp_path / "data", monkeypatch)
    receipts = sorted(out.glob(".part-*.json"))
    assert len(receipts) > len(job.manifest.shards) > 2, "of which no clip came have one too"
    receipt = receipts[0].read_bytes()
    again = run(job.config, out)
    assert again.stages == ("draw contact sheet",), "nothing is decoded twice"
    assert contents(out) == contents(job.out)
    receipts[0].write_bytes(receipt)  # of a job that was killed between its manifest and its last breath
    run(job.config, out)
    assert contents(out) == contents(job.out)


@pytest.mark.slow
def test_what_is_not_whole_is_made_again(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt that is gone or cut short, a shard that is gone or damaged, a line that was cut off: each costs its own part alone."""
    stopped(job, out := tmp_path / "data", monkeypatch)
    shard, other, *_ = sorted(out.glob("shard-*n000.arrow"))
    first = out / f".part-{other.name.removeprefix('shard-').removesuffix('n000.arrow')}.json"
    first.write_text(first.read_text()[:-20])
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    notes = sorted(out.glob(".survey-*.jsonl"))[-1]
    lines = notes.read_bytes().splitlines(keepends=True)
    notes.write_bytes(b"".join(lines[:-1]) + lines[-1][:-9])
    made: dict[str, int] = {}
    prepare(job.config, out, lambda stage, _, total: made.update({stage: total}))
    assert made["look into sources"] == 1
    assert made["encode clips"] == 2
    assert contents(out) == contents(job.out)


@pytest.mark.slow
def test_a_source_that_changed_meanwhile_is_looked_into_again(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media = shutil.copytree(str(job.config.media), tmp_path / "media", symlinks=True)
    moved = replace(job, config=replace(job.config, media=str(media)))
    stopped(moved, out := tmp_path / "data", monkeypatch)
    (media / "aa.mp4").write_bytes((media / "sub folder" / "früh\u2028spät.mp4").read_bytes())
    made: dict[str, int] = {}
    prepare(moved.config, out, lambda stage, _, total: made.update({stage: total}))
    assert made["look into sources"] == 1
    assert {line.path: line.status for line in account(out)}["aa.mp4"] == "used"
    assert not list(out.glob(".part-*")), "receipts of parts that are no more go too"


@pytest.mark.slow
def test_a_killed_job_is_made_anew_and_gives_the_same_clips(job, tmp_path):
    """What is left without a manifest is not trusted, not even a shard that is whole."""
    out = tmp_path / "data"
    out.mkdir()
    shutil.copyfile(job.out / job.manifest.shards[0].file, out / "shard-0123456789abcdefn000.arrow")
    (out / ".shard-0123456789abcdefn001.arrow.77.tmp").write_bytes(b"half")
    (out / SOURCES).write_text("{")
    again = run(job.config, out)
    assert again.stages == ("look into sources", "measure codecs", "encode clips", "draw contact sheet")
    assert names(out) == files_of(again.manifest)
    first, second = (LatentDataset(folder, TextConfig(), verify=True) for folder in (job.out, out))
    assert [s.row(i).clip_id for s, i in first.train] == [s.row(i).clip_id for s, i in second.train]
    assert again.manifest.held_out == job.manifest.held_out
    assert (again.manifest.video_codec, again.manifest.audio_codec) == (job.manifest.video_codec, job.manifest.audio_codec)
    for positions in (range(0, 3), range(5, 8)):
        one, two = (dataset.stage(0, "joint", 3).batch(positions) for dataset in (first, second))
        assert all(torch.equal(latent, same) for (_, latent), (_, same) in zip(one.latents.items(), two.latents.items(), strict=True))
    assert account(out) == account(job.out)
    assert read_clips(out / again.manifest.table) == read_clips(job.out / job.manifest.table)


@pytest.mark.slow
def test_workers_that_are_held_make_the_same_dataset(job: Job, tmp_path: Path) -> None:
    held = run(replace(job.config, pool=PoolConfig(max_workers=2, min_workers=1)), tmp_path / "held")
    assert held.manifest.contents() == job.manifest.contents()
    with pytest.raises(ValueError, match=r"data.pool.min_workers=3"):
        PoolConfig(max_workers=2, min_workers=3)


def test_a_folder_without_usable_clips_is_refused_with_all_reasons(ray_cluster, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    (media / "a.mp4").touch()
    (media / "b.txt").write_text("x")
    with pytest.raises(ValueError, match="none of its 2 files can be used"):
        run(DataConfig(media=str(media)), tmp_path / "data")
    lines = read_account(tmp_path / "data" / SOURCES)
    assert [(line.path, line.status, line.reason) for line in lines] == [
        ("a.mp4", "refused", "the file is empty"),
        ("b.txt", "refused", "not a media file (.txt)"),
    ]
    assert not (tmp_path / "data" / MANIFEST).exists()


@pytest.mark.slow
def test_codecs_are_measured_on_usable_sources_in_a_folder_full_of_others(ray_cluster, tmp_path):
    """Of 12 films that probe well 10 are black: they give their places in the sample to the others."""
    write_corpus(replace(CLIPS, count=2), tmp_path / "media")
    for i in range(10):
        frames, audio = film(1.3, seed=i)
        write_media(tmp_path / "media" / f"black {i}.mp4", np.zeros_like(frames), 24, audio, 16000)
    made = run(DataConfig(media=str(tmp_path / "media"), clip_chunks=2, codec_fit_sources=1), tmp_path / "data")
    assert made.manifest.sources_used == 2
    assert {line.reason.split(":")[0] for line in account(tmp_path / "data") if not line.used} == {"black"}


def test_a_dataset_grows_by_what_is_new(ray_cluster, tmp_path):
    media, out = tmp_path / "media", tmp_path / "data"
    write_corpus(replace(CLIPS, count=4), media)
    write_film(later := tmp_path / "later.mp4", 1.3)
    (media / "bad.mp4").write_bytes(b"no film at all")
    config = DataConfig(media=str(media), clip_chunks=2, held_out_share=0.3)
    first = run(config, out)
    shutil.copyfile(later, media / "later.mp4")
    shutil.copyfile(media / "character-00001.webm", media / "twin.webm")
    with pytest.raises(ValueError, match=r"dataset of other sources \('later.mp4' differs\)"):
        run(config, out)
    second = run(config, out, grow=True)
    made: dict[str, int] = {}
    assert second.stages == ("look into sources", "encode clips", "draw contact sheet"), "the codecs stay"
    assert (second.manifest.version, second.manifest.clips) == (2, first.manifest.clips + 1)
    assert second.manifest.shards[: len(first.manifest.shards)] == first.manifest.shards
    assert set(first.manifest.held_out) <= set(second.manifest.held_out)
    assert read_manifest(out) == second.manifest
    found = {line.path: line for line in account(out)}
    assert found["twin.webm"].reason == "same content as character-00001.webm"
    assert audit(LocalStore(out), sources_of(config.inputs)).faults == ()
    assert (out / "manifest-1.json").is_file(), "what it was can be gone back to"
    assert run(config, out, grow=True).manifest == second.manifest

    (media / "bad.mp4").write_bytes(later.read_bytes())  # a better download: the same as another by chance
    third = prepare(config, out, lambda stage, _, total: made.update({stage: total}), grow=True)
    assert (third.version, third.clips, made["look into sources"]) == (2, second.manifest.clips, 1), "no clip was added"
    assert third == second.manifest
    assert {line.path: (line.reason, line.attempts) for line in account(out)}["bad.mp4"] == ("same content as later.mp4", 2)
    again = prepare(config, out, grow=True, again=Again(stage="filter", words="same content"))
    assert {line.path: line.attempts for line in account(out)} == {**dict.fromkeys(found, 1), "twin.webm": 2, "bad.mp4": 3}
    assert again.clips == third.clips
    write_film(media / "character-00000.mp4", 1.3, seed=9)
    with pytest.raises(ValueError, match=r"'character-00000.mp4' is not what it was"):
        run(config, out, grow=True)
    assert read_manifest(out) == again


def endless(path: Path) -> Path:
    """A tar with a member that no disk here has room for; it takes none itself."""
    member = tarfile.TarInfo("film.mp4")
    member.size = 2 * shutil.disk_usage(path.parent).free
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 512 + member.size)
    return path


def test_a_source_that_stays_unreadable_makes_no_versions(job: Job, tmp_path: Path) -> None:
    out = shutil.copytree(job.out, tmp_path / "data")
    grown = replace(job.config, media=(*job.config.inputs, str(endless(tmp_path / "large.tar"))))
    for attempt in (1, 2, 3):
        manifest = run(grown, out, grow=True).manifest
        assert manifest == read_manifest(out)
        assert manifest == replace(job.manifest, inputs=grown.inputs, sources_refused=len(REFUSED) + 1)
        (line,) = [line for line in account(out) if line.path not in USED | set(REFUSED)]
        assert (line.stage, line.attempts) == (UNREAD, attempt)
        assert names(out) == files_of(job.manifest), "no account of another version"
        assert audit(LocalStore(out), sources_of(grown.inputs)).faults == ()
    run(grown, out, grow=True, again=Again(words="the file is empty"))
    assert {line.path: line.attempts for line in account(out)} == {**dict.fromkeys(USED | set(REFUSED), 1), line.path: 4, "empty.mp4": 2}
    assert read_manifest(out) == manifest


def test_one_source_and_its_copy_are_one_source(ray_cluster, tmp_path):
    write_corpus(replace(CLIPS, count=1), tmp_path / "media")
    shutil.copyfile(tmp_path / "media/character-00000.mp4", tmp_path / "media/twin.mp4")
    with pytest.raises(ValueError, match="only 1 source can be used"):
        run(DataConfig(media=str(tmp_path / "media"), clip_chunks=2), tmp_path / "data")
    kept, twin = read_account(tmp_path / "data" / SOURCES)
    assert (kept.status, twin.status, twin.reason) == ("used", "refused", "same content as character-00000.mp4")


def test_a_dataset_within_its_own_sources_is_refused(tmp_path):
    write_film(tmp_path / "a.mp4", 0.2)
    with pytest.raises(ValueError, match=r"data\.out=.* lies in data\.media"):
        run(DataConfig(media=str(tmp_path)), tmp_path / "data")
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.slow
def test_files_of_the_user_in_the_folder_of_the_dataset_stay(job, tmp_path):
    out = tmp_path / "data"
    out.mkdir()
    theirs = ["shard-000000.tar", "shard-0.arrow", ".mine.tmp", "clips.parquet.bak", "sources.txt"]
    for name in theirs:
        (out / name).write_bytes(b"mine")
    tried = out / ".preflight-0123abcd"  # of a command that was killed while it tried whether it may write
    tried.write_bytes(b"ours")
    run(job.config, out)
    assert not tried.exists()
    assert all((out / name).read_bytes() == b"mine" for name in theirs)
