"""Text of clips whose source has none: words from their sound and a caption from their pictures, by networks that the settings name.

text of the source --cut to the clip--> words, caption
                    none of it -------> transcribe.py, captions.py, opened once a process
"""

from __future__ import annotations

from functools import lru_cache

from ..config import DataConfig
from ..intake.sidecars import Sidecar, TimedWords, cut_words
from ..words.captions import CaptionConfig, open_captioner
from ..words.plugins import PicturesToText, SpeechToText
from ..words.transcribe import TranscribeConfig, open_transcriber
from .cutting import Clip

Scribes = tuple[SpeechToText | None, PicturesToText | None]


@lru_cache(maxsize=1)
def _opened(transcribe: TranscribeConfig, caption: CaptionConfig) -> Scribes:
    return open_transcriber(transcribe), open_captioner(caption)


def identities(config: DataConfig) -> dict[str, str]:
    """What writes the text: changes where the text would.

    Raises:
        ValueError: a folder or a plug-in is not there, or not what it should be.
    """
    hears, sees = _opened(config.transcribe, config.caption)
    return {name: scribe.identity for name, scribe in (("transcript", hears), ("caption", sees)) if scribe is not None}


def text_of_clip(text: Sidecar, clip: Clip, config: DataConfig) -> tuple[str, TimedWords]:
    """(caption, words on the clip's clock). text: of its source or its span, on the source's clock."""
    hears, sees = _opened(config.transcribe, config.caption)
    caption, words = text.caption, cut_words(text.words, clip.start_s, config.timeline.seconds(clip.chunks))
    if not caption and sees is not None and clip.frames is not None:
        caption = sees.caption(clip.frames)
    if not text.words and hears is not None and clip.audio is not None:
        words = hears.transcribe([clip.audio], config.timeline.sample_rate)[0].words
    return caption, words
