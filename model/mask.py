"""Who may attend to whom: the one truth about causality (method 3).

Training runs all chunks in parallel over two copies of a clip, the clean *context* copy and the *noisy* copy:

    noisy   token of chunk k  ->  context chunks [k - window, k), the sink, and the noisy tokens of chunk k
    context token of chunk k  ->  context chunks [k - window, k] and the sink

The sink is the first frame (chunk -1), always visible; in a clip without a picture it is its first chunk. Once the window has rolled past
it, it is re-placed directly before the window (`sink_shift`), so no relative time exceeds training's; a query sees exactly one copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .timeline import FIRST_FRAME_CHUNK

WORDS = 16  # in a portion of them


@dataclass(frozen=True)
class Tokens:
    """Places of N tokens: chunk, copy, position on the clock (seconds) and on the picture's patch grid.

    shift_N: the chunks by which a re-placed copy of the sink is moved (0 for every ordinary token).
    """

    chunk_N: Tensor
    clean_N: Tensor
    time_N: Tensor
    row_N: Tensor
    column_N: Tensor
    shift_N: Tensor

    def cat(self, *others: Tokens) -> Tokens:
        every = (self, *others)
        return Tokens(*(torch.cat([getattr(t, name) for t in every]) for name in self.__dataclass_fields__))

    def select(self, keep: Tensor | tuple[slice | None, ...]) -> Tokens:
        """The tokens at an index, or all of them with new axes."""
        return Tokens(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))

    def to(self, device: torch.device) -> Tokens:
        return Tokens(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def replaced_sink(self, shift: int, chunk_seconds: float) -> Tokens:
        """The tokens of the sink, moved by `shift` chunks."""
        return Tokens(self.chunk_N, self.clean_N, self.time_N + shift * chunk_seconds, self.row_N, self.column_N, self.shift_N + shift)

    def __len__(self) -> int:
        return self.chunk_N.shape[0]


def sink_of(tokens: Tokens) -> int:
    """The chunk that is the sink of a clip with these tokens: the earliest."""
    return int(tokens.chunk_N.min()) if len(tokens) else 0


def sink_shift(chunk_N: Tensor, window: int, sink: int) -> Tensor:
    """Chunks by which the sink is moved for a query of each chunk: 0 until the window has rolled."""
    return (chunk_N - window - 1 - sink).clamp(min=0)


def may_attend(query: Tokens, key: Tokens, window: int, sink: int) -> Tensor:
    """Whether a query may attend to a key, for any shapes that broadcast: what every back-end asks. sink: the chunk that it is."""
    in_window = (key.chunk_N >= query.chunk_N - window) & (key.chunk_N >= 0) & (key.shift_N == 0)
    past = key.clean_N & in_window & ((key.chunk_N < query.chunk_N) | (query.clean_N & (key.chunk_N == query.chunk_N)))
    present = ~query.clean_N & ~key.clean_N & (key.chunk_N == query.chunk_N)
    placed = key.clean_N & (key.chunk_N == sink) & (key.shift_N == sink_shift(query.chunk_N, window, sink))
    outside = placed & (query.chunk_N > sink + window)  # in the window, it is a chunk as others are
    return past | present | (placed if sink == FIRST_FRAME_CHUNK else outside)


def dense_mask(queries: Tokens, keys: Tokens, window: int) -> Tensor:
    """[N_queries, N_keys], True where the query may attend."""
    return may_attend(queries.select((slice(None), None)), keys.select((None, slice(None))), window, sink_of(keys))


def word_mask(chunk_N: Tensor, words_time_BW2: Tensor, chunk_seconds: float, window: int, lookahead_s: float) -> Tensor:
    """Transcript words that a token of each chunk may attend to, [B, N, W]: windowed like keys, with a look ahead."""
    start, end = words_time_BW2[:, None, :, 0], words_time_BW2[:, None, :, 1]
    chunk = chunk_N.clamp(min=0)[None, :, None]
    return (start < (chunk + 1) * chunk_seconds + lookahead_s) & (end > (chunk - window) * chunk_seconds)


def words_kept(near: int, every: int) -> int:
    """Words among the keys of a chunk in a stream that has so many near it: whole portions, so that chunks have few shapes, or all."""
    return min(every, WORDS * max(1, -(-near // WORDS)))
