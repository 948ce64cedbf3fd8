"""Who the synthetic characters are and how they move: everything about a clip's person that is not a pixel or a sound.

`draw_identity` chooses a person, `describe` puts it in words, `voice_of` gives the voice that fits, `move` the head and eyes in time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .canvas import Colour
from .voice import Articulation, Voice


def _palette(**codes: str) -> dict[str, Colour]:
    """Names to colours 0..1 from hexadecimal codes."""
    return {name: (int(code[0:2], 16) / 255, int(code[2:4], 16) / 255, int(code[4:6], 16) / 255) for name, code in codes.items()}


SKIN = _palette(fair="f8d5bd", light="edbb96", tan="d69c70", brown="aa7048", dark="80502f")
HAIR = _palette(black="26211f", brown="5d3a22", red="b4451f", blond="e2b857", grey="a6a5a6", white="eceae6")
EYES = _palette(brown="5d3717", blue="2f7cc4", green="2f8f56", grey="6f7c88")
BACKGROUND = _palette(blue="6ea6d8", teal="55b0aa", yellow="efcb68", purple="9a86c6", pink="e8a3b4", grey="9ea7ad", orange="eda263")
SHIRT = _palette(navy="27406b", white="ecebe8", red="b8383a", green="3b7a57", mustard="c9962c")
FACE_SHAPES = {
    "round": (0.60, 0.62, 0.10),
    "oval": (0.56, 0.67, 0.17),
    "square": (0.58, 0.64, 0.02),
}  # half width and height, taper of the jaw
STYLES = {  # rate, liveliness, level, head motion, smile
    "calmly": (0.90, 0.45, 0.85, 0.7, 0.25),
    "cheerfully": (1.05, 0.90, 1.00, 1.2, 0.80),
    "excitedly": (1.22, 1.20, 1.15, 1.6, 0.55),
    "softly": (0.92, 0.40, 0.55, 0.6, 0.35),
    "seriously": (0.98, 0.35, 0.95, 0.8, 0.00),
}
POSES = {"facing the camera": 0.0, "turned slightly left": -0.65, "turned slightly right": 0.65}
HAIR_WORDS = {"short": "short ", "bob": "", "long": "long ", "bun": "tied-up ", "curly": "curly "}


@dataclass(frozen=True)
class Identity:
    """A person, by names that key the tables above; `build` 0..1 varies the proportions, `pitch_hz` is the voice."""

    gender: str
    age: str
    skin: str
    hair: str
    hair_style: str
    eyes: str
    face: str
    glasses: bool
    shirt: str
    background: str
    pose: str
    style: str
    build: float
    pitch_hz: float


@dataclass(frozen=True)
class Motion:
    """Per-frame motion, float32 [N] each.

    Shifts in half pictures, roll in radians; yaw, nod and gaze about -1..1; lids 0 (open) to 1; brows 0..1 (raised).
    """

    shift_x: np.ndarray
    shift_y: np.ndarray
    roll: np.ndarray
    yaw: np.ndarray
    nod: np.ndarray
    lids: np.ndarray
    gaze_x: np.ndarray
    gaze_y: np.ndarray
    brows: np.ndarray


def draw_identity(rng: np.random.Generator) -> Identity:
    """A random person; hair agrees with age."""

    def pick(names: Iterable[str]) -> str:
        return str(rng.choice(list(names)))

    woman, old = bool(rng.random() < 0.5), bool(rng.random() < 0.25)
    styles = ("bob", "long", "bun", "curly") if woman else ("short", "short", "curly", "bald")
    hair = pick(("grey", "white")) if old else pick(("black", "brown", "red", "blond"))
    return Identity(
        gender="woman" if woman else "man",
        age="old" if old else "young",
        skin=pick(SKIN),
        hair=hair,
        hair_style=pick(styles),
        eyes=pick(EYES),
        face=pick(FACE_SHAPES),
        glasses=bool(rng.random() < 0.2),
        shirt=pick(SHIRT),
        background=pick(BACKGROUND),
        pose=pick(("facing the camera", *POSES)),
        style=pick(STYLES),
        build=float(rng.uniform()),
        pitch_hz=float(rng.uniform(175, 245) if woman else rng.uniform(92, 145)) * (0.92 if old else 1.0),
    )


def describe(identity: Identity) -> str:
    """The caption, such as "a young woman with red hair and green eyes, blue background, facing the camera, speaking calmly"."""
    hair = "a bald head" if identity.hair_style == "bald" else f"{HAIR_WORDS[identity.hair_style]}{identity.hair} hair"
    article = "an" if identity.age == "old" else "a"
    person = f"{article} {identity.age} {identity.gender} with {hair} and {identity.eyes} eyes"
    glasses = ", wearing glasses" if identity.glasses else ""
    return f"{person}{glasses}, {identity.shirt} shirt, {identity.background} background, {identity.pose}, speaking {identity.style}"


def voice_of(identity: Identity) -> Voice:
    """The voice that fits a person: women have shorter vocal tracts, the style sets rate, liveliness and level."""
    rate, liveliness, level, _, _ = STYLES[identity.style]
    tract = (1.12 if identity.gender == "woman" else 0.97) + 0.06 * (0.5 - identity.build)
    return Voice(identity.pitch_hz, tract, rate * (0.94 if identity.age == "old" else 1.0), liveliness, level)


def move(rng: np.random.Generator, identity: Identity, articulation: Articulation, times: np.ndarray) -> Motion:
    """Gentle head sway, nods and brows with loud words, blinks and glances at `times` (seconds, [N])."""
    energy = STYLES[identity.style][3]
    loud = _slow(articulation.loudness, times, 0.16)

    def sway(slow_hz: float, fast_hz: float) -> np.ndarray:
        waves = [np.sin(2 * np.pi * (rng.uniform(0.7, 1.3) * hz * times + rng.uniform())) for hz in (slow_hz, fast_hz)]
        return waves[0] * 0.7 + waves[1] * 0.3

    yaw = np.clip(POSES[identity.pose] + 0.28 * energy * sway(0.22, 0.6), -1.2, 1.2)
    tracks = (
        0.022 * energy * sway(0.18, 0.5) + 0.02 * yaw,
        0.012 * energy * sway(0.25, 0.7) + 0.018 * energy * (loud - 0.3),
        0.045 * energy * sway(0.2, 0.55),
        yaw,
        0.3 * energy * sway(0.3, 0.8) + 0.5 * (loud - 0.3),
        _blinks(rng, times),
        *_glances(rng, times),
        np.clip(1.3 * loud * min(energy, 1.3), 0.0, 1.0),
    )
    return Motion(*(np.asarray(track, np.float32) for track in tracks))


def _blinks(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    lids = np.zeros(len(times))
    at = rng.uniform(0.3, 2.0)
    while at < times[-1]:
        lids = np.maximum(lids, np.exp(-0.5 * (np.abs(times - at) / 0.055) ** 2) * 1.25)
        at += rng.uniform(1.4, 3.8)
    return np.clip(lids, 0.0, 1.0)


def _glances(rng: np.random.Generator, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mostly at the camera, now and then aside; each glance is a quick step."""
    gaze = np.zeros((2, len(times)))
    at = rng.uniform(0.5, 2.5)
    while at < times[-1]:
        end = at + rng.uniform(0.35, 0.9)
        gaze[:, (times >= at) & (times < end)] = np.array([[rng.choice((-1.0, 1.0)) * rng.uniform(0.5, 1.0)], [rng.uniform(-0.4, 0.4)]])
        at = end + rng.uniform(1.0, 3.0)
    return _slow(gaze[0], times, 0.03), _slow(gaze[1], times, 0.03)


def _slow(track: np.ndarray, times: np.ndarray, seconds: float) -> np.ndarray:
    """Symmetric Gaussian smoothing of a per-frame track."""
    step = times[1] - times[0] if len(times) > 1 else 1.0
    reach = max(1, int(np.ceil(3 * seconds / step)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / seconds) ** 2)
    return np.convolve(np.pad(track, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
