"""Who is made with whom: viewers who come together, who come later, who fetch slowly, and who leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from playing_material import lively
from run_material import untrained_run
from serving_material import until

from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, decode, probe
from mutual_forcing.orchestration.generation.opened_model import OpenedModel
from mutual_forcing.orchestration.serving.limits import Limits, Refused
from mutual_forcing.orchestration.serving.stream_request import StreamRequest, asked
from mutual_forcing.orchestration.serving.viewer import Viewer
from mutual_forcing.orchestration.serving.viewer_batches import Batches

LIMITS = Limits(gather_s=0.3, ahead_s=1.5, patience_s=0.2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    untrained_run(folder)
    return lively(folder)


@pytest.fixture
def batches(model: OpenedModel) -> Iterator[Batches]:
    made = Batches(model, LIMITS)
    yield made
    made.close()


def ask(batches: Batches, model: OpenedModel, **request: object) -> Viewer:
    return batches.ask(asked(StreamRequest(**request), model, LIMITS))  # pyright: ignore[reportArgumentType]


async def film(viewer: Viewer, pieces: int | None = None, since: int = 0) -> bytes:
    """What a viewer fetches, as fast as it comes."""
    data, number = b"", since
    while pieces is None or number < pieces:
        piece = await viewer.piece(number, 2.0)
        data += piece.data
        number += bool(piece.data)
        if piece.over:
            break
    return data


def frames(data: bytes, folder: Path) -> np.ndarray:
    path = folder / f"{len(data)}.mp4"
    path.write_bytes(data)
    return decode(path, probe(path), DecodeConfig(width=32, height=32, fps=24, sample_rate=16000)).frames


def test_viewers_who_come_together_are_one_batch_and_get_what_they_get_alone(batches: Batches, model: OpenedModel, tmp_path: Path) -> None:
    async def alone(seed: int) -> bytes:
        return await film(ask(batches, model, seconds=1.5, seed=seed, moves=2))

    async def together() -> tuple[list[bytes], tuple[int, ...]]:
        viewers = [ask(batches, model, seconds=1.5, seed=seed, moves=2) for seed in range(3)]
        first = [await film(viewer, 1) for viewer in viewers]
        sizes = batches.sizes
        return [start + await film(viewer, since=1) for start, viewer in zip(first, viewers, strict=True)], sizes

    one = [frames(asyncio.run(alone(seed)), tmp_path) for seed in range(3)]
    made, sizes = asyncio.run(together())
    assert sizes == (3,)
    shared = [frames(data, tmp_path) for data in made]
    for i, a in enumerate(one):
        assert a.shape == (1 + 3 * 12, 32, 32, 3)
        apart = [float(np.abs(a.astype(float) - b).mean()) for b in shared]
        assert apart[i] < 0.5
        assert min(apart[:i] + apart[i + 1 :]) > 2


def test_who_comes_later_or_wants_another_sampler_has_a_batch_of_his_own(batches: Batches, model: OpenedModel) -> None:
    first = [ask(batches, model, seconds=60), ask(batches, model, seconds=60, mode="multi", guidance=2)]
    assert until(lambda: batches.sizes == (1, 1))
    later = ask(batches, model, seconds=60)
    assert until(lambda: batches.sizes == (1, 1, 1))
    assert until(lambda: all(not viewer.room for viewer in [*first, later]))


def test_a_viewer_who_does_not_fetch_waits_and_holds_up_nobody(batches: Batches, model: OpenedModel) -> None:
    slow, quick = (ask(batches, model, seconds=20, seed=seed, moves=1) for seed in range(2))
    asyncio.run(film(quick))
    assert quick.state == "ended"
    assert slow.ahead_s == 1.5
    assert slow.waiting_bytes < 60_000
    assert batches.sizes == (1,)
    data = asyncio.run(film(slow))  # and goes on when it is fetched
    assert slow.state == "ended"
    assert len(data) > 100_000


def test_who_asks_again_for_a_piece_loses_nothing_to_the_request_that_was_cut(batches: Batches, model: OpenedModel, tmp_path: Path) -> None:
    async def asked_twice(viewer: Viewer) -> bytes:
        cut = asyncio.create_task(viewer.piece(0, 2.0))  # nobody hears its answer, but the server still waits for one
        await asyncio.sleep(0)
        data = (await viewer.piece(0, 10.0)).data + await film(viewer, 3, since=1)
        with contextlib.suppress(Refused):
            await cut
        return data + await film(viewer, since=3)

    data = asyncio.run(asked_twice(ask(batches, model, seconds=6, moves=1)))
    assert len(frames(data, tmp_path)) == 1 + 12 * 12


def test_what_waits_for_a_slow_viewer_does_not_grow(batches: Batches, model: OpenedModel) -> None:
    async def slowly(viewer: Viewer) -> list[tuple[float, int]]:
        waiting = []
        for number in range(5):
            await viewer.piece(number, 5.0)
            await asyncio.sleep(1.5)
            waiting.append((viewer.ahead_s, viewer.waiting_bytes))
        return waiting

    waiting = asyncio.run(slowly(ask(batches, model, seconds=60, moves=1)))
    assert 1 <= max(ahead for ahead, _ in waiting) <= LIMITS.ahead_s
    assert 0 < max(size for _, size in waiting) < 60_000


def test_who_has_gone_and_who_has_stopped_free_their_places(model: OpenedModel) -> None:
    limits = replace(LIMITS, viewers=2, per_address=2, gone_s=1.0, away_s=1.5)
    made = Batches(model, limits)
    wanted = asked(StreamRequest(seconds=60), model, limits)
    gone, away = (made.ask(wanted) for _ in range(2))
    with pytest.raises(Refused, match="all 2 places are taken") as refused:
        made.ask(wanted)
    assert (refused.value.status, bool(refused.value.retry_s)) == (503, True)
    assert until(lambda: made.sizes == (2,))

    def left(viewer: Viewer) -> bool:
        """A look, which is a sign of life."""
        with contextlib.suppress(Refused):
            return made.viewer(viewer.name).over
        return True

    assert until(lambda: not left(away) and made.busy == 1)
    assert until(lambda: left(away) and made.busy == 0)
    for name, why in ((gone.name, "nobody has asked for it"), (away.name, "nobody has fetched it")):
        with pytest.raises(Refused, match=why) as refused:
            made.viewer(name)
        assert refused.value.status == 410
    third = made.ask(wanted)
    made.stop(third.name).result(5)
    assert made.busy == 0
    assert made.sizes == ()
    made.close()
    assert not [child for child in psutil.Process().children(recursive=True) if "ffmpeg" in child.name()]


def test_one_address_does_not_get_every_place(model: OpenedModel) -> None:
    made = Batches(model, replace(LIMITS, viewers=3, per_address=1))
    wanted = asked(StreamRequest(seconds=60), model, LIMITS)
    made.ask(wanted, "10.0.0.1")
    made.ask(wanted, "10.0.0.2")
    with pytest.raises(Refused, match="this address has 1 streams") as refused:
        made.ask(wanted, "10.0.0.1")
    assert refused.value.status == 429
    made.close()


def test_words_follow_each_other_and_end_with_the_film(batches: Batches, model: OpenedModel) -> None:
    viewer = ask(batches, model, seconds=5, transcript="one two")
    assert until(lambda: viewer.state == "playing")
    first = batches.say(viewer.name, "three four").result(5)
    second = batches.say(viewer.name, "five").result(5)
    assert [word for word, _, _ in (*first, *second)] == ["three", "four", "five"]
    assert first[0][1] >= (len("one two") + 1) / 14 - 1e-6
    assert second[0][1] == first[-1][2]
    batches.caption(viewer.name, "angry").result(5)
    assert viewer.status()["caption"] == "angry"
    with pytest.raises(ValueError, match=r"text: 60 words without times last until 1\d\.\d s, the stream until 5 s"):
        batches.say(viewer.name, "x " * 60).result(5)
    full = ask(batches, model, seconds=5, transcript=[{"word": "slow", "start": 0, "end": 5}])
    with pytest.raises(Refused, match="lasts until the end, at 5 s"):
        batches.say(full.name, "no more").result(5)


def test_words_are_not_appended_without_end(model: OpenedModel) -> None:
    made = Batches(model, replace(LIMITS, spoken_s=3.0))
    viewer = made.ask(asked(StreamRequest(seconds=60), model, LIMITS))
    assert until(lambda: viewer.state == "playing")
    made.say(viewer.name, "x " * 40).result(5)
    with pytest.raises(Refused, match="wait until it is spoken") as refused:
        made.say(viewer.name, "more").result(5)
    assert refused.value.status == 429
    made.close()


def test_a_batch_that_fails_tells_its_viewers_and_others_go_on(
    batches: Batches, model: OpenedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ask(batches, model, seconds=4, moves=1)
    assert until(lambda: other.state == "playing")
    broken = ask(batches, model, seconds=60, moves=2)
    assert until(lambda: batches.sizes == (1, 1))
    [batch] = [batch for batch in batches._batches if broken in batch.viewers.values()]

    def fail() -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(batch.playing, "_next_latents", fail)

    async def both() -> bytes:
        with pytest.raises(Refused, match=r"could not be made \(RuntimeError: out of memory\)"):
            await film(broken)
        return await film(other)

    assert len(asyncio.run(both())) > 10_000
    assert other.state == "ended"


def test_a_piece_can_be_fetched_again_but_not_an_earlier_one(batches: Batches, model: OpenedModel) -> None:
    viewer = ask(batches, model, seconds=10)

    async def fetch() -> None:
        zero = await viewer.piece(0, 5.0)
        assert zero == await viewer.piece(0, 5.0)
        await viewer.piece(1, 5.0)
        for number in (0, 3):
            with pytest.raises(Refused, match="the next is 2") as refused:
                await viewer.piece(number, 5.0)
            assert refused.value.status == 409
        number, empty = 2, 0
        while not (piece := await viewer.piece(number, 0.01)).over:
            number += bool(piece.data)
            empty += not piece.data
        assert empty  # asked for before there was one

    asyncio.run(fetch())
