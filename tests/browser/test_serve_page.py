"""The page of `mutual-forcing serve` in a real Chromium: films play while they are generated, and places are freed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_material import Page, chromium
from playing_material import lively
from run_material import untrained_run
from serving_material import Served, serving, until

from mutual_forcing.orchestration.generation.opened_model import OpenedModel
from mutual_forcing.orchestration.serving.guard import GuardConfig
from mutual_forcing.orchestration.serving.limits import Limits

pytestmark = pytest.mark.browser
LIMITS = Limits(gone_s=4.0, viewers=4)
TOKEN = "a-token-that-is-long-enough"
# Loudness of what the element gives out, and how much its picture changes from place to place.
HEARD = """async () => {
  const context = new AudioContext(), heard = context.createAnalyser(), x = new Float32Array(2048);
  context.createMediaElementSource(video).connect(heard);
  heard.connect(context.destination);
  await context.resume();
  let loudest = 0;
  for (let i = 0; i < 40 && loudest < 0.001; i += 1) {
    await new Promise(done => setTimeout(done, 50));
    heard.getFloatTimeDomainData(x);
    loudest = Math.max(loudest, Math.sqrt(x.reduce((sum, y) => sum + y * y, 0) / x.length));
  }
  return loudest;
}"""
SEEN = """() => {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const drawing = canvas.getContext("2d");
  drawing.drawImage(video, 0, 0);
  return Array.from(drawing.getImageData(0, 0, canvas.width, canvas.height).data);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def model(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    untrained_run(folder)
    return lively(folder)


@pytest.fixture(scope="module")
def served(model: OpenedModel) -> Iterator[Served]:
    with serving(model, LIMITS) as server:
        yield server


def free(served: Served, seconds: float = 3.0) -> bool:
    return until(lambda: served.studio.batches.busy == 0, seconds)


def test_a_film_plays_while_it_is_generated(browser: Any, served: Served) -> None:
    page = Page(browser, served.url)
    page.start(seconds=60, caption="a calm voice", words="hello and good evening")
    page.until("video.currentTime > 0.5")
    before = page.time
    [viewer] = served.studio.batches._viewers.values()
    page.until(f"video.currentTime > {before + 1}")
    assert not viewer.done, "it is still made"
    assert page.state == "playing"
    assert page.js("[video.videoWidth, video.videoHeight]") == [32, 32]
    first = page.js(SEEN)
    assert max(first[::4]) - min(first[::4]) > 20
    assert page.js(HEARD) > 0.001
    assert page.js(SEEN) != first
    page.until("document.getElementById('rate').textContent.includes('frames/s')")
    assert float(page.text("first").split()[0]) > 0
    assert 0 < float(page.text("buffer").split()[0]) < 8
    assert "of 60 s" in page.text("played")
    assert viewer.made * 0.5 - page.time < 3 + LIMITS.ahead_s + 2, "no further ahead than is wanted"
    assert page.complaints == []
    assert all(url.startswith((served.url, f"blob:{served.url.rstrip('/')}")) for url in page.asked)
    page.context.close()
    assert free(served, LIMITS.gone_s + 3)


def test_a_whole_film_ends(browser: Any, served: Served) -> None:
    page = Page(browser, served.url)
    page.start(seconds=2)
    page.until("document.documentElement.dataset.state === 'ended'")
    assert page.time == pytest.approx(2.0, abs=0.1)
    assert page.js("document.getElementById('start').disabled") is False
    assert page.complaints == []
    assert free(served)
    page.start(seconds=1)  # and another begins in the same page
    page.until("document.documentElement.dataset.state === 'ended'")
    assert page.complaints == []
    page.context.close()


def test_what_is_typed_is_said_next(browser: Any, served: Served) -> None:
    page = Page(browser, served.url)
    page.start(seconds=60, words="first")
    page.until("video.currentTime > 0.2")
    page.page.fill("#next", "and then something new")
    page.page.press("#next", "Enter")
    page.until("document.getElementById('spoken').textContent.includes('something new')")
    [batch] = served.studio.batches._batches
    assert [word for word, _, _ in batch.playing._clips[0].words][-4:] == ["and", "then", "something", "new"]
    page.until("document.querySelector('#spoken .now, #spoken .past:nth-child(4)')")
    page.page.fill("#caption", "an angry voice")
    page.page.click("#recaption")
    assert until(lambda: batch.playing._clips[0].caption == "an angry voice")
    page.page.click("#stop")
    assert page.state == "stopped"
    assert free(served)
    assert page.complaints == []
    page.context.close()


def test_leaving_frees_the_place(browser: Any, served: Served) -> None:
    page = Page(browser, served.url)
    page.start(seconds=60)
    page.until("video.currentTime > 0.2")
    assert served.studio.batches.busy == 1
    page.page.goto("about:blank")
    assert free(served), "at once: well before it would be taken for gone"
    page.context.close()


def test_who_pauses_stops_the_making_and_keeps_the_place(browser: Any, served: Served) -> None:
    page = Page(browser, served.url)
    page.start(seconds=60)
    page.until("video.currentTime > 0.5")
    page.page.click("#pause")
    page.until("document.documentElement.dataset.state === 'paused'")
    [viewer] = served.studio.batches._viewers.values()
    assert until(lambda: not viewer.room)
    made, at = viewer.made, page.time
    page.page.wait_for_timeout(int(1000 * (LIMITS.gone_s + 1)))
    assert (viewer.made, page.time, viewer.over) == (made, at, False)
    page.page.click("#pause")
    page.until(f"video.currentTime > {at + 0.5}")
    page.context.close()
    assert free(served, LIMITS.gone_s + 3)


def test_several_pages_at_once(browser: Any, served: Served) -> None:
    pages = [Page(browser, served.url) for _ in range(3)]
    for i, page in enumerate(pages):
        page.start(seconds=60, seed=i)
    for page in pages:
        page.until("video.currentTime > 1")
    assert served.studio.batches.busy == 3
    before = [page.time for page in pages]
    pages[0].page.wait_for_timeout(1500)
    assert all(page.time > start + 0.8 for page, start in zip(pages, before, strict=True))
    pictures = [page.js(SEEN) for page in pages]
    assert pictures[0] != pictures[1] != pictures[2]
    assert [page.complaints for page in pages] == [[], [], []]
    for page in pages:
        page.context.close()
    assert free(served, LIMITS.gone_s + 3)


def test_the_keyboard_is_enough(browser: Any, served: Served) -> None:
    page = Page(browser, served.url)
    page.until("document.getElementById('model').textContent.trim()")
    page.page.focus("#caption")
    visited = []
    for _ in range(12):
        visited.append(page.js("document.activeElement.id || document.activeElement.name"))
        if visited[-1] == "start":
            break
        page.page.keyboard.press("Tab")
    assert visited == ["caption", "words", "seconds", "seed", "mode", "like", "start"]
    page.page.keyboard.press("Enter")
    page.until("video.currentTime > 0.2")
    page.page.focus("#stop")
    page.page.keyboard.press("Enter")
    page.until("document.documentElement.dataset.state === 'stopped'")
    assert free(served)
    page.context.close()


def test_what_is_refused_is_said(browser: Any, served: Served, tmp_path: Path) -> None:
    page = Page(browser, served.url)
    page.start(seconds=10000)
    page.until("document.documentElement.dataset.state === 'failed'")
    assert "at most 600 s" in page.text("problem")
    file = tmp_path / "no.png"
    file.write_bytes(b"no picture")
    page.page.select_option("#like", "file")
    page.page.set_input_files("#file", file)
    page.start(seconds=1)
    page.until("document.getElementById('problem').textContent.includes('is none of PNG, JPEG, WEBP')")
    assert page.js("document.getElementById('start').disabled") is False
    page.context.close()


def test_a_phone_shows_it_all(browser: Any, served: Served) -> None:
    for width in (320, 390, 900):
        page = Page(browser, served.url, viewport={"width": width, "height": 700}, color_scheme="dark")
        page.until("document.getElementById('model').textContent.trim()")
        assert page.js("document.documentElement.scrollWidth") <= width
        page.context.close()


def test_a_token_is_asked_for_or_taken_from_the_address(browser: Any, model: OpenedModel) -> None:
    with serving(model, LIMITS, GuardConfig("127.0.0.1", TOKEN)) as server:
        page = Page(browser, server.url)
        page.until("!document.getElementById('token-row').hidden")
        page.page.fill("#token", "wrong")
        page.page.press("#token", "Tab")
        page.until("document.getElementById('problem').textContent.includes('Bearer')")
        page.page.fill("#token", TOKEN)
        page.page.press("#token", "Tab")
        page.start(seconds=30)
        page.until("video.currentTime > 0.2")
        page.context.close()
        told = Page(browser, f"{server.url}#token={TOKEN}")
        told.start(seconds=30)
        told.until("video.currentTime > 0.2")
        assert TOKEN not in told.js("location.href")
        assert told.complaints == []
        assert all(TOKEN not in url for url in told.asked[1:])
        start = time.monotonic()
        told.page.goto("about:blank")
        assert until(lambda: server.studio.batches.busy == 0, LIMITS.gone_s + 3)
        assert time.monotonic() - start < LIMITS.gone_s + 3
        told.context.close()
