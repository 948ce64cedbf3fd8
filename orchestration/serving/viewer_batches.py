"""The thread that makes the clips of all viewers of one model: who is made with whom, and whose turn it is.

    ask -> waiting --(those that come within gather_s, of one sampler)--> a batch: one `Playing` --+
                                                                          a batch                  +-> one chunk at a time: the batch
    say, caption, stop: between two chunks                                a batch (one clip)  -----+   whose viewer has least before him

Clips of a batch begin together: who comes later gets a batch of his own, and batches take turns. A clip whose viewer has enough waits; if
that holds up others of its batch it is taken out, and goes on alone when it is fetched again.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...datasets.ffmpeg.ffmpeg_child import MediaError
from ...datasets.intake.sidecars import TimedWords
from ...model.sampler import SamplerConfig
from ..generation.generating import format_of
from ..generation.opened_model import OpenedModel
from ..generation.playing import Chunk, Playing
from ..generation.provenance import tags_of
from .limits import Limits, Refused
from .stream_request import Asked, said_within
from .viewer import Clock, Viewer

TICK_S = 0.25  # between looks at who has gone
REMEMBERED = 256  # streams that are over, and why
log = logging.getLogger(__name__)


@dataclass
class _Batch:
    """Clips that are made together, by their numbers in `playing`; since when another chunk could be made, or some clips hold up others."""

    playing: Playing
    viewers: dict[int, Viewer]
    could_since: float | None
    mixed_since: float | None = None


class Batches:
    """All methods may be called from any thread."""

    def __init__(self, model: OpenedModel, limits: Limits, prefix: str = "", clock: Clock = time.monotonic) -> None:
        self._model, self._limits, self._prefix, self._clock = model, limits, prefix, clock
        self._chunk_s = float(model.record.timeline.chunk)
        self._viewers: dict[str, Viewer] = {}
        self._addresses: dict[str, str] = {}
        self._past = OrderedDict[str, str]()
        self._batches: list[_Batch] = []
        self._tasks = deque[tuple[Callable[[], Any], Future[Any]]]()
        self._changed = threading.Condition()
        self._closing = False
        self.broken: BaseException | None = None
        self._pool = ThreadPoolExecutor(limits.batch, thread_name_prefix="give")
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> int:
        """Places that are taken."""
        return sum(not viewer.told for viewer in list(self._viewers.values()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Clips of each batch."""
        return tuple(len(batch.viewers) for batch in self._batches)

    def ask(self, asked: Asked, address: str = "") -> Viewer:
        """Begin a stream.

        Raises:
            Refused: all slots are taken, or all that one address gets.
        """
        film = format_of(self._model, tags_of(self._model.identity))
        name = f"{self._prefix}{secrets.token_urlsafe(16)}"
        viewer = Viewer(name, asked, film, self._chunk_s, self._limits.ahead_s, self._clock)
        viewer.on_room = self._notify
        with self._changed:
            if self._closing:
                raise Refused(503, "the server is ending", 30)
            if self.busy >= self._limits.viewers:
                raise Refused(503, f"all {self._limits.viewers} places are taken; try again when a stream has ended", 5)
            if sum(self._addresses[v.name] == address and not v.told for v in self._viewers.values()) >= self._limits.per_address:
                raise Refused(429, f"this address has {self._limits.per_address} streams, all that it gets; stop one of them", 5)
            self._viewers[name], self._addresses[name] = viewer, address
            self._changed.notify_all()
        return viewer

    def viewer(self, name: str) -> Viewer:
        """A stream by its name.

        Raises:
            Refused: there is none.
        """
        found = self._viewers.get(name)
        if found is None:
            if name in self._past:
                raise Refused(410, f"stream {name}: {self._past[name]}")
            raise Refused(404, f"stream {name[:64]!r}: there is none; start one")
        found.seen = self._clock()
        return found

    def say(self, name: str, text: str) -> Future[TimedWords]:
        """Append words; they come back with their times. The future raises `Refused`, or ValueError as `Playing.say` does."""
        return self._task(partial(self._say, self.viewer(name), text))

    def caption(self, name: str, text: str) -> Future[None]:
        """Another caption from the next chunk on. The future raises `Refused`."""
        return self._task(partial(self._caption, self.viewer(name), text))

    def stop(self, name: str) -> Future[None]:
        """End a stream, whose place is then free."""
        return self._task(partial(self._close, self.viewer(name), "stopped", "was stopped"))

    def close(self) -> None:
        """End all streams, and the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.shutdown()

    # What follows runs in the thread.

    def _run(self) -> None:
        reason = "the server has ended"
        try:
            self._work()
        except BaseException as error:
            log.critical("the thread that makes streams has ended", exc_info=error)
            self.broken, self._closing = error, True
            reason = "the server has failed"
        for viewer in list(self._viewers.values()):
            self._close(viewer, "stopped" if self.broken is None else "failed", reason)
        self._do_tasks()

    def _work(self) -> None:
        while not self._closing:
            self._do_tasks()
            self._drop()
            self._admit()
            batch = self._next_batch()
            if batch is None:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or self._tasks or self._can_go_on(), self._patience())
            else:
                self._step(batch)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _task(self, work: Callable[[], Any]) -> Future[Any]:
        future = Future[Any]()
        with self._changed:
            if self._closing:
                raise Refused(503, "the server is ending", 30)
            self._tasks.append((work, future))
            self._changed.notify_all()
        return future

    def _do_tasks(self) -> None:
        while self._tasks:
            work, future = self._tasks.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  it is raised where the result is waited for
                future.set_exception(error)

    def _waiting(self) -> list[Viewer]:
        batched = {id(viewer) for batch in self._batches for viewer in batch.viewers.values()}
        return [v for v in list(self._viewers.values()) if id(v) not in batched and not v.over]

    def _can_go_on(self) -> bool:
        """Whether there may be something to do that there was not."""
        now = self._clock()
        return any(all(v.room for v in batch.viewers.values()) for batch in self._batches) or any(
            now - viewer.began >= self._limits.gather_s for viewer in self._waiting()
        )

    def _patience(self) -> float:
        now = self._clock()
        gathering = [viewer.began + self._limits.gather_s - now for viewer in self._waiting()]
        return max(0.001, min([TICK_S, *gathering]))

    def _drop(self) -> None:
        """End the streams that nobody watches, and forget those that are over."""
        now = self._clock()
        for viewer in list(self._viewers.values()):
            unseen = now - viewer.seen > self._limits.gone_s
            if viewer.over:
                if unseen or viewer.told:
                    self._forget(viewer)
                continue
            viewer.full_since = None if viewer.room else viewer.full_since or now
            if unseen:
                self._close(viewer, "left", f"nobody has asked for it for {self._limits.gone_s:g} s")
            elif viewer.full_since is not None and now - viewer.full_since > self._limits.away_s:
                self._close(viewer, "left", f"nobody has fetched it for {self._limits.away_s:g} s")

    def _admit(self) -> None:
        """Begin the batches of those who have waited long enough, with those who came since."""
        now = self._clock()
        groups: dict[SamplerConfig, list[Viewer]] = {}
        for viewer in self._waiting():
            groups.setdefault(viewer.asked.sampler, []).append(viewer)
        for sampler, group in groups.items():
            while group and (len(group) >= self._limits.batch or now - group[0].began >= self._limits.gather_s):
                together, group = group[: self._limits.batch], group[self._limits.batch :]
                self._begin(sampler, together)

    def _begin(self, sampler: SamplerConfig, together: list[Viewer]) -> None:
        ready, prompts = list[Viewer](), []
        for viewer in together:
            try:
                viewer.open()
                prompts.append(viewer.asked.prompt(self._model))
                ready.append(viewer)
            except ValueError as error:
                self._close(viewer, "failed", str(error))
        if not ready:
            return
        try:
            playing = Playing(self._model, prompts, sampler)
        except Exception as error:  # noqa: BLE001  others are watching; these viewers and the log hear of it
            self._failed(ready, error)
            return
        self._batches.append(_Batch(playing, dict(enumerate(ready)), self._clock()))

    def _next_batch(self) -> _Batch | None:
        """Whose turn it is. Clips that hold up others of their batch are taken out of it."""
        now, could = self._clock(), list[_Batch]()
        for batch in list(self._batches):
            full = [clip for clip, viewer in batch.viewers.items() if not viewer.room]
            if full and len(full) < len(batch.viewers):
                batch.mixed_since = batch.mixed_since or now
                if now - batch.mixed_since > self._limits.patience_s:
                    self._take_out(batch, full)
                    full = []
            else:
                batch.mixed_since = None
            if full:
                batch.could_since = None
            else:
                batch.could_since = batch.could_since or now
                could.append(batch)
        return min(could, key=lambda batch: (min(v.ahead_s for v in batch.viewers.values()), batch.could_since or now), default=None)

    def _take_out(self, batch: _Batch, clips: list[int]) -> None:
        apart = batch.playing.apart(clips)
        self._batches.append(_Batch(apart, {clip: batch.viewers.pop(clip) for clip in clips}, self._clock()))
        batch.mixed_since = None

    def _step(self, batch: _Batch) -> None:
        """Make a chunk of a batch, and give it out."""
        assert batch.could_since is not None
        try:
            chunks = next(batch.playing)
        except Exception as error:  # noqa: BLE001  others are watching; these viewers and the log hear of it
            self._batches.remove(batch)
            self._failed(list(batch.viewers.values()), error)
            return
        turn_s = self._clock() - batch.could_since
        batch.could_since = self._clock()
        errors = list(self._pool.map(lambda chunk: self._given(batch.viewers[chunk.clip], chunk, turn_s), chunks))
        for chunk, error in zip(chunks, errors, strict=True):
            viewer = batch.viewers[chunk.clip]
            if error is not None:
                self._close(viewer, "failed", error)
            elif viewer.done:
                self._end(batch, chunk.clip)

    @staticmethod
    def _given(viewer: Viewer, chunk: Chunk, turn_s: float) -> str | None:
        try:
            viewer.give(chunk, turn_s)
        except MediaError as error:
            return str(error)
        return None

    def _end(self, batch: _Batch, clip: int) -> None:
        viewer = batch.viewers[clip]
        try:
            viewer.end(batch.playing.end(clip))
        except MediaError as error:
            viewer.close("failed", str(error))
        self._out_of(batch, clip)

    def _failed(self, viewers: list[Viewer], error: Exception) -> None:
        log.error("a batch of %d clips failed", len(viewers), exc_info=error)
        for viewer in viewers:
            self._close(viewer, "failed", f"could not be made ({type(error).__name__}: {' '.join(str(error).split())[:200]})")

    def _close(self, viewer: Viewer, state: str, reason: str) -> None:
        if not viewer.over:
            viewer.close(state, reason)
        for batch in list(self._batches):
            for clip, other in list(batch.viewers.items()):
                if other is viewer:
                    batch.playing.leave(clip)
                    self._out_of(batch, clip)
        self._forget(viewer)

    def _out_of(self, batch: _Batch, clip: int) -> None:
        del batch.viewers[clip]
        if not batch.viewers:
            self._batches.remove(batch)

    def _forget(self, viewer: Viewer) -> None:
        with self._changed:
            self._viewers.pop(viewer.name, None)
            self._addresses.pop(viewer.name, None)
            self._past[viewer.name] = viewer.reason or "is over"
            while len(self._past) > REMEMBERED:
                self._past.popitem(last=False)

    def _place(self, viewer: Viewer) -> tuple[_Batch, int] | None:
        """Where its clip is made; None if it has not begun."""
        for batch in self._batches:
            for clip, other in batch.viewers.items():
                if other is viewer:
                    return batch, clip
        if viewer.over:
            raise Refused(409, f"stream {viewer.name}: all of it is made; start another")
        return None

    def _say(self, viewer: Viewer, text: str) -> TimedWords:
        place, end = self._place(viewer), viewer.asked.chunks * self._chunk_s
        now = 0.0 if place is None else place[0].playing.seconds
        start = max(now, viewer.said_until)
        if start >= end:
            raise Refused(409, f"text: what is said lasts until the end, at {end:g} s; start a longer stream")
        if start - now > self._limits.spoken_s:
            raise Refused(429, f"text: what is said lasts for {start - now:.0f} s more; wait until it is spoken", 10)
        words = said_within(text, start, end, "text")
        if place is None:
            viewer.asked = replace(viewer.asked, words=(*viewer.asked.words, *words))
        else:
            words = place[0].playing.say(place[1], text)
        viewer.said_until = words[-1][2]
        return words

    def _caption(self, viewer: Viewer, text: str) -> None:
        if (place := self._place(viewer)) is None:
            viewer.asked = replace(viewer.asked, caption=text)
        else:
            place[0].playing.caption(place[1], text)
        viewer.caption = text
