"""What crosses process borders: weights and rollouts come back as they were sent, and a torn snapshot is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mutual_forcing.model.types import AV, Rollout
from mutual_forcing.workers.wire import (
    BLOCK,
    Snapshot,
    TornSnapshotError,
    pack_weights,
    require_clips,
    rollout_from_arrays,
    rollout_to_arrays,
    sample_number,
    unpack_weights,
)

SHAPES = [(3, 4), (), (5,), (1, 2, 3)]


def weights(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def holes() -> list[Tensor]:
    return [torch.full(shape, float("nan")) for shape in SHAPES]


def rollout(modalities: tuple[str, ...]) -> Rollout:
    g = torch.Generator().manual_seed(5)
    history = AV(video=torch.randn(2, 4, 3, 2, 2, generator=g), audio=torch.randn(2, 9, 5, generator=g)).only(modalities)
    return Rollout(history, history.map(lambda x: 2 * x), torch.rand(2, 3, generator=g), ((4, 5), (5, 6)), (-7, 2**62))


@given(st.integers(0, 2**31), st.integers(0, 10**6))
def test_weights_come_back_rounded_to_bf16(seed: int, version: int) -> None:
    sent, received = weights(seed), holes()
    snapshot = pack_weights(version, sent)
    unpack_weights(snapshot, received)
    assert snapshot.version == version
    assert all(torch.equal(a.to(torch.bfloat16).float(), b) for a, b in zip(sent, received, strict=True))


def test_a_second_trip_changes_nothing() -> None:
    once, twice = holes(), holes()
    first = pack_weights(0, weights(1))
    unpack_weights(first, once)
    second = pack_weights(1, once)
    unpack_weights(second, twice)
    assert first.checksum == second.checksum
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_a_buffer_that_is_used_again_holds_the_new_weights_alone() -> None:
    first, fresh = pack_weights(0, weights(1)), pack_weights(1, weights(2))
    again = pack_weights(1, weights(2), first)
    assert again.data is first.data
    assert (again.version, again.checksum) == (fresh.version, fresh.checksum)
    assert np.array_equal(again.data, fresh.data)


@pytest.mark.parametrize("numbers", [3, 4, 4 * BLOCK, 8 * BLOCK + 5])
def test_weights_that_stay_on_their_device_are_the_same_weights(numbers: int) -> None:
    """The checksum is that of the array: its sums go round in the same way."""
    sent = [torch.randn(numbers, generator=torch.Generator().manual_seed(1)) * 1e30]
    stored, direct = pack_weights(3, sent), pack_weights(3, sent, direct=True)
    assert isinstance(direct.data, Tensor)
    assert direct.checksum == stored.checksum
    received = [torch.zeros(numbers)]
    unpack_weights(direct, received)
    assert torch.equal(received[0], sent[0].to(torch.bfloat16).float())
    later = pack_weights(4, [torch.zeros(numbers)], direct, direct=True)
    assert later.data is direct.data
    with pytest.raises(TornSnapshotError, match="version 3"):
        unpack_weights(direct, received)  # its memory holds other weights by now


def test_the_layout_of_a_tensor_in_memory_does_not_matter() -> None:
    grid = torch.randn(4, 6)
    assert pack_weights(0, [grid.t()]).checksum == pack_weights(0, [grid.t().contiguous()]).checksum


@given(st.data())
def test_any_flipped_bit_is_refused_and_nothing_is_written(data: st.DataObject) -> None:
    snapshot, targets = pack_weights(7, weights(2)), weights(3)
    torn = np.array(snapshot.data)
    torn[data.draw(st.integers(0, torn.size - 1))] ^= np.uint16(1 << data.draw(st.integers(0, 15)))
    with pytest.raises(ValueError, match=r"version 7.*torn"):
        unpack_weights(replace(snapshot, data=torn), targets)
    assert all(torch.equal(a, b) for a, b in zip(targets, weights(3), strict=True))


def test_a_truncated_snapshot_is_refused() -> None:
    snapshot = pack_weights(7, weights(2))
    with pytest.raises(ValueError, match="torn"):
        unpack_weights(replace(snapshot, data=snapshot.data[:-1]), holes())


def test_weights_of_another_network_are_refused() -> None:
    snapshot: Snapshot = pack_weights(3, weights(2)[:-1])
    with pytest.raises(ValueError, match="version 3: 18 numbers, this network has 24"):
        unpack_weights(snapshot, holes())


@pytest.mark.parametrize("modalities", [("video", "audio"), ("video",), ("audio",)])
def test_a_rollout_comes_back_as_it_was(modalities: tuple[str, ...]) -> None:
    sent = rollout(modalities)
    received = rollout_from_arrays(rollout_to_arrays(sent))
    assert sent.exit_state is not None
    assert sent.exit_time_BK is not None
    assert received.exit_state is not None
    assert received.exit_time_BK is not None
    for a, b in ((sent.history, received.history), (sent.exit_state, received.exit_state)):
        assert [name for name, _ in a.items()] == [name for name, _ in b.items()] == list(modalities)
        assert all(torch.equal(x, b.get(name)) for name, x in a.items())
    assert torch.equal(sent.exit_time_BK, received.exit_time_BK)
    assert (received.versions, received.samples) == (sent.versions, sent.samples)


def test_a_rollout_without_exit_states_comes_back_without() -> None:
    """Where DMD has no weight, nothing reads them and nothing sends them."""
    sent = replace(rollout(("video", "audio")), exit_state=None, exit_time_BK=None)
    arrays = rollout_to_arrays(sent)
    assert set(arrays) == {"history_video", "history_audio", "versions", "samples"}
    received = rollout_from_arrays(arrays)
    assert received.exit_state is None
    assert received.exit_time_BK is None
    assert all(torch.equal(x, received.history.get(name)) for name, x in sent.history.items())
    assert (received.versions, received.samples) == (sent.versions, sent.samples)


def test_parts_become_one_rollout_in_their_order() -> None:
    parts = [rollout_to_arrays(replace(rollout(("video", "audio")), samples=(n, -n))) for n in (3, 1, 2)]
    whole = rollout_from_arrays(*parts)
    assert whole.samples == (3, -3, 1, -1, 2, -2)
    assert len(whole.versions) == 6
    assert whole.exit_time_BK is not None
    for n, part in enumerate(parts):
        assert np.array_equal(whole.history.get("audio")[2 * n : 2 * n + 2].numpy(), part["history_audio"])
        assert np.array_equal(whole.exit_time_BK[2 * n : 2 * n + 2].numpy(), part["exit_time"])


def test_rollouts_of_other_clips_are_refused() -> None:
    ids, at = ["clip-a", "clip-b"], range(14, 16)
    made = rollout_from_arrays(rollout_to_arrays(replace(rollout(("video",)), samples=tuple(map(sample_number, ids, at)))))
    require_clips(made, ids, at, 7)
    for others in (["clip-b", "clip-a"], ["clip-a"], ["clip-a", "clip-c"]):
        with pytest.raises(ValueError, match="step 7: its rollouts are of other clips"):
            require_clips(made, others, at, 7)
    with pytest.raises(ValueError, match="step 7: its rollouts are of other clips"):
        require_clips(made, ids, range(16, 18), 7)  # the same clips, visited again


def test_a_received_rollout_owns_its_memory() -> None:
    arrays = rollout_to_arrays(rollout(("video", "audio")))
    before = {name: array.copy() for name, array in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False  # as the object store hands them out
    received = rollout_from_arrays(arrays)
    assert received.exit_state is not None
    assert received.exit_time_BK is not None
    for x in (received.history.get("video"), received.exit_state.get("audio"), received.exit_time_BK):
        x.zero_()
    assert all(np.array_equal(before[name], array) for name, array in arrays.items())
