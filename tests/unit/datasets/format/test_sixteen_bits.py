"""Latents in 16 bits: either kind comes back as it was, from shards, to batches, to Parquet, and to who has pyarrow alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dataset_material import make_dataset
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.format.manifest import ShardEntry
from mutual_forcing.datasets.format.parquet import export_parquet
from mutual_forcing.datasets.format.part_writer import columns_of
from mutual_forcing.datasets.format.shards import ClipRecord, Shard, write_shard
from mutual_forcing.datasets.format.sixteen_bits import KEPT, LARGEST, fits, numbers, read, stored
from mutual_forcing.datasets.format.statistics import LatentStatistics
from mutual_forcing.datasets.places.storage import sha256_file
from mutual_forcing.datasets.reading.loader import LatentDataset
from mutual_forcing.datasets.streamed.packed_clip import pack_clip, unpack_clip
from mutual_forcing.model.text import TextConfig
from mutual_forcing.model.timeline import Timeline

KINDS = tuple(KEPT)
TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}
CLOCK = Timeline()


def latents(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def record(i: int, kind: str, chunks: int = 2) -> ClipRecord:
    video = stored(latents(i, CLOCK.video_latents(chunks), 5, 4, 4), kind)
    return ClipRecord(f"clip-{i}", "a.mp4", 0.0, video, stored(latents(-i, CLOCK.audio_latents(chunks), 6), kind), "", ())


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_numbers_are_those_of_torch(kind: str, values: list[float]) -> None:
    given_N = torch.tensor(values)
    rounded = given_N.to(TORCH[kind])
    kept = stored(given_N, kind)
    assert kept.dtype == KEPT[kind]
    assert torch.equal(read(kept), rounded)
    assert np.array_equal(numbers(kept), rounded.float().numpy())
    assert fits(kept).tolist() == (rounded.float().abs() <= LARGEST).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_does_not_fit(kind: str) -> None:
    assert fits(stored(torch.tensor([1.0, torch.nan, torch.inf, -torch.inf]), kind)).tolist() == [True, False, False, False]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(2, 2), (2, 1)], ids=["one shape", "two lengths"])
def test_shards_and_clips_on_their_way_give_back_the_bits(tmp_path: Path, kind: str, lengths: tuple[int, ...]) -> None:
    made = [record(i, kind, chunks) for i, chunks in enumerate(lengths)]
    write_shard(tmp_path / "shard-0.arrow", made)
    shard = Shard(tmp_path / "shard-0.arrow")
    for i, wanted in enumerate(made):
        for found in (shard.row(i), unpack_clip(pack_clip(wanted))):
            for m in ("video", "audio"):
                assert found.get(m).dtype == KEPT[kind]
                assert np.array_equal(found.get(m), wanted.get(m))


def test_a_column_of_bfloat16_says_so_to_pyarrow_alone(tmp_path: Path) -> None:
    made = record(0, "bfloat16")
    write_shard(tmp_path / "shard-0.arrow", [made])
    with pa.ipc.open_file(pa.memory_map(str(tmp_path / "shard-0.arrow"))) as file:
        assert file.schema.field("video").metadata == {b"dtype": b"bfloat16"}
        column = file.read_all().column("video").combine_chunks()
    bits = column.to_numpy_ndarray()[0]
    assert torch.equal(torch.from_numpy(bits.copy()).view(torch.bfloat16), read(made.get("video")))
    assert columns_of(tmp_path / "shard-0.arrow")["video"].endswith("(bfloat16)")  # as the manifest says


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_parquet_hold_the_numbers(tmp_path: Path, kind: str) -> None:
    folder, made = tmp_path / "mine", [record(i, kind) for i in range(3)]
    before = make_dataset(folder)
    path = folder / "shard-0.arrow"
    write_shard(path, made)
    entry = ShardEntry(path.name, 3, path.stat().st_size, sha256_file(path))
    replace(before, shards=(entry,), held_out=(), clips=3, clip_chunks=2, timeline=CLOCK).write(folder)
    batch = LatentDataset(folder, TextConfig()).collate(made, (0, 1, 2))
    for m in ("video", "audio"):
        wanted = torch.stack([torch.from_numpy(numbers(r.get(m))) for r in made])
        assert torch.equal(batch.latents.get(m), wanted)
    assert export_parquet(folder, tmp_path / "parquet") == 3
    file = pq.read_table(tmp_path / "parquet" / "shard-0.parquet")
    assert file.schema.metadata[b"latents"].startswith(kind.encode())
    bits = np.frombuffer(file["video"][1].as_py(), KEPT[kind].newbyteorder("<")).reshape(file["video_shape"][1].as_py())
    assert np.array_equal(bits, made[1].get("video"))


def test_statistics_of_bfloat16_are_those_of_its_numbers_in_any_order() -> None:
    kept = stored(latents(5, 7, 3, 50), "bfloat16")
    found = LatentStatistics.of(kept, axis=1)
    parts = [LatentStatistics.of(part, axis=1) for part in (kept[4:], kept[:1], kept[1:4])]
    assert parts[0] + parts[1] + parts[2] == found
    np.testing.assert_allclose(found.mean, numbers(kept).mean((0, 2), dtype=np.float64), atol=1e-7)
    np.testing.assert_allclose(found.std, numbers(kept).std((0, 2), dtype=np.float64), atol=1e-6)


def test_other_kinds_are_refused_and_datasets_of_earlier_releases_fit() -> None:
    with pytest.raises(ValueError, match=r"data\.latent_dtype='float32': is not one of float16, bfloat16"):
        DataConfig(latent_dtype="float32")
    assert "latent_dtype" not in DataConfig().shaping()
    assert DataConfig(latent_dtype="bfloat16").shaping()["latent_dtype"] == "bfloat16"
