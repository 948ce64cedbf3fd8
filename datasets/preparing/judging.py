"""A clip is judged: why it is of no use, or what was measured of it. The cheap rules come first; faces and lags are looked for when asked.

Clip -> filters.py -> faces.py -> lag.py -> Judgement: a reason, or what was found and a fingerprint (duplicates.py)
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import DataConfig
from ..format.clip_table import Found
from ..signals.duplicates import fingerprint
from ..signals.faces import face_track, refuse_faceless
from ..signals.filters import refuse_reason
from ..signals.lag import av_lag, refuse_late
from ..signals.measures import measure
from .cutting import Clip


@dataclass(frozen=True)
class Judgement:
    """reason: why a clip is left out, empty of a good one; found: what was measured of it; fingerprint: packed, where it is asked for."""

    reason: str = ""
    found: Found = ()
    fingerprint: str = ""


def judge(clip: Clip, config: DataConfig) -> Judgement:
    """What is to be said of a clip."""
    if reason := refuse_reason(clip.frames, clip.audio, config.filters):
        return Judgement(reason)
    t, found = config.timeline, dict(measure(clip.frames, clip.audio))
    asks_lag = clip.audio is not None and bool(config.lag.measure or config.lag.max_av_lag_ms)
    if clip.frames is not None and (config.faces.min_share or asks_lag):
        track = face_track(clip.frames, t.fps, config.faces)
        found["face_share"] = track.share
        if reason := refuse_faceless(track, config.faces):
            return Judgement(reason)
        if asks_lag and clip.audio is not None:
            lag = av_lag(clip.frames, clip.audio, t.fps, t.sample_rate, track)
            if reason := refuse_late(lag, config.lag):
                return Judgement(reason)
            if lag is not None:
                found |= {"lag_ms": lag.ms, "lag_confidence": lag.confidence}
    seen = fingerprint(clip.frames, clip.audio, t.sample_rate).pack() if config.duplicates.refuse else ""
    return Judgement("", tuple((name, round(float(value), 3)) for name, value in found.items()), seen)
