"""A headless Chromium, if there is one, and what its pages complain of."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--autoplay-policy=no-user-gesture-required"]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is no Chromium or no Playwright."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no Chromium here (none of {', '.join(PROGRAMS)}; CHROMIUM names another): on Debian, apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has none for root
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=program, args=[*ARGUMENTS, *sandbox])
        yield browser
        browser.close()


class Page:
    """A page in a context of its own, with all that it said and asked for."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def js(self, code: str) -> Any:
        return self.page.evaluate(code)

    def until(self, code: str, seconds: float = 30.0) -> None:
        """Wait for what is true in the page; its own policy forbids Playwright's way of waiting, which is `eval`."""
        end = time.monotonic() + seconds
        while not self.js(code):
            assert time.monotonic() < end, (code, self.state, self.js("document.getElementById('problem').textContent"), self.complaints)
            self.page.wait_for_timeout(50)

    @property
    def state(self) -> str:
        return self.js("document.documentElement.dataset.state")

    @property
    def time(self) -> float:
        return self.js("document.getElementById('video').currentTime")

    def text(self, name: str) -> str:
        return self.js(f"document.getElementById('{name}').textContent")

    def start(self, **fields: object) -> None:
        self.until("document.getElementById('model').textContent.trim()")
        for name, value in fields.items():
            self.page.fill(f"#{name}", str(value))
        self.page.click("#start")
