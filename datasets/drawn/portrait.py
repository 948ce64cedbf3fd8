"""Painting of a talking character: identity, motion and articulation in, pictures out.

Layers, back to front: background, hair behind, body, ears and head, mouth, nose, eyes, fringe, brows, glasses. The head has its
own frame of reference; the features inside it shift a little with yaw and nod, which reads as depth. Lengths are half pictures.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

import numpy as np

from .canvas import Canvas, Colour, Shape, blend, ellipse, rounded_box
from .characters import BACKGROUND, EYES, FACE_SHAPES, HAIR, SHIRT, SKIN, STYLES, Identity, Motion
from .voice import Articulation

PIXELS_AT_ONCE = 1 << 16  # frames are painted in groups whose planes stay in a core's cache
EYE_X, EYE_Y, MOUTH_Y = 0.25, -0.06, 0.37
WHITE, INK = (0.97, 0.96, 0.94), (0.13, 0.09, 0.08)
THROAT, TONGUE, TEETH = (0.20, 0.04, 0.06), (0.78, 0.34, 0.36), (0.98, 0.97, 0.93)

Tracks = TypeVar("Tracks", Motion, Articulation)


def paint_portrait(identity: Identity, motion: Motion, articulation: Articulation, width: int, height: int) -> np.ndarray:
    """Frames uint8 [N, height, width, 3] of one person; motion and articulation give N."""
    background = _background(identity, width, height)
    group = max(1, PIXELS_AT_ONCE // (width * height))
    parts = [slice(first, first + group) for first in range(0, len(motion.yaw), group)]
    return np.concatenate([_Painter(identity, _cut(motion, part), _cut(articulation, part), background).paint() for part in parts])


def _cut(tracks: Tracks, part: slice) -> Tracks:
    return type(tracks)(*(vars(tracks)[field.name][part] for field in fields(tracks)))


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = ((1 - share) * p + share * q for p, q in zip(a, b, strict=True))
    return red, green, blue


def _background(identity: Identity, width: int, height: int) -> np.ndarray:
    """Float32 [3, H, W]: the named colour, lit from above, with two large soft discs."""
    base = BACKGROUND[identity.background]
    canvas = Canvas(np.broadcast_to(np.array(base, np.float32)[:, None, None], (3, height, width)).copy(), 1)
    reach = max(width, height) / min(width, height)
    everywhere = (-2 * reach, 2 * reach, -2 * reach, 2 * reach)
    side = 1.0 if identity.build > 0.5 else -1.0
    canvas.paint(everywhere, lambda x, y: ellipse(x - 0.5 * side, y + 0.75, 0.7, 0.7), WHITE, 0.28, soft=0.9)
    canvas.paint(everywhere, lambda x, y: ellipse(x + 0.95 * side, y - 0.45, 0.55, 0.55), _mix(base, INK, 0.5), 0.22, soft=0.12)
    canvas.paint(everywhere, lambda x, y: 0.4 - y, _mix(base, INK, 0.6), 0.25, soft=1.2)
    return canvas.image[:, 0]


class _Painter:
    """One group of frames of one person."""

    def __init__(self, identity: Identity, motion: Motion, articulation: Articulation, background: np.ndarray) -> None:
        self.who, self.motion = identity, motion
        self.canvas = Canvas(background, len(motion.yaw))
        self.skin, self.hair, self.shirt = SKIN[identity.skin], HAIR[identity.hair], SHIRT[identity.shirt]
        self.shade = _mix(self.skin, (0.35, 0.10, 0.08), 0.28)
        half_width, half_height, self.taper = FACE_SHAPES[identity.face]
        self.rx, self.ry = half_width + 0.04 * (identity.build - 0.5), half_height + 0.03 * (0.5 - identity.build)
        self.yaw, self.nod, self.lids, self.gaze_x, self.gaze_y, self.brows = (
            track[:, None, None] for track in (motion.yaw, motion.nod, motion.lids, motion.gaze_x, motion.gaze_y, motion.brows)
        )
        self.opening, self.spread, self.rounding, self.teeth = (
            track[:, None, None] for track in (articulation.opening, articulation.width, articulation.rounding, articulation.teeth)
        )

    def paint(self) -> np.ndarray:
        still, lean = np.zeros_like(self.motion.yaw), 0.35
        self._on_head()
        self._hair_behind()
        self.canvas.place(self.motion.shift_x * lean, still, still)
        self._body()
        self._on_head()
        self._head()
        self._on_face()
        self._mouth()
        self._nose()
        self._eyes()
        self._on_head()
        self._fringe()
        self._on_face()
        self._brows()
        if self.who.glasses:
            self._glasses()
        return self.canvas.frames()

    def _on_head(self) -> None:
        self.canvas.place(self.motion.shift_x, self.motion.shift_y, self.motion.roll)

    def _on_face(self) -> None:
        """Features ride on the front of the head, so they shift further than its outline."""
        move = self.motion
        self.canvas.place(move.shift_x + 0.075 * move.yaw, move.shift_y + 0.025 * move.nod, move.roll)

    def _face(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Egg with a jaw that drops as the mouth opens."""
        tall = np.where(y > 0, self.ry + 0.05 * self.opening, self.ry)
        egg = ellipse(x * (1.0 + self.taper * y), y, self.rx, tall)
        return blend(egg, rounded_box(x, y - 0.22, self.rx * 0.80, 0.34, 0.2), 0.15) if self.who.face == "square" else egg

    def _hair_behind(self) -> None:
        dark = _mix(self.hair, INK, 0.28)
        style = self.who.hair_style
        if style == "long":
            self.canvas.paint((-0.8, 0.8, -0.9, 1.3), lambda x, y: rounded_box(x, y - 0.26, 0.70, 1.04, 0.66), dark)
        elif style == "bob":
            self.canvas.paint((-0.85, 0.85, -0.9, 0.6), lambda x, y: rounded_box(x * (1.06 - 0.12 * y), y + 0.16, 0.72, 0.68, 0.64), dark)
        elif style == "bun":
            self.canvas.paint((-0.3, 0.3, -1.1, -0.5), lambda x, y: ellipse(x, y + 0.78, 0.22, 0.20), dark)
        elif style == "curly":
            self.canvas.paint((-0.95, 0.95, -1.0, 0.5), self._curls, dark)

    @staticmethod
    def _curls(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """A disc whose rim is scalloped."""
        angle = np.arctan2(y + 0.25, x)
        return ellipse(x, y + 0.25, 0.72, 0.62) - 0.05 * np.abs(np.sin(5.5 * angle))

    def _body(self) -> None:
        canvas, dark = self.canvas, _mix(self.shirt, INK, 0.35)
        canvas.paint((-1.1, 1.1, 0.7, 2.2), lambda x, y: ellipse(x, y - 1.32, 0.94, 0.56), self.shirt)
        canvas.paint((-0.4, 0.4, 0.6, 1.1), lambda x, y: ellipse(x, y - 0.80, 0.30, 0.17), dark)
        canvas.paint((-0.3, 0.3, 0.3, 1.0), lambda x, y: rounded_box(x, y - 0.60, 0.225, 0.32, 0.18), _mix(self.skin, self.shade, 0.75))

    def _head(self) -> None:
        canvas, shade = self.canvas, self.shade
        ears = _mix(self.skin, shade, 0.4)
        canvas.paint((-0.75, 0.75, -0.2, 0.3), lambda x, y: ellipse(np.abs(x) - self.rx, y - 0.04, 0.085, 0.13), ears)
        whole = (-0.72, 0.72, -0.75, 0.85)
        canvas.paint(whole, self._face, self.skin)
        canvas.paint(whole, lambda x, y: -ellipse(x + 0.07, y + 0.08, 0.60, 0.68), shade, 0.45, soft=0.30, inside=self._face)
        canvas.paint((-0.5, 0.5, -0.6, -0.1), lambda x, y: ellipse(x + 0.12, y + 0.34, 0.30, 0.18), WHITE, 0.16, soft=0.30)
        blush = _mix(self.skin, (0.90, 0.25, 0.25), 0.5)
        canvas.paint((-0.6, 0.6, -0.1, 0.4), lambda x, y: ellipse(np.abs(x) - 0.37, y - 0.16, 0.09, 0.06), blush, 0.40, soft=0.09)
        if self.who.age == "old":
            canvas.paint((-0.32, 0.32, 0.1, 0.45), self._laugh_lines, shade, 0.6, soft=0.02)

    @staticmethod
    def _laugh_lines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """From the nose down beside the mouth."""
        side = np.abs(x)
        return np.maximum(np.abs(ellipse(side - 0.05, y - 0.34, 0.25, 0.20)) - 0.006, np.maximum(0.16 - side, y - 0.36))

    def _lips(self) -> tuple[np.ndarray, np.ndarray]:
        """Half width and half height of the mouth's opening, [n, 1, 1]."""
        wide = (0.125 + 0.075 * self.spread - 0.055 * self.rounding) * (0.96 + 0.08 * self.who.build)
        return wide + 0.02 * self.opening, 0.010 + 0.155 * self.opening

    def _mouth(self) -> None:
        """Lips around a dark opening with teeth above and the tongue below; the opening falls with the jaw."""
        canvas = self.canvas
        wide, tall = self._lips()
        smile = (0.9 * STYLES[self.who.style][4] + 0.15) * (1.0 - 0.7 * self.rounding) * (1.0 - 0.5 * self.opening)
        thick = 0.034 + 0.014 * self.rounding + (0.008 if self.who.gender == "woman" else 0.0)
        lips = _mix(self.skin, (0.78, 0.12, 0.18) if self.who.gender == "woman" else (0.66, 0.22, 0.20), 0.62)
        box = (-0.34, 0.34, MOUTH_Y - 0.22, MOUTH_Y + 0.32)

        def local(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return x, y - MOUTH_Y - 0.35 * tall + smile * (x * x - 0.02)

        def opening(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return ellipse(*local(x, y), wide, tall)

        def around(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            u, v = local(x, y)
            return ellipse(u, v, wide + thick * 0.7, tall + thick * np.where(v > 0, 1.25, 1.0))

        canvas.paint(box, lambda x, y: ellipse(x, y - MOUTH_Y - 0.13 - 1.3 * tall, 0.11, 0.02), self.shade, 0.35, soft=0.04)
        canvas.paint(box, around, lips)
        canvas.paint(box, opening, THROAT)
        canvas.paint(box, lambda x, y: ellipse(x, y - MOUTH_Y - 1.25 * tall - 0.05, wide * 0.72, 0.10), TONGUE, 0.9, inside=opening)
        bite = -tall + 0.35 * tall + (0.004 + 0.045 * self.teeth)
        canvas.paint(box, lambda x, y: y - MOUTH_Y - bite + smile * (x * x - 0.02), TEETH, 0.95, inside=opening)

    def _nose(self) -> None:
        canvas = self.canvas
        canvas.paint((-0.2, 0.2, -0.1, 0.3), lambda x, y: ellipse(x + 0.01, y - 0.07, 0.035, 0.10), WHITE, 0.16, soft=0.06)
        canvas.paint((-0.2, 0.2, 0.0, 0.3), lambda x, y: ellipse(x, y - 0.165, 0.075, 0.028), self.shade, 0.75, soft=0.03)

    def _eyes(self) -> None:
        canvas, iris = self.canvas, EYES[self.who.eyes]
        open_ry = 0.012 + 0.093 * (1.0 - self.lids)
        shut = 0.03 * self.lids**4  # a closed eye shows the line of its lashes alone
        near = 1.0 - 0.05 * np.abs(self.yaw)
        box = (-0.45, 0.45, EYE_Y - 0.2, EYE_Y + 0.2)

        def lids(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return ellipse(np.abs(x) - EYE_X, y - EYE_Y - 0.05 * self.lids, 0.132 * near, open_ry)

        def eye(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return lids(x, y) + shut

        def disc(radius: float, dx: float = 0.0, dy: float = 0.0) -> Shape:
            def shape(x: np.ndarray, y: np.ndarray) -> np.ndarray:
                side = np.sign(x) * EYE_X
                return ellipse(x - side - 0.035 * self.gaze_x - dx, y - EYE_Y - 0.025 * self.gaze_y - dy, radius, radius)

            return shape

        lash = 0.026 if self.who.gender == "woman" else 0.016
        canvas.paint(box, lambda x, y: lids(x, y + lash * (0.6 - self.lids)) - lash, INK, 0.85)
        canvas.paint(box, eye, WHITE, 1.0)
        canvas.paint(box, disc(0.083), _mix(iris, INK, 0.45), inside=eye)
        canvas.paint(box, disc(0.066), iris, inside=eye)
        canvas.paint(box, disc(0.036), INK, inside=eye)
        canvas.paint(box, disc(0.024, -0.028, -0.030), (1.0, 1.0, 1.0), inside=eye)

    def _fringe(self) -> None:
        style, canvas = self.who.hair_style, self.canvas
        if style == "bald":
            canvas.paint((-0.4, 0.2, -0.7, -0.3), lambda x, y: ellipse(x + 0.14, y + 0.48, 0.13, 0.06), WHITE, 0.35, soft=0.08)
            return
        side = 0.16 if self.who.build > 0.5 else -0.16
        line = {"short": 0.42, "bob": 0.30, "long": 0.40, "bun": 0.44, "curly": 0.38}[style]
        fall = {"short": 0.55, "bob": 0.5, "long": 0.75, "bun": 0.7, "curly": 0.6}[style]
        box = (-0.85, 0.85, -0.95, 0.4)
        turn = 0.05 * self.yaw

        def cap(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            skull = self._curls(x, y + 0.04) + 0.05 if style == "curly" else ellipse(x, y + 0.06, self.rx + 0.045, self.ry + 0.07)
            return np.maximum(skull, y + line - fall * (x - side - turn) ** 2)

        canvas.paint(box, cap, self.hair)
        light = _mix(self.hair, WHITE, 0.45)
        canvas.paint(box, lambda x, y: np.abs(ellipse(x + 0.05, y - 0.02, 0.44, 0.62)) - 0.02, light, 0.22, soft=0.14, inside=cap)

    def _brows(self) -> None:
        colour = _mix(self.hair if self.who.hair_style != "bald" else _mix(self.skin, INK, 0.5), INK, 0.35)
        lift = 0.05 * self.brows
        thick = 0.022 if self.who.gender == "woman" else 0.032
        tilt = 0.10 if self.who.style == "seriously" else -0.04

        def brow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            u = np.abs(x) - EYE_X
            return ellipse(u, y - EYE_Y + 0.195 + lift - 1.3 * u * u + tilt * u, 0.135, thick)

        self.canvas.paint((-0.5, 0.5, EYE_Y - 0.36, EYE_Y), brow, colour, 0.92)

    def _glasses(self) -> None:
        box = (-0.55, 0.55, EYE_Y - 0.25, EYE_Y + 0.25)

        def frame(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            rim = np.abs(rounded_box(np.abs(x) - EYE_X - 0.005, y - EYE_Y, 0.19, 0.155, 0.11)) - 0.014
            return np.minimum(rim, rounded_box(x, y - EYE_Y + 0.03, 0.075, 0.014, 0.014))

        self.canvas.paint(box, frame, (0.16, 0.15, 0.20))
