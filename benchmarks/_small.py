"""Talking characters as pixels and sound, encoded by the embedded codecs: drawn once, and kept as latents in a folder.

    make_character_clip -> frames, sound -> DCT, MDCT -> FOLDER/SETTINGS/10/00000000.pt ...   latents, captions, words
                                                         FOLDER/SETTINGS/codecs.json          fitted on clips of their own

A clip is its index and its length: whoever needs one that is not there draws it, and the same one. Training visits a corpus, common to
all seeds, in another order every time through. Clips of other uses have indices that are their positions.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datasets.drawn.synthetic import GENERATOR, SyntheticConfig, make_character_clip
from ..datasets.places.storage import atomic_path
from ..model.codecs.dct import DctVideoCodec, DctVideoConfig, VideoMoments
from ..model.codecs.mdct import AudioMoments, MdctAudioCodec, MdctAudioConfig
from ..model.text import TextConfig, Word, make_controls
from ..model.timeline import Layout, Timeline
from ..model.types import AV, AVBatch
from ._world import HELD_OUT, Stretch

CLOCK = Timeline()
SIZE = 64  # pixels a side
VIDEO, AUDIO = DctVideoConfig(), MdctAudioConfig()  # with fewer channels of video, mouths lose their sync
TEXT = TextConfig()
FITTED = 400_000_000  # where the clips begin that the codecs are fitted on
SPARE_S = 1.0  # a clip is cut from one that goes on: an end would be known by its silence
BLOCK = 8  # clips of a file
FEW = 16  # blocks: starting processes takes longer than drawing them


@dataclass(frozen=True)
class Characters:
    """folder: where clips are kept; corpus: clips of training, `chunks` long; fitted: clips of that length that fit the codecs."""

    folder: str
    corpus: int
    fitted: int
    chunks: int

    def settings(self) -> dict[str, Any]:
        """What the clips depend on."""
        drawn = {"generator": GENERATOR, "pixels": SIZE, "clock": str(CLOCK), "spare": SPARE_S}
        codecs = {"video": asdict(VIDEO), "audio": asdict(AUDIO), "fitted": self.fitted}
        return {**drawn, "codecs": codecs, "corpus": self.corpus, "chunks": self.chunks}

    @property
    def place(self) -> Path:
        """Clips of other settings lie elsewhere."""
        settings = json.dumps(self.settings(), sort_keys=True)
        return Path(self.folder) / hashlib.sha256(settings.encode()).hexdigest()[:12]

    def block(self, chunks: int, number: int) -> Path:
        return self.place / str(chunks) / f"{number:08d}.pt"


@dataclass(frozen=True)
class Drawn:
    """One clip: frames uint8 [N, H, W, 3], samples float32 [S], on one clock with the words."""

    frames: np.ndarray
    samples: np.ndarray
    caption: str
    words: tuple[Word, ...]


def draw(index: int, chunks: int) -> Drawn:
    """The clip of that index and length."""
    seconds = float(chunks * CLOCK.chunk)
    config = SyntheticConfig(seconds=seconds + SPARE_S, width=SIZE, height=SIZE, fps=CLOCK.fps, sample_rate=CLOCK.sample_rate)
    clip = make_character_clip(config, index)
    return Drawn(
        clip.frames[: CLOCK.frames(chunks)],
        clip.audio[: CLOCK.samples(chunks)],
        clip.caption,
        tuple(Word(w.text, w.start, w.end) for w in clip.words if w.start < seconds),
    )


@lru_cache(maxsize=2)
def codecs(characters: Characters) -> tuple[DctVideoCodec, MdctAudioCodec]:
    """Of the folder; fitted where it has none yet."""
    path = characters.place / "codecs.json"
    if not path.is_file():
        video, audio = VideoMoments(VIDEO.spatial, VIDEO.temporal), AudioMoments(AUDIO.hop)
        for index in range(FITTED, FITTED + characters.fitted):
            clip = draw(index, characters.chunks)
            video.update(torch.from_numpy(clip.frames)[None])
            audio.update(torch.from_numpy(clip.samples)[None])
        fitted = {"video": DctVideoCodec.fit(VIDEO, video).to_json(), "audio": MdctAudioCodec.fit(AUDIO, audio).to_json()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part:
            part.write_text(json.dumps(fitted))
    read = json.loads(path.read_text())
    return DctVideoCodec.from_json(read["video"]), MdctAudioCodec.from_json(read["audio"])


def clips(characters: Characters, first: int, count: int, chunks: int) -> AVBatch:
    """See `World.clips`; video is [B, F, 32, 8, 8], audio [B, T, 128]."""
    indices = [_index(characters, position) for position in range(first, first + count)]
    rows = [(_block(characters, chunks, i // BLOCK), i % BLOCK) for i in indices]
    words = [[Word(*word) for word in block["words"][i]] for block, i in rows]
    text = TextConfig(TEXT.max_caption_words, max(1, *(len(w) for w in words)), TEXT.max_bytes)
    return AVBatch(
        AV(*(torch.stack([block[name][i] for block, i in rows]) for name in ("video", "audio"))),
        make_controls([block["captions"][i] for block, i in rows], words, text),
        Layout(CLOCK, chunks),
        tuple(range(first, first + count)),
        tuple(f"character-{i}" for i in indices),
    )


def prepare(characters: Characters, stretches: Sequence[Stretch]) -> None:
    """See `World.prepare`: all of the corpus, and the stretches."""
    codecs(characters)  # before there are processes that would each fit them
    asked = [(0, characters.corpus, characters.chunks), *stretches]
    wanted = {(chunks, i // BLOCK) for first, count, chunks in asked for i in range(first, first + count)}
    missing = sorted((c, n) for c, n in wanted if not characters.block(c, n).is_file())
    if not missing:
        return
    print(f"drawing {len(missing) * BLOCK} clips into {characters.place}", file=sys.stderr, flush=True)
    if len(missing) <= FEW:
        for chunks, number in missing:
            _draw_block(characters, chunks, number)
        return
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for _ in pool.map(_draw_block, repeat(characters), *zip(*missing, strict=True)):
            pass


def _index(characters: Characters, position: int) -> int:
    if position >= HELD_OUT:
        return position
    visit, place = divmod(position, characters.corpus)
    return int(_order(characters.corpus, visit)[place])


@lru_cache(maxsize=4)
def _order(corpus: int, visit: int) -> np.ndarray:
    return np.random.default_rng((corpus, visit)).permutation(corpus)


@cache
def _block(characters: Characters, chunks: int, number: int) -> dict[str, Any]:
    """Clips BLOCK * number, ...: kept in memory, where the whole corpus has room."""
    path = characters.block(chunks, number)
    if not path.is_file():
        _draw_block(characters, chunks, number)
    return torch.load(path, weights_only=True)


def _draw_block(characters: Characters, chunks: int, number: int) -> None:
    video, audio = codecs(characters)
    drawn = [draw(index, chunks) for index in range(number * BLOCK, (number + 1) * BLOCK)]
    block = {
        "video": torch.cat([video.encode(torch.from_numpy(clip.frames)[None]) for clip in drawn]),
        "audio": torch.cat([audio.encode(torch.from_numpy(clip.samples)[None]) for clip in drawn]),
        "captions": [clip.caption for clip in drawn],
        "words": [[(w.text, w.start, w.end) for w in clip.words] for clip in drawn],
    }
    path = characters.block(chunks, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        torch.save(block, part)
