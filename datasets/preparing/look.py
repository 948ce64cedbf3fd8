"""A first look at a source, without decoding more than its beginning: can it be used, what is its hash, how long does it say it is?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from sys import intern
from typing import Any

from ..config import DataConfig
from ..ffmpeg.ffmpeg_child import MediaError
from ..ffmpeg.probe import Probe, probe
from ..format.account import UNREAD
from ..intake.at_hand import at_hand
from ..intake.sidecars import CONSENT, LICENCE, Tags
from ..intake.source_text import text_of
from ..intake.sources import Source, source_from_json
from ..places.scratch import Scratch
from ..places.storage import sha256_file
from ..signals.filters import refuse_right, refuse_source
from .cutting import scenes_of
from .trials import UNWATCHED, Trials

Row = dict[str, Any]


class Refused(ValueError):
    """A source that is of no use, and the stage that found it: `list`, `text` or `filter`; of files that do not decode see `MediaError`."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found: a refusal with its stage and what ffmpeg said, or the hash of the bytes, the seconds that the container states (0:
    none), the frames at which scenes begin (where they are asked for), whether it has a caption or a transcript, and its tags.
    """

    stage: str = ""
    reason: str = ""
    said: str = ""
    content: str = ""
    seconds: float = 0.0
    starts: tuple[int, ...] = ()
    has_text: bool = False
    tags: Tags = ()

    @property
    def unread(self) -> bool:
        """Whether it could not be read, which may be over the next time."""
        return self.stage == UNREAD

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def looked_of(text: str) -> Looked:
    """From its JSON.

    Raises:
        ValueError: it is none.
    """
    data = json.loads(text)
    try:
        same: dict[str, Any] = {
            name: intern(data[name]) for name in ("stage", "reason")
        }  # of a million sources many are refused in the same words
        tags = tuple((intern(str(name)), intern(str(value))) for name, value in data["tags"])
        return Looked(**data | same | {"starts": tuple(int(x) for x in data["starts"]), "tags": tags})
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"note of a source: damaged ({error})") from error


def refusal(error: MediaError | Refused | OSError) -> Looked:
    """What an error says of the source that it is about."""
    if isinstance(error, MediaError) and isinstance(error.__cause__, FileNotFoundError):  # listed, and gone; or on a disk of other machines
        return Looked(UNREAD, f"cannot be read ({error.reason.removeprefix('cannot be opened: ')})")
    if isinstance(error, MediaError):
        return Looked(error.stage, error.reason, error.said)
    if isinstance(error, Refused):
        return Looked(error.stage, str(error))
    return Looked(UNREAD, f"cannot be read ({error.strerror or error})")


class Look:
    """Row {source: JSON} -> row {name, looked: JSON}."""

    def __init__(self, config: DataConfig, trials: Trials = UNWATCHED) -> None:
        self._config, self._trials = config, trials

    def __call__(self, row: Row) -> Row:
        source = source_from_json(row["source"])
        return {"name": source.name, "looked": self.look(source).to_json()}

    def look(self, source: Source) -> Looked:
        try:
            if source.refused:
                raise Refused("list", source.refused)
            with self._trials.of(source.name):
                return self._look(source)
        except (MediaError, Refused, OSError) as error:
            return refusal(error)

    def _look(self, source: Source) -> Looked:
        with Scratch() as scratch, at_hand(source, scratch) as path:
            try:
                text = text_of(source)
            except ValueError as error:
                raise Refused("text", str(error)) from error
            for right, wanted in ((LICENCE, self._config.filters.licences), (CONSENT, self._config.filters.consents)):
                own = dict(text.tags).get(right, "")
                if reason := refuse_right(right, [dict(span.tags).get(right, own) for span in source.spans] or [own], wanted):
                    raise Refused("filter", reason)
            found = probe(path, needs_video="video" in self._config.modalities)
            require(found, self._config)
            starts = scenes_of(path, found, self._config, source.spans) if self._config.scenes.detect else ()
            has_text = bool(text.caption or text.words or text.spoken or any(s.caption or s.words for s in source.spans))
            return Looked(content=sha256_file(path), seconds=found.duration_s or 0.0, starts=starts, has_text=has_text, tags=text.tags)


def require(found: Probe, config: DataConfig) -> None:
    """A source must have what a clip needs.

    Raises:
        Refused: it has not.
    """
    if "video" in config.modalities:
        if not found.has_video:
            raise Refused("filter", "no pictures")
        if reason := refuse_source(found.width, found.height, config.filters):
            raise Refused("filter", reason)
    if "audio" in config.modalities and not found.has_audio:
        raise Refused("filter", "its sound does not decode" if found.audio_codec else "no sound")


def too_short(frames: int, config: DataConfig) -> str:
    """Why so many frames are no clip."""
    t = config.timeline
    return f"too short: {frames / t.fps:.2f} s, a clip has {t.seconds(config.shortest):.2f} s"
