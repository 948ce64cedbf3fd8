"""Accept or refuse a clip: pure rules that return the reason, or None to accept. What stands before the colon names the rule."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

FULL_SCALE = 0.999
NUMBER = re.compile(r"(?<![\w-])\d+(\.\d+)?")  # mp4 and UTF-8 are names
VALUE = re.compile(r"""'[^']*'|"[^"]*\"""")  # as Python writes it
WHERE = re.compile(r"(row) \d+: |(sidecar) (?:.*?\.(?:json|txt|srt|vtt)|[^:]*): ")  # one of many
FIELD = re.compile(rf"""(?:path|spans|transcript\[\d+\](?:=.*?)?(?=: (?:must|need))|[\w.]+(?:\[\d+\])?=(?:{VALUE.pattern}|[^:]*)): """)
SAME = 0.2  # mean difference of two pictures, of 255, that an encoder makes of one picture shown twice


@dataclass(frozen=True)
class FilterConfig:
    """Bounds outside of which a clip is left out.

    min_rms_db: lowest level of the sound in dB of full scale (-300: off). min_luma: lowest mean brightness, of 255 (0: off).
    max_still: highest share of pictures that are the one before (1: off). max_clipped: highest share of samples at full scale (1: off).
    min_side: fewest pixels of the shorter side of the source (0: off).
    licences: under which a source may be, as its tag says it (none: any, and none); consents: the same of the tag `consent`, which says to
    what those who are seen and heard have agreed.
    """

    min_rms_db: float = -60.0
    min_luma: float = 6.0
    max_still: float = 0.98
    max_clipped: float = 0.02
    min_side: int = 0
    licences: tuple[str, ...] = ()
    consents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_still", "max_clipped"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.filters.{name}={getattr(self, name)}: must be a share from 0 to 1 (1: off)")
        if self.min_side < 0:
            raise ValueError(f"data.filters.min_side={self.min_side}: must be pixels, 0 or more (0: off)")
        for name, rights, like in (("licences", self.licences, "CC-BY-4.0"), ("consents", self.consents, "training")):
            if not all(right.strip() for right in rights):
                raise ValueError(f"data.filters.{name}={rights}: an empty name allows nothing; name {name} as tags do: [{like}]")


def refuse_source(width: int, height: int, config: FilterConfig) -> str | None:
    """Why a source with pictures of this size is of no use, or None."""
    if min(width, height) < config.min_side:
        return f"low resolution: {width} x {height} pixels, at least {config.min_side} on the shorter side wanted"
    return None


def refuse_right(right: str, told: Iterable[str], wanted: Sequence[str]) -> str | None:
    """Why a source, or one of its pieces, must not be used, or None. right: what is asked about, as `licence`; told: what the tags say of
    it, "" where they say nothing; wanted: what is allowed (none: anything).
    """
    allowed = {name.strip().casefold() for name in wanted}
    for text in told if allowed else ():
        if text.strip().casefold() not in allowed:
            return f"{right}: {text[:60]!r}, one of {', '.join(wanted)} wanted" if text else f"{right}: none is told"
    return None


def refuse_reason(frames: np.ndarray | None, audio: np.ndarray | None, config: FilterConfig) -> str | None:
    """Why a clip (frames uint8 [N, H, W, 3], audio float32 [S], None where the set has none) is of no use for training, or None."""
    return (None if audio is None else _refuse_sound(audio, config)) or (None if frames is None else _refuse_pictures(frames, config))


def _refuse_sound(audio: np.ndarray, config: FilterConfig) -> str | None:
    level = 20 * np.log10(np.sqrt(np.mean(np.square(audio, dtype=np.float64))) + 1e-12)
    if level < config.min_rms_db:
        return f"silent: {level:.0f} dB, at least {config.min_rms_db:g} dB wanted"
    if (clipped := float(np.mean(np.abs(audio) >= FULL_SCALE))) > config.max_clipped:
        return f"clipped sound: {100 * clipped:.1f} % of its samples are at full scale, at most {100 * config.max_clipped:g} % wanted"
    return None


def _refuse_pictures(frames: np.ndarray, config: FilterConfig) -> str | None:
    if frames.mean() < config.min_luma:
        return f"black: mean brightness {frames.mean():.1f} of 255, at least {config.min_luma:g} wanted"
    if config.max_still < 1 and (still := still_share(frames)) > config.max_still:
        return f"frozen: {100 * still:.0f} % of its pictures are the one before, at most {100 * config.max_still:g} % wanted"
    return None


def still_share(frames: np.ndarray) -> float:
    """Share of pictures (uint8 [N, H, W, 3]) that show what the one before showed; 0 of a single picture."""
    # One at a time: the difference of all would take twice their memory.
    same = [np.mean(np.abs(a.astype(np.int16) - b)) < SAME for a, b in pairwise(frames)]
    return float(np.mean(same)) if same else 0.0


def rule_of(reason: str) -> str:
    """The rule that a reason is of, for a table of what was refused why: without names, values, numbers, details and the remedy, so that
    as many sources as there may be fall under as few rules as there are. Of what text says, whether a list or a sidecar says it.
    """
    if reason.startswith("same content as "):
        return "same content"
    said, text = "", reason
    if where := WHERE.match(text):
        said, text = f"{where[1] or where[2]}: ", text[where.end() :]
    while (of := FIELD.match(text)) and of.end() < len(text):
        text = text[of.end() :]
    text = re.split(r": |; | \(", text, maxsplit=1)[0]
    return said + NUMBER.sub("n", VALUE.sub("...", text))[:60]


def yields(good: str, count: int, reasons: Iterable[str]) -> dict[str, int]:
    """How many are `good`, and how many each rule has refused, the most first."""
    return {good: count, **dict(Counter(map(rule_of, reasons)).most_common())}
