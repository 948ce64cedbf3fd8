"""The network over all chunks in parallel, and the beginning of a stream; the three ways agree to floating-point tolerance.

forward(noisy, context, ...)         all chunks in parallel under the chunk mask (training)
read(context, ...)(noisy, ...)       the same without gradient, the context once for several velocities (targets)
start(...) -> Stream                 chunk by chunk with a key/value cache (generation)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .plan import before_last
from .stream import Stream
from .timeline import Layout
from .trunk import Trunk, expect, pairs
from .types import AV, MODALITIES, Controls, Reading


class AVTransformer(Trunk):
    """See the module docstring, and `Trunk`."""

    def forward(self, noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        """Velocity of every noisy chunk given the clean context before it.

        noisy: predicted latents (no first frame); context: history with the first frame as video latent 0, same clips;
        t, r: [B, K] times a modality, 0 <= r <= t <= 1. Returns velocities in the shapes of `noisy`.
        """
        self._check(context, layout, with_first_frame=True)
        self._check(noisy, layout, with_first_frame=False)
        before = before_last(context, layout)
        plan = self.planner.both(before, noisy, layout, self.like)
        text = {name: self.text(name, controls) for name, _ in noisy.items()}
        x = {name: torch.cat([self.embedded(before.get(name), name), self.embedded(n, name)], dim=1) for name, n in noisy.items()}

        assert plan.last is not None
        last, ways = plan.last, [plan] * (self.config.depth - 1) + [plan.last]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            way = ways[layer]
            return way.attention(self.rotated(q, way.turn), self.rotated(plan.copied(k), plan.key_turn), plan.copied(v))

        seats, last_seats = self.seats(plan.spots, text), self.seats(last.spots, text)
        return self.velocities(noisy, t, r, layout, self.layers(x, self._times(t, r), seats, text, attend, last=last_seats))

    @torch.no_grad()
    def read(self, context: AV, controls: Controls, layout: Layout) -> Reading:
        """Read a past once: (noisy, t, r) -> what `forward` gives without gradient, for the cost of the noisy tokens alone.

        The keys and values of the past depend on the weights of this moment, so a reading is of no use after an optimizer step.
        """
        self._check(context, layout, with_first_frame=True)
        before = before_last(context, layout)
        past = self.planner.past(before, layout, self.like)
        text = {name: self.text(name, controls) for name, _ in context.items()}
        x = {name: self.embedded(y, name) for name, y in before.items()}
        held: list[tuple[Tensor, Tensor]] = []

        def remember(layer: int, k: Tensor, v: Tensor) -> None:
            held.append((self.rotated(past.copied(k), past.key_turn), past.copied(v)))

        def attend_past(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return past.attention(self.rotated(q, past.turn), *held[layer])

        none = before.map(lambda c: torch.zeros(c.shape[0], 0, device=c.device))
        self.layers(x, self._times(none, none), self.seats(past.spots, text), text, attend_past, remember)

        @torch.no_grad()
        def velocity(noisy: AV, t: AV, r: AV) -> AV:
            now = self.planner.present(before, noisy, layout, self.like)

            def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                past_k, past_v = held[layer]
                return now.attention(
                    self.rotated(q, now.turn), torch.cat([past_k, self.rotated(k, now.turn)], dim=1), torch.cat([past_v, v], dim=1)
                )

            x = {name: self.embedded(n, name) for name, n in noisy.items()}
            return self.velocities(noisy, t, r, layout, self.layers(x, self._times(t, r), self.seats(now.spots, text), text, attend))

        return velocity

    def start(self, controls: Controls, modalities: tuple[str, ...] = MODALITIES) -> Stream:
        """A stream of new clips under `controls`."""
        return Stream(self, controls, modalities)

    def _check(self, latents: AV, layout: Layout, with_first_frame: bool) -> None:
        """Refuse latents of another codec or another rate by name: a wrong shape would surface far from its cause."""
        for name, x in latents.items():
            index, _ = layout.video(with_first_frame) if name == "video" else layout.audio()
            expect(name, x, len(index), f"{layout.chunks * float(self.timeline.chunk):g} s")

    def _times(self, t: AV, r: AV) -> dict[str, tuple[Tensor, Tensor]]:
        """(t, r) of each row of a parallel pass: 0 for clean tokens, then the chunks'."""

        def with_clean(x_BK: Tensor) -> Tensor:
            return torch.cat([x_BK.new_zeros(x_BK.shape[0], 1), x_BK], dim=1)

        return pairs(t.map(with_clean), r.map(with_clean))
