"""Anti-aliased painting of many frames at once: signed distances on a numpy grid.

A shape is a function of coordinates that returns the signed distance to its edge (negative inside), in the units of the
coordinates. `Canvas.paint` evaluates it on the part of the picture that it can reach, and blends a colour through it.
Letters: n frames, H height, W width. Coordinates: x right, y down, 1 = half of the picture's shorter side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Colour = tuple[float, float, float]
Box = tuple[float, float, float, float]  # left, right, top, bottom
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def ellipse(x: np.ndarray, y: np.ndarray, rx: float | np.ndarray, ry: float | np.ndarray) -> np.ndarray:
    """Distance to an axis-aligned ellipse, first order (exact on the edge and for circles; Quilez, "ellipsoid bound")."""
    u, v = x / rx, y / ry
    inner = np.sqrt(u * u + v * v + 1e-8)
    u, v = u / rx, v / ry
    slope = np.sqrt(u * u + v * v + 1e-8 / (rx * ry))
    return inner * (inner - 1.0) / slope


def rounded_box(x: np.ndarray, y: np.ndarray, rx: float | np.ndarray, ry: float | np.ndarray, radius: float) -> np.ndarray:
    """Exact distance to a box of half sizes rx, ry with rounded corners."""
    u, v = np.abs(x) - (rx - radius), np.abs(y) - (ry - radius)
    outside = np.sqrt(np.maximum(u, 0.0) ** 2 + np.maximum(v, 0.0) ** 2)
    return outside + np.minimum(np.maximum(u, v), 0.0) - radius


def blend(a: np.ndarray, b: np.ndarray, reach: float) -> np.ndarray:
    """Union of two shapes with a fillet of size `reach` (polynomial smooth minimum)."""
    near = np.maximum(reach - np.abs(a - b), 0.0) / reach
    return np.minimum(a, b) - near * near * (reach / 4)


class Canvas:
    """Pictures `[3, n, H, W]` float32 in 0..1 with the coordinates of a moving frame of reference (a head, a face, a body)."""

    def __init__(self, background: np.ndarray, frames: int) -> None:
        """`background` is float32 [3, H, W]; it is repeated for `frames` pictures."""
        _, self.height, self.width = background.shape
        self.image = np.repeat(background[:, None], frames, axis=1)
        self.unit = min(self.height, self.width) / 2
        self._x = ((np.arange(self.width, dtype=np.float32) + 0.5) - self.width / 2) / self.unit
        self._y = ((np.arange(self.height, dtype=np.float32) + 0.5) - self.height / 2) / self.unit
        self.place(*(np.zeros(frames, np.float32) for _ in range(3)))

    def place(self, shift_x: np.ndarray, shift_y: np.ndarray, roll: np.ndarray) -> None:
        """Set the frame of reference of what is painted next: shift in units, roll in radians, each [n]."""
        self._shift_x, self._shift_y = (s.astype(np.float32)[:, None, None] for s in (shift_x, shift_y))
        self._cos, self._sin = np.cos(roll).astype(np.float32)[:, None, None], np.sin(roll).astype(np.float32)[:, None, None]
        self._reach = (np.abs(shift_x).max(), np.abs(shift_y).max(), float(np.abs(np.sin(roll)).max()))

    def paint(self, box: Box, shape: Shape, colour: Colour, opacity: float = 1.0, soft: float = 0.0, inside: Shape | None = None) -> None:
        """Blend `colour` where `shape` is, softened over `soft` units, kept `inside` another shape. `box` bounds it before placing."""
        rows, columns = self._window(box, soft / 2)
        x, y = self._x[None, None, columns] - self._shift_x, self._y[None, rows, None] - self._shift_y
        u, v = self._cos * x + self._sin * y, self._cos * y - self._sin * x
        cover = self._cover(shape(u, v), soft) * np.float32(opacity)
        if inside is not None:
            cover *= self._cover(inside(u, v), 0.0)
        for plane, level in zip(self.image, colour, strict=True):
            part = plane[:, rows, columns]
            part += cover * (np.float32(level) - part)

    def frames(self) -> np.ndarray:
        """The pictures as uint8 [n, H, W, 3]."""
        return np.ascontiguousarray((np.clip(self.image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8).transpose(1, 2, 3, 0))

    def _cover(self, distance: np.ndarray, soft: float) -> np.ndarray:
        return np.clip(0.5 - distance / np.float32(1.0 / self.unit + soft), 0.0, 1.0)

    def _window(self, box: Box, halo: float) -> tuple[slice, slice]:
        """The pixels that `box` with a halo around it can reach in any frame."""
        left, right, top, bottom = box
        reach_x, reach_y, sine = self._reach
        swing = sine * max(abs(edge) for edge in box) + halo
        return (
            _pixels(top - reach_y - swing, bottom + reach_y + swing, self.unit, self.height),
            _pixels(left - reach_x - swing, right + reach_x + swing, self.unit, self.width),
        )


def _pixels(low: float, high: float, unit: float, size: int) -> slice:
    first, last = int(np.floor(low * unit + size / 2)) - 1, int(np.ceil(high * unit + size / 2)) + 1
    return slice(min(max(first, 0), size), min(max(last, 0), size))
