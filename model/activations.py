"""Bytes of the tensors that a pass keeps or needs, counted from the configuration: what `arithmetic` is for multiply-adds.

What is kept for the backward is counted operation by operation, as autograd keeps it without compilation: weights do not count, a tensor
that several operations keep counts once. `tests/unit/model/test_activations.py` holds the sum against what autograd keeps.

    a layer, per token of a branch     before attention   input, norm, 1 + scale, its result, six modulations; q, k, v and their norms
                                       joint attention    rotated q and k, v, output
                                       after attention    gated output, text attention, feed-forward, and the norms before them
    the last layer                     keys and values of all tokens, the rest of the noisy ones alone
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .arithmetic import Arithmetic, Tokens

FP32 = 4
SCALARS = 4  # mean and spread of a norm, a sum of a softmax: fp32, per token or head


@dataclass(frozen=True)
class Activations:
    """Of passes over `chunks` chunks of one clip in parallel, with so many transcript words. item: bytes of a number of the network."""

    of: Arithmetic
    chunks: int
    words: int
    item: int

    def saved(self, every: int = 0, clips: int = 1) -> int:
        """What a forward with gradient keeps for its backward; every: of `ExecutionConfig.checkpoint_every`. A mask serves all clips."""
        depth = self.of.config.depth
        kept = [layer for layer in range(depth) if not every or (layer + 1) % every]
        layers = sum(self.layer(layer + 1 == depth) for layer in kept)
        masks = sum(self.mask(layer + 1 == depth) for layer in kept)
        inputs = (depth - len(kept)) * self._inputs()
        text = depth * sum(self._text_layer(m) for m in self.of.modalities)  # made before the layers: never again
        return clips * (layers + inputs + text + self._ends()) + masks

    def recomputed(self, every: int, clips: int = 1) -> int:
        """What the backward computes again at a time: one layer, if any is recomputed."""
        depth = self.of.config.depth
        if not every or every > depth:
            return 0
        last = depth == 1
        return clips * self.layer(last) + self.mask(last)

    def layer(self, last: bool = False) -> int:
        """What one layer keeps, without its mask and its text; last: the last one, in which only the noisy tokens go on."""
        now, both = self._tokens
        total = 0
        for m in self.of.modalities:
            width, inner, ffn, heads, text = self._sizes(m)
            after = now[m] if last else both[m]
            wide = self.item == FP32
            # Before attention: norm, 1 + scale, and their result; the input twice where the norm works in fp32 on a copy of it.
            before = self.item * 3 * width + FP32 * width + (self.item * 3 * inner if wide else 0) + FP32 * (2 if wide else 4) * inner
            norms = SCALARS * (2 + 2 * heads)
            joint = self.item * 2 * inner  # rotated keys, and values
            # After it: gated output, text norm and its result, second norm, 1 + scale, result; six modulations.
            own = self.item * (7 + 6) * width + FP32 * width + self.item * 2 * ffn
            mixed = self.item * (2 + 4 + 2) * inner + FP32 * 2 * inner  # projections, text, joint query and output
            total += both[m] * (before + norms + joint)
            total += after * (own + mixed + SCALARS * (4 + 4 * heads) + self.item * text)
        return total + self._sink * self.item * 2 * self.of.inner

    def mask(self, last: bool = False) -> int:
        """The mask of the dense attention, which is kept as numbers of the network's, for each layer anew."""
        now, both = self._tokens
        return self.item * sum((now if last else both).values()) * (sum(both.values()) + self._sink)

    def reading(self, clips: int = 1) -> int:
        """A past that was read: keys and values of every layer, its sink's copies too."""
        now, both = self._tokens
        past = sum(both.values()) - sum(now.values()) + self._sink
        return clips * self.of.config.depth * past * 2 * self.of.inner * self.item

    def transient(self, clips: int = 1) -> int:
        """What a layer has at one time when a past is read, or a velocity after it: modulations, q, k, v, the widest of a block, keys."""
        now, both = self._tokens
        each = {m: (8 * self._sizes(m)[0] + 5 * self.of.inner + 2 * self._sizes(m)[2]) for m in self.of.modalities}
        keys = (sum(both.values()) + self._sink) * 2 * self.of.inner
        return clips * self.item * (sum(now[m] * each[m] for m in self.of.modalities) + keys)

    def backward(self, clips: int = 1) -> int:
        """What the backward of a layer has at one time besides what was kept: gradients of the modulations, apart and together."""
        _, both = self._tokens
        return clips * self.item * sum(both[m] * (12 * self._sizes(m)[0] + self._sizes(m)[2]) for m in self.of.modalities)

    def cache(self, clips: int = 1) -> int:
        """Keys and values of a stream with a full window, with the sink's unrotated keys, and a copy of a layer's while it is read."""
        longest = max(self.of.keys(chunk) for chunk in range(self.chunks))
        return clips * 2 * self.of.inner * self.item * (self.of.config.depth + 1) * longest

    # --- parts ------------------------------------------------------------------------------------------------------------

    @cached_property
    def _tokens(self) -> tuple[Tokens, Tokens]:
        return self.of.copies(0, self.chunks)

    @cached_property
    def _sink(self) -> int:
        """Tokens of the copies of the sink among the keys."""
        return self.of.sink_copies(0, self.chunks)

    def _sizes(self, m: str) -> tuple[int, int, int, int, int]:
        """Width, width of all heads, of the feed-forward, heads, and numbers a token that the text mask has."""
        width, _, ffn, options = self.of.branch(m)
        return width, self.of.inner, ffn, self.of.config.heads, self.words + 1 if options.caption_features else 0

    def _inputs(self) -> int:
        _, both = self._tokens
        return self.item * sum(both[m] * self._sizes(m)[0] for m in self.of.modalities)

    def _text_layer(self, m: str) -> int:
        """Keys and values of the text in one layer."""
        width, inner, _, heads, features = self._sizes(m)
        caption, words = self.of.caption, self.words
        normed = self.item * 2 * inner + FP32 * inner if self.item == FP32 else FP32 * 2 * inner
        if features:
            return (caption + words) * normed + (caption + words + 1) * self.item * 2 * inner
        return (1 + caption + words) * (self.item * width + normed + self.item * 4 * inner + SCALARS * heads)

    def _ends(self) -> int:
        """Embedding and output: patches, the last norm and modulation of the noisy tokens, the error."""
        now, both = self._tokens
        total = 0
        for m in self.of.modalities:
            width, features, _, _ = self.of.branch(m)
            total += both[m] * features * self.item
            total += now[m] * (self.item * 3 * width + FP32 * width + FP32 * features)
        return total
