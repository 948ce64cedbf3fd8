"""What clips are generated from, and what they are held against: held-out clips of a dataset, their words going on, other real clips.

held out -> prompts (first latent, caption, words)       the rest of held out, then trained on -> reference
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ...datasets.format.records import ClipRecord, shapes_of
from ...datasets.reading.loader import LatentDataset
from ...model.text import TextConfig, Word, make_controls
from ...model.types import AV, Controls

Words = tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Prompts:
    """records: the held-out clips that are generated again; reference: other real clips, as many where there are; seen: how many of those
    a network may have been trained on, because too few are held out.
    """

    records: list[ClipRecord]
    reference: list[ClipRecord]
    seen: int


def choose_prompts(dataset: LatentDataset, clips: int) -> Prompts:
    """The first `clips` held-out clips, and as many others.

    Raises:
        ValueError: none is held out, or they have no pictures or no sound.
    """
    held = dataset.held_out_records()
    records = held[:clips]
    if not records:
        raise ValueError("--data: no clip is held out; prepare the dataset with data.held_out_share above 0")
    for record in records:
        if None in shapes_of(record):
            raise ValueError(f"--data: clip {record.clip_id} has no pictures or no sound; evaluate on clips with both")
    others = held[clips : 2 * clips]
    missing = clips - len(others)
    step = max(1, len(dataset.train) // max(1, missing))
    trained = [shard.row(row) for shard, row in dataset.train[::step][:missing]] if missing else []
    whole = [record for record in (*others, *trained) if None not in shapes_of(record)]
    return Prompts(records, whole, sum(record in trained for record in whole))


def spread(words: Words, clip_s: float, seconds: float) -> Words:
    """The words of a clip of `clip_s` seconds for one of `seconds`: beyond its end they begin again, spread as they are."""
    found = [(w, s + turn * clip_s, e + turn * clip_s) for turn in range(int(seconds / clip_s) + 1) for w, s, e in words]
    return tuple((w, s, min(e, seconds)) for w, s, e in found if s < seconds)


def latents_of(dataset: LatentDataset, record: ClipRecord) -> tuple[AV, int]:
    """A clip's latents [1, ...] and how many chunks they are."""
    chunks = dataset.chunks(record.clip_id, shapes_of(record))
    return dataset.collate([record], [0], chunks=chunks).latents, chunks


def first_latents(dataset: LatentDataset, records: Sequence[ClipRecord]) -> torch.Tensor:
    """[B, 1, C, H, W]."""
    return torch.cat([latents_of(dataset, record)[0].get("video")[:, :1] for record in records])


def controls_of(text: TextConfig, captions: Sequence[str], words: Sequence[Words]) -> Controls:
    """Controls of clips with all their words, which may be more than a training clip has."""
    most = max(map(len, words))
    return make_controls(list(captions), [[Word(*w) for w in each] for each in words], replace(text, max_words=max(text.max_words, most)))
