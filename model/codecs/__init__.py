"""Embedded codecs: media <-> latents, training-free, exact in the coefficients that they keep."""

from .base import AudioCodec, LatentStream, VideoCodec
from .dct import DctVideoCodec, DctVideoConfig, VideoMoments
from .mdct import AudioMoments, MdctAudioCodec, MdctAudioConfig
from .registry import audio_codec_from_json, codec_from_json, video_codec_from_json

__all__ = [
    "AudioCodec",
    "AudioMoments",
    "DctVideoCodec",
    "DctVideoConfig",
    "LatentStream",
    "MdctAudioCodec",
    "MdctAudioConfig",
    "VideoCodec",
    "VideoMoments",
    "audio_codec_from_json",
    "codec_from_json",
    "video_codec_from_json",
]
