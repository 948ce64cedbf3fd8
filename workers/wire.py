"""Records as flat numpy and back: what crosses process borders is plain arrays, never torch tensors (facts: 17 s against 0.02 s a GB)."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..model.types import AV, MODALITIES, Rollout

BLOCK = 2**17  # of eight bytes each: what one sum of a checksum covers


class TornSnapshotError(ValueError):
    """Weights that are not what was sent."""


@dataclass(frozen=True)
class Snapshot:
    """Weights of one version on the wire: one bf16 buffer of all tensors in order, and its checksum. data: an array of uint16 for the
    object store, or a tensor on the weights' own device, which is read from there.
    """

    version: int
    data: np.ndarray | Tensor
    checksum: str


def pack_weights(version: int, tensors: Iterable[Tensor], earlier: Snapshot | None = None, direct: bool = False) -> Snapshot:
    """Flatten tensors to one bf16 buffer; the receiver knows the shapes. direct: it stays on their device. earlier: a snapshot of the same
    network that nobody needs any more, whose buffer is used again: to fill fresh memory takes several times as long. Who reads it
    nevertheless finds it torn.
    """
    sources = [t.detach().reshape(-1) for t in tensors]
    if not direct and any(s.device.type != "cpu" for s in sources):
        sources = [torch.cat([s.to(torch.bfloat16) for s in sources])]  # one copy from the device, not hundreds
    sizes = [s.numel() for s in sources]
    if earlier is not None:
        data = earlier.data
    elif direct:
        data = torch.empty(sum(sizes), dtype=torch.bfloat16, device=sources[0].device)
    else:
        data = np.empty(sum(sizes), np.uint16)
    for target, source in zip(_flat(data).split(sizes), sources, strict=True):
        target.copy_(source)
    return Snapshot(version, data, checksum(data))


def unpack_weights(snapshot: Snapshot, tensors: Iterable[Tensor]) -> None:
    """Copy a snapshot into `tensors` (same order and shapes).

    Raises:
        TornSnapshotError: the checksum does not match.
        ValueError: they are weights of another network.
    """
    targets = list(tensors)
    if checksum(snapshot.data) != snapshot.checksum:
        raise TornSnapshotError(f"snapshot of version {snapshot.version}: its checksum does not match; it was torn on the way")
    flat, wanted = _flat(snapshot.data), sum(t.numel() for t in targets)
    if flat.numel() != wanted:
        raise ValueError(f"snapshot of version {snapshot.version}: {flat.numel()} numbers, this network has {wanted}")
    with torch.no_grad():
        for target, part in zip(targets, flat.split([t.numel() for t in targets]), strict=True):
            target.copy_(part.view_as(target))


def checksum(data: np.ndarray | Tensor) -> str:
    """Checksum of bytes against accidents: a hash of the sums of their blocks, as fast as memory is read (a hash of all bytes would take
    longer than the whole transfer). A tensor's sums are made on its device; they are the same numbers.
    """
    sums, rest = _sums_on_device(data) if isinstance(data, Tensor) else _sums(data)
    return hashlib.blake2b(sums + rest, digest_size=16).hexdigest()


def _sums(data: np.ndarray) -> tuple[bytes, bytes]:
    """The sums of all whole blocks modulo 2^64, and what is left of the bytes."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    words = flat[: len(flat) // 8 * 8].view(np.uint64)
    whole = len(words) // BLOCK * BLOCK
    return np.add.reduce(words[:whole].reshape(-1, BLOCK), axis=1).tobytes(), flat[whole * 8 :].tobytes()


def _sums_on_device(data: Tensor) -> tuple[bytes, bytes]:
    flat = data.detach().contiguous().reshape(-1).view(torch.uint8)
    whole = flat.numel() // (8 * BLOCK) * BLOCK
    sums = flat[: whole * 8].view(torch.int64).view(-1, BLOCK).sum(dim=1)  # int64 goes round as uint64 does
    return sums.cpu().numpy().tobytes(), flat[whole * 8 :].cpu().numpy().tobytes()


def _flat(data: np.ndarray | Tensor) -> Tensor:
    """The numbers, wherever they are."""
    if isinstance(data, Tensor):
        return data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the object store's memory is read-only, and is only read
        return torch.from_numpy(data).view(torch.bfloat16)


def rollout_to_arrays(rollout: Rollout) -> dict[str, np.ndarray]:
    """A rollout as named arrays; `rollout_from_arrays` is the inverse."""
    rollout = rollout.to("cpu")
    arrays = {f"history_{m}": x.numpy() for m, x in rollout.history.items()}
    if rollout.exit_state is not None and rollout.exit_time_BK is not None:
        arrays |= {f"exit_{m}": x.numpy() for m, x in rollout.exit_state.items()}
        arrays["exit_time"] = rollout.exit_time_BK.numpy()
    arrays["versions"] = np.array(rollout.versions, dtype=np.int64).reshape(-1, 2)
    arrays["samples"] = np.array(rollout.samples, dtype=np.int64)
    return arrays


def rollout_from_arrays(*parts: Mapping[str, np.ndarray]) -> Rollout:
    """The clips of all parts, in their order; all have exit states, or none. Arrays of the object store are read-only and shared, so they
    are copied, once.
    """
    first = parts[0]

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([part[name] for part in parts]))

    def av(prefix: str) -> AV:
        return AV(**{m: joined(f"{prefix}_{m}") for m in MODALITIES if f"{prefix}_{m}" in first})

    versions, samples = (np.concatenate([part[name] for part in parts]) for name in ("versions", "samples"))
    exits = (av("exit"), joined("exit_time")) if "exit_time" in first else (None, None)
    return Rollout(av("history"), *exits, tuple((int(low), int(high)) for low, high in versions), tuple(int(x) for x in samples))


def require_clips(rollout: Rollout, sample_ids: Sequence[str], positions: Sequence[int], step: int) -> None:
    """Refuse rollouts of other clips than a step reads, or of other visits to them.

    Raises:
        ValueError: they are.
    """
    if rollout.samples != tuple(map(sample_number, sample_ids, positions)):
        raise ValueError(f"step {step}: its rollouts are of other clips than it reads; give all machines the same dataset")


def sample_number(sample_id: str, position: int) -> int:
    """A clip and its position in the stage's order as a number that travels in an array: whether a rollout is of the clip, and of the
    visit, that it is used for.
    """
    return int.from_bytes(hashlib.blake2b(f"{position} {sample_id}".encode(), digest_size=8).digest(), "big", signed=True)
