"""The state of a trained network as pieces: stretches of its parameters in row-major order, with what the optimizer knows about them.

Every process holds some pieces of a network, and together they cover each parameter exactly once, at any ZeRO stage and any number of
processes. So state that was saved by one set of processes is read by any other, and nobody ever gathers a network to save it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
"""Of the parameters of a network, by name."""

WEIGHT = "weight"


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `start + len(weight)` of a parameter, flat and in fp32. moments: the optimizer's of the same elements, by their
    names; there are none for a weight that is not trained, or was not updated yet.
    """

    name: str
    start: int
    weight: Tensor
    moments: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """By the keys that `Source` reads them by."""
        for kind, x in {WEIGHT: self.weight, **self.moments}.items():
            yield f"{self.name}@{self.start}/{kind}", x


def shapes_of(parameters: Iterable[tuple[str, Tensor]]) -> Shapes:
    return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in parameters}  # under ZeRO-3 a parameter itself is empty


def share(numel: int, rank: int, world: int) -> tuple[int, int]:
    """(start, end) of a rank's stretch of what every rank holds whole."""
    each = -(-numel // world)
    return min(rank * each, numel), min((rank + 1) * each, numel)


def whole_pieces(parameters: Iterable[tuple[str, Tensor]], rank: int, world: int) -> list[Piece]:
    """This rank's pieces of a network that every rank holds whole."""
    pieces = []
    for name, p in parameters:
        start, end = share(p.numel(), rank, world)
        if start < end:
            pieces.append(Piece(name, start, p.detach().reshape(-1)[start:end]))
    return pieces


class Source:
    """Pieces that were saved. lengths: elements of each tensor, by its key; read: one of them."""

    def __init__(self, shapes: Shapes, lengths: Mapping[str, int], read: Callable[[str], Tensor]) -> None:
        self.shapes, self._lengths, self._read = shapes, lengths, read
        self._places: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for key, length in lengths.items():
            place, _, kind = key.rpartition("/")
            name, _, start = place.rpartition("@")
            self._places.setdefault((name, kind), []).append((int(start), int(start) + length, key))
        for places in self._places.values():
            places.sort()

    def check(self) -> None:
        """Every weight is there exactly once, and moments of a parameter are there entirely or not at all.

        Raises:
            ValueError: one is not.
        """
        known = {name for name, _ in self._places}
        if unknown := sorted(known - self.shapes.keys()):
            raise ValueError(f"{unknown[0]}: there are pieces of it, and it is no parameter")
        for name, shape in self.shapes.items():
            for kind in (WEIGHT, *self.moments(name)):
                at = 0
                for start, end, _ in self._places.get((name, kind), []):
                    if start != at:
                        break
                    at = end
                if at != prod(shape):
                    raise ValueError(f"{name}: its {kind} is not there exactly once from element {at} of {prod(shape)} on")

    def moments(self, name: str) -> list[str]:
        """Kinds of moments of a parameter."""
        return sorted(kind for of, kind in self._places if of == name and kind != WEIGHT)

    def below(self, prefix: str) -> Source:
        """The parameters whose names begin with `prefix`."""
        shapes = {name: shape for name, shape in self.shapes.items() if name.startswith(prefix)}
        return Source(shapes, {key: n for key, n in self._lengths.items() if key.startswith(prefix)}, self._read)

    def read(self, name: str) -> Tensor:
        """A parameter, whole."""
        return self.stretch(name, WEIGHT, 0, prod(self.shapes[name])).view(self.shapes[name])

    def weights(self) -> dict[str, Tensor]:
        """All parameters, whole."""
        return {name: self.read(name) for name in self.shapes}

    def stretch(self, name: str, kind: str, start: int, end: int) -> Tensor:
        """Elements `start` to `end` of a parameter's weights or moments, flat, put together from the pieces that have them."""
        parts = [
            self._read(key)[max(first, start) - first : min(last, end) - first]
            for first, last, key in self._places[name, kind]
            if first < end and start < last
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
