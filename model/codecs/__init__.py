"""Codecs: media <-> latents. Embedded (training-free, exact in the coefficients that they keep), and pretrained, from a folder."""

from .base import AudioCodec, LatentStream, TextEncoder, TextFeatures, VideoCodec
from .dct import DctVideoCodec, DctVideoConfig, VideoMoments
from .folder import Place
from .mdct import AudioMoments, MdctAudioCodec, MdctAudioConfig
from .oobleck_audio import OobleckAudioCodec
from .registry import (
    audio_codec_from_json,
    codec_from_folder,
    codec_from_json,
    describe_folder,
    text_encoder_from_json,
    video_codec_from_json,
)
from .shape import AudioShape, VideoShape, audio_shape, identity_in, is_pretrained, video_shape
from .umt5 import Umt5TextEncoder
from .wan_video import WanVideoCodec

__all__ = [
    "AudioCodec",
    "AudioMoments",
    "AudioShape",
    "DctVideoCodec",
    "DctVideoConfig",
    "LatentStream",
    "MdctAudioCodec",
    "MdctAudioConfig",
    "OobleckAudioCodec",
    "Place",
    "TextEncoder",
    "TextFeatures",
    "Umt5TextEncoder",
    "VideoCodec",
    "VideoMoments",
    "VideoShape",
    "WanVideoCodec",
    "audio_codec_from_json",
    "audio_shape",
    "codec_from_folder",
    "codec_from_json",
    "describe_folder",
    "identity_in",
    "is_pretrained",
    "text_encoder_from_json",
    "video_codec_from_json",
    "video_shape",
]
