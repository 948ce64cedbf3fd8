"""How many viewers one model can serve: `viewers` of `bench stream`.

1, 2, 4, 8 viewers who come together (one batch), or each a little after the one before (a batch each, in turns), fetch as fast as they can.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..orchestration.generation.opened_model import OpenedModel
    from ..orchestration.serving.stream_request import Asked
    from ..orchestration.serving.viewer_batches import Batches

Row = dict[str, Any]
COUNTS = (1, 2, 4, 8)
MOST_S = 10.0  # of film a viewer
WARM_S = 1.0
GAP_S = 0.25  # between viewers who come one after the other: more than batches wait for others


def viewers(model: OpenedModel, seconds: float, mode: str, moves: int | None, counts: tuple[int, ...] = COUNTS) -> dict[str, list[Row]]:
    """A row for each number of viewers, together and apart.

    fps: frames/s of all viewers together; realtime_factor: of the slowest viewer, from his first bytes to his last;
    time_to_first_chunk_s: of the one who waits longest for his.
    """
    import numpy as np

    from ..orchestration.serving.limits import Limits
    from ..orchestration.serving.stream_request import Asked
    from ..orchestration.serving.viewer_batches import Batches

    record, noise = model.record, np.random.default_rng(0)
    picture = noise.integers(0, 256, (record.height, record.width, 3), np.uint8)
    words = tuple(("word", 0.4 * i, 0.4 * i + 0.3) for i in range(int(MOST_S / 0.4)))
    chunk_s, sampler = float(record.timeline.chunk), model.sampler(mode, moves, None)

    def wanted(film_s: float, seed: int) -> Asked:
        return Asked("a calm voice in a quiet room", words, max(2, round(film_s / chunk_s)), seed, sampler, picture, 0)

    rows = list[Row]()
    for together in (True, False):
        for count in counts:
            limits = Limits(viewers=count, per_address=count, batch=count, gather_s=0.1)
            batches = Batches(model, limits)
            try:
                asyncio.run(_all(batches, [wanted(WARM_S, 0)], chunk_s, record.timeline.fps))
                film = [wanted(min(seconds, MOST_S), seed) for seed in range(count)]
                rows.append(
                    {"viewers": count, "together": together}
                    | asyncio.run(_all(batches, film, chunk_s, record.timeline.fps, 0.0 if together else GAP_S))
                )
            finally:
                batches.close()
    return {"viewers": rows}


async def _all(batches: Batches, films: list[Asked], chunk_s: float, fps: int, gap_s: float = 0.0) -> Row:
    began = time.perf_counter()

    async def one(i: int, film: Asked) -> tuple[float, float, float]:
        await asyncio.sleep(gap_s * i)
        viewer, number, first = batches.ask(film), 0, 0.0
        came = time.perf_counter()
        while True:
            piece = await viewer.piece(number, 5.0)
            if piece.data and not first:
                first = time.perf_counter()
            number += bool(piece.data)
            if piece.over:
                return came, first, time.perf_counter()

    times = await asyncio.gather(*(one(i, film) for i, film in enumerate(films)))
    film_s = films[0].chunks * chunk_s
    spent = max(end for _, _, end in times) - began
    return {
        "fps": round(len(films) * film_s * fps / spent, 2),
        "realtime_factor": round(min(film_s / (end - first) for _, first, end in times), 3),
        "time_to_first_chunk_s": round(max(first - came for came, first, _ in times), 3),
    }
