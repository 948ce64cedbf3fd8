"""Chunks of latents as frames and samples: what a network's codecs add to the time of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.codecs import (
    AudioCodec,
    AudioMoments,
    DctVideoCodec,
    DctVideoConfig,
    MdctAudioCodec,
    MdctAudioConfig,
    OobleckAudioCodec,
    Place,
    VideoCodec,
    VideoMoments,
    WanVideoCodec,
    codec_from_folder,
)
from ..model.presets import Preset
from ..model.types import AV


@dataclass(frozen=True)
class Codecs:
    """Both codecs of a network."""

    video: VideoCodec
    audio: AudioCodec


def embedded(preset: Preset) -> Codecs:
    """The DCT and MDCT codecs of a preset's latents, fitted to noise: what they keep does not change how long they take."""
    network, generator, side = preset.network, torch.Generator().manual_seed(0), 2 * preset.spatial_stride
    video, audio = VideoMoments(preset.spatial_stride, preset.clock.video_stride), AudioMoments(preset.clock.audio_hop)
    clip = (4, 1 + 4 * preset.clock.video_stride, side, side, 3)
    video.update(torch.randint(0, 256, clip, generator=generator, dtype=torch.uint8))
    audio.update(torch.randn(4, 16 * preset.clock.audio_hop, generator=generator))
    blocks = DctVideoConfig(preset.spatial_stride, preset.clock.video_stride, network.video_channels)
    return Codecs(
        DctVideoCodec.fit(blocks, video), MdctAudioCodec.fit(MdctAudioConfig(preset.clock.audio_hop, network.audio_channels), audio)
    )


def pretrained(preset: Preset, video: str, audio: str, device: torch.device, dtype: torch.dtype) -> Codecs:
    """Those of two folders.

    Raises:
        ValueError: a folder cannot be read, or holds no codec of such latents.
    """
    places = [Place(folder, str(device), str(dtype).removeprefix("torch.")) for folder in (video, audio)]
    frames, sound = (codec_from_folder(place) for place in places)
    wanted, clock = preset.network, preset.clock
    if not isinstance(frames, WanVideoCodec) or (frames.channels, frames.spatial_stride) != (wanted.video_channels, preset.spatial_stride):
        latents = f"{wanted.video_channels} channels of {preset.spatial_stride} x {preset.spatial_stride} pixels"
        raise ValueError(f"--video-codec={video!r}: the preset's latents are {latents}, its own are not; choose another folder")
    rates = (wanted.audio_channels, clock.audio_hop, clock.sample_rate)
    if not isinstance(sound, OobleckAudioCodec) or (sound.channels, sound.hop, sound.sample_rate) != rates:
        latents = f"{rates[0]} channels of {rates[1]} samples at {rates[2]} Hz"
        raise ValueError(f"--audio-codec={audio!r}: the preset's latents are {latents}, its own are not; choose another folder")
    return Codecs(frames, sound)


def decoded(codecs: Codecs, first_frame: Tensor, chunks: Iterator[AV]) -> Iterator[tuple[Tensor, Tensor]]:
    """Frames and samples of every chunk. On a GPU they are decoded on a stream of their own, beside the chunk that comes next: what is
    yielded is ready once the device is. All that the decoders carry from chunk to chunk is made on that stream.
    """
    video, audio = codecs.video.stream(), codecs.audio.stream()
    beside = torch.cuda.Stream(first_frame.device) if first_frame.device.type == "cuda" else None

    def at_work(*latents: Tensor) -> AbstractContextManager[object]:
        if beside is None:
            return nullcontext()
        beside.wait_stream(torch.cuda.current_stream(first_frame.device))
        for x in latents:
            x.record_stream(beside)  # its memory must not be given away while the decoders read it
        return torch.cuda.stream(beside)

    with at_work(first_frame):
        video.push(first_frame)
    for chunk in chunks:
        frames, sound = chunk.get("video"), chunk.get("audio")
        with at_work(frames, sound):
            made = video.push(frames), audio.push(sound)
        yield made
