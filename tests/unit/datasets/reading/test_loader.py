"""From prepared folders to batches: clips of several lengths, shapes and modalities, of one dataset or several, read ahead or not."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from mutual_forcing.datasets.format.manifest import Manifest, ShardEntry
from mutual_forcing.datasets.format.shards import ClipRecord, write_shard
from mutual_forcing.datasets.places.storage import sha256_file
from mutual_forcing.datasets.reading.loader import LatentDataset, chunks_of
from mutual_forcing.datasets.reading.members import Member, digits_of, members_of, parse_mix, weight_of, write_members
from mutual_forcing.datasets.reading.prefetch import Ahead
from mutual_forcing.model.text import TextConfig
from mutual_forcing.model.timeline import Timeline

CLOCK, CHUNKS, TEXT = Timeline(), 4, TextConfig()


def clip(name: str, chunks: int = CHUNKS, side: int | None = 4, sound: bool = True) -> ClipRecord:
    """side: of its latent pictures; None: it has none."""
    rng = np.random.default_rng(int.from_bytes(name.encode(), "little"))
    video = None if side is None else rng.standard_normal((CLOCK.video_latents(chunks), 2, side, side)).astype(np.float16)
    audio = rng.standard_normal((CLOCK.audio_latents(chunks), 3)).astype(np.float16) if sound else None
    return ClipRecord(name, "a.mp4", 0.0, video, audio, f"caption of {name}", (("word", 0.1, 0.2),))


def dataset(folder: Path, clips: Sequence[ClipRecord], held_out: Sequence[str] = (), shards: int = 2, **changes: object) -> Path:
    folder.mkdir(parents=True)
    entries = []
    for i in range(min(shards, len(clips))):
        path = folder / f"shard-{i}.arrow"
        write_shard(path, clips[i::shards])
        entries.append(ShardEntry(path.name, len(clips[i::shards]), path.stat().st_size, sha256_file(path)))
    both = ("video", "audio")
    manifest = Manifest({}, (), CLOCK, both, CHUNKS, 64, 64, {}, {}, tuple(entries), tuple(held_out), len(clips), 0.1, 1, 0, {}, False)
    replace(manifest, **changes).write(folder)
    return folder


def varied(count: int = 30, prefix: str = "v") -> list[ClipRecord]:
    return [clip(f"{prefix}{i:03}", 1 + i % 3, 4 if i % 5 else 6) for i in range(count)]


def test_batches_are_as_long_as_their_longest_clip_and_hold_what_was_stored(tmp_path: Path) -> None:
    rows = {r.clip_id: r for r in varied()}
    clips = LatentDataset(dataset(tmp_path / "a", list(rows.values())), TEXT, verify=True).stage(3, "joint", 4)
    padded = Counter[bool]()
    for step in range(40):
        batch = clips.batch(range(4 * step, 4 * step + 4))
        of = [rows[name] for name in batch.sample_ids]
        lengths = [CLOCK.chunks_in(1 + 4 * (len(r.get("video")) - 1), CLOCK.samples(CHUNKS)) for r in of]
        assert batch.layout.chunks == max(lengths)
        assert batch.chunks_B == (None if len(set(lengths)) == 1 else tuple(lengths))
        padded[len(set(lengths)) > 1] += 1
        for name in ("video", "audio"):
            latents = batch.latents.get(name)
            assert latents.dtype == torch.float32
            for x, r in zip(latents.numpy(), of, strict=True):
                stored = r.get(name)
                assert np.array_equal(x[: len(stored)], stored.astype(np.float32))
                assert not x[len(stored) :].any()
    assert padded[False] > 3 * padded[True] > 0


def test_ranks_see_the_same_global_batch_as_long_as_each_other(tmp_path: Path) -> None:
    """What one rank pads to depends on the clips of all: shapes in collectives and rollouts of one step are the same everywhere."""
    clips = LatentDataset(dataset(tmp_path / "a", varied()), TEXT).stage(3, "joint", 4)
    for step in range(40):
        whole = clips.batch(range(4 * step, 4 * step + 4))
        for rank in range(4):
            one = clips.batch(range(4 * step + rank, 4 * step + rank + 1))
            assert one.layout == whole.layout
            assert all(
                torch.equal(x, y[rank : rank + 1]) for (_, x), (_, y) in zip(one.latents.items(), whole.latents.items(), strict=True)
            )


def test_a_stage_trains_on_clips_that_have_its_modalities(tmp_path: Path) -> None:
    both, sound, pictures = [clip(f"b{i}") for i in range(4)], [clip(f"s{i}", side=None) for i in range(3)], [clip("p", sound=False)]
    data = LatentDataset(dataset(tmp_path / "a", [*both, *sound, *pictures], held_out=["s2"]), TEXT)
    names = {m: set(data.stage(0, "x", 2, m).ids) for m in (("video", "audio"), ("audio",), ("video",))}
    assert names[("video", "audio")] == {"b0", "b1", "b2", "b3"}
    assert names[("audio",)] == {"b0", "b1", "b2", "b3", "s0", "s1"}
    assert names[("video",)] == {"b0", "b1", "b2", "b3", "p"}
    for modality in ("audio", "video"):
        batch = data.stage(0, "x", 2, (modality,)).batch(range(2))
        assert [name for name, _ in batch.latents.items()] == [modality]
    assert [r.clip_id for r in data.held_out_records()] == ["s2"]
    alone = LatentDataset(dataset(tmp_path / "b", sound), TEXT)
    assert alone.collate(alone.held_out_records() or [sound[0]], [0]).latents.video is None
    with pytest.raises(ValueError, match="stage 'joint': a dataset has no clip with video and audio"):
        alone.stage(0, "joint", 2)


def test_a_mix_follows_its_weights_and_each_dataset_its_epochs(tmp_path: Path) -> None:
    members = [
        Member(dataset(tmp_path / "a", [clip(f"a{i}") for i in range(5)])),
        Member(dataset(tmp_path / "b", [clip(f"b{i}") for i in range(7)])),
    ]
    data = LatentDataset([members[0], replace(members[1], weight=Fraction("0.5"))], TEXT)
    clips = data.stage(1, "joint", 3)
    seen = [name for step in range(70) for name in clips.batch(range(3 * step, 3 * step + 3)).sample_ids]
    assert seen == [clips.at(p)[0] for p in range(210)]
    assert Counter(name[0] for name in seen) == {"a": 140, "b": 70}
    assert set(Counter(seen).values()) == {28, 10}
    assert any(len({name[0] for name in seen[p : p + 3]}) == 2 for p in range(0, 210, 3)), "clips that are alike are mixed within a batch"


def test_datasets_of_other_codecs_or_rates_are_not_mixed(tmp_path: Path) -> None:
    one = Member(dataset(tmp_path / "a", varied(4)))
    for name, value in {"video_codec": {"kind": "dct"}, "timeline": replace(CLOCK, fps=30)}.items():
        other = Member(dataset(tmp_path / name, varied(4), **{name: value}))
        with pytest.raises(ValueError, match=rf"data\.mix: .*{name}' has another {name} than the first dataset"):
            LatentDataset([one, other], TEXT)


def test_clips_that_are_none_of_whole_chunks_are_named_before_training(tmp_path: Path) -> None:
    odd = replace(clip("odd"), video=np.ones((6, 2, 4, 4), np.float16))
    data = LatentDataset(dataset(tmp_path / "a", [*varied(5), odd]), TEXT)
    with pytest.raises(ValueError, match="clip odd: 6 video and 63 audio latents are no clip of 1 to 4 chunks"):
        data.stage(0, "joint", 2)
    with pytest.raises(ValueError, match=r"clips v\d+ and v\d+: have latents of different shapes"):
        data.collate([clip("v000", side=4), clip("v001", side=6)], [0, 1])


@pytest.mark.parametrize("clock", [Timeline(), Timeline(24, 4, 44100, 2048, 16), Timeline(25, 4, 16000, 640, 12)])
def test_chunks_are_counted_from_either_modality(clock: Timeline) -> None:
    for chunks in range(1, 60):
        video, audio = clock.video_latents(chunks), clock.audio_latents(chunks)
        assert chunks_of(clock, video, audio) == chunks_of(clock, None, audio) == chunks_of(clock, video, None) == chunks
        assert chunks_of(clock, video, audio + 1) == chunks_of(clock, video + 1, audio) == 0
        between = audio + 1 < clock.audio_latents(chunks + 1)
        assert not between or chunks_of(clock, None, audio + 1) == 0
    assert chunks_of(clock, None, None) == chunks_of(clock, None, 0) == 0


def test_a_folder_stands_for_its_own_dataset_or_for_those_that_are_noted(tmp_path: Path) -> None:
    assert members_of(tmp_path) == [Member(tmp_path)]
    members = [Member(tmp_path), Member(tmp_path / "mix-1", Fraction("0.125"), "s3://b/x", 2.5), Member(tmp_path / "mix-2", Fraction(3))]
    write_members(tmp_path, members)
    assert members_of(tmp_path) == members
    write_members(tmp_path, members[:1])
    assert members_of(tmp_path) == members[:1]
    for bad in ("[]", "{", '[{"weight": "1", "uri": "/x", "cache_gb": 1}]', '[{"weight": 1, "uri": "", "cache_gb": 0}]', "[1]"):
        (tmp_path / "members.json").write_text(bad)
        with pytest.raises(ValueError, match=r"members\.json"):
            members_of(tmp_path)


def test_weights_are_exact_and_what_is_none_is_named() -> None:
    assert parse_mix(["s3://b/x=0.3", "prepared/a=b=2"]) == [("s3://b/x", Fraction(3, 10)), ("prepared/a=b", Fraction(2))]
    assert all(weight_of(digits_of(w), "w") == w for w in map(Fraction, ("0.3", "2", "0.000001", "12345.5")))
    for entry in ("x", "=1", "x=", "x=0", "x=-1", "x=nan", "x=1e9", "x=1/3", "x=1.2.3"):
        with pytest.raises(ValueError, match=r"data\.mix: "):
            parse_mix([entry])
    with pytest.raises(ValueError, match="stands in it twice"):
        parse_mix(["x=1", "x=2"])


def test_what_is_read_ahead_is_what_would_be_read(tmp_path: Path) -> None:
    clips = LatentDataset(dataset(tmp_path / "a", varied()), TEXT).stage(3, "joint", 4)

    def read(step: int) -> tuple[str, ...]:
        return clips.batch(range(4 * step, 4 * step + 4)).sample_ids

    with Ahead(read, 5, 20, depth=3, threads=2) as ahead:
        asked = [5, 6, 7, 3, 4, 5, 19, 20, 0]
        assert [ahead.take(step) for step in asked] == [read(step) for step in asked]


def test_as_many_are_held_as_may_be_and_none_beyond_the_end() -> None:
    made, go = list[int](), threading.Event()

    def make(number: int) -> int:
        go.wait(10)
        made.append(number)
        return -number

    with Ahead(make, 2, 7, depth=2) as ahead:
        go.set()
        assert [ahead.take(n) for n in (2, 3)] == [-2, -3]
        assert ahead.take(4) == -4
    assert made == sorted(made)
    assert made[-1] <= 6
    with Ahead(make, 0, 3, depth=9) as ahead:
        assert [ahead.take(n) for n in range(3)] == [0, -1, -2]
    assert made.count(3) == 1


def test_an_error_comes_when_its_batch_is_asked_for() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("shard x: damaged")
        return number

    with Ahead(make, 0, 9) as ahead:
        assert [ahead.take(n) for n in range(2)] == [0, 1]
        with pytest.raises(ValueError, match="shard x"):
            ahead.take(2)
        assert ahead.take(3) == 3
