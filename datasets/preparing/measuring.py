"""What the embedded codecs are fitted to: moments of the pixels and samples of some sources."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...model.codecs.dct import DctVideoCodec, VideoMoments
from ...model.codecs.mdct import AudioMoments, MdctAudioCodec
from ..config import DataConfig
from ..ffmpeg.ffmpeg_child import MediaError
from ..ffmpeg.probe import probe
from ..intake.at_hand import at_hand
from ..intake.sources import source_from_json
from ..places.scratch import Scratch
from ..signals.filters import refuse_reason
from .cutting import Reel
from .look import Refused, refusal, require, too_short
from .trials import UNWATCHED, Trials

Row = dict[str, Any]
Measured = tuple[VideoMoments, AudioMoments]
Codecs = tuple[dict[str, Any], dict[str, Any]]
MOST_CLIPS = 24  # of a source: a film of two hours tells no more than a minute of it


class Measure:
    """Row {source: JSON, starts: JSON} -> row {name, moments: JSON, refused: JSON of `Looked`}; no moments where no clip can be used."""

    def __init__(self, config: DataConfig, trials: Trials = UNWATCHED) -> None:
        self._config, self._trials = config, trials

    def __call__(self, row: Row) -> Row:
        source = source_from_json(row["source"])
        try:
            with self._trials.of(source.name), Scratch() as scratch, at_hand(source, scratch) as path:
                found = probe(path, needs_video="video" in self._config.modalities)
                require(found, self._config)
                moments = self._moments(Reel(path, found, self._config, source.spans, json.loads(row["starts"])))
            return {"name": source.name, "moments": pack_moments(*moments), "refused": ""}
        except (MediaError, Refused, OSError) as error:
            return {"name": source.name, "moments": "", "refused": refusal(error).to_json()}

    def _moments(self, reel: Reel) -> Measured:
        c = self._config
        video, audio, count = VideoMoments(c.video_codec.spatial, c.video_codec.temporal), AudioMoments(c.audio_codec.hop), 0
        reason = ""
        for clip in reel:
            if refused := refuse_reason(clip.frames, clip.audio, c.filters):
                reason = reason or refused
                continue
            if clip.frames is not None:
                video.update(torch.from_numpy(clip.frames.copy())[None])
            if clip.audio is not None:
                audio.update(torch.from_numpy(clip.audio.copy())[None])
            count += 1
            if count == MOST_CLIPS:
                break
        if not count:
            raise Refused("filter", reason or too_short(reel.seen.frames, c))
        return video, audio


def pack_moments(video: VideoMoments, audio: AudioMoments) -> str:
    """Codec moments as text, for a row of a table."""
    arrays = {"video": video.to_arrays(), "audio": audio.to_arrays()}
    packed = {m: {k: [int(x) for x in v] for k, v in a.items()} for m, a in arrays.items()}
    return json.dumps(packed)


def unpack_moments(packed: str) -> Measured:
    """What `pack_moments` packed."""
    arrays = {m: {k: np.array(v, dtype=np.int64) for k, v in a.items()} for m, a in json.loads(packed).items()}
    return VideoMoments.from_arrays(arrays["video"]), AudioMoments.from_arrays(arrays["audio"])


def fit(config: DataConfig, measured: Sequence[Measured]) -> Codecs:
    """The embedded codecs of these moments, as JSON; an empty object for a modality that the set has not."""
    (video, audio), *others = measured
    for other_video, other_audio in others:
        video, audio = video.merge(other_video), audio.merge(other_audio)
    return (
        DctVideoCodec.fit(config.video_codec, video).to_json() if "video" in config.modalities else {},
        MdctAudioCodec.fit(config.audio_codec, audio).to_json() if "audio" in config.modalities else {},
    )
