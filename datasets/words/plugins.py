"""What a user may put in the place of our networks for transcripts and captions: two protocols, and how an installed one is found by name.

A package of the user's names a function in its `pyproject.toml`, and the configuration names the entry:

    [project.entry-points."mutual_forcing.transcribers"]
    mine = "my_package:make"                             data.transcribe.plugin=mine

The function gets the section of the configuration. Nothing is imported by a path that stands in a configuration, a list or a manifest, so
those of strangers run no code. The package must be installed on every machine that prepares data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np

from ..intake.sidecars import TimedWords

TRANSCRIBERS = "mutual_forcing.transcribers"
CAPTIONERS = "mutual_forcing.captioners"


@dataclass(frozen=True)
class Transcript:
    """What is said in a clip: words with start and end in seconds from its first sample, in order, as those of a sidecar; the language as
    its code ("" where it is not known); notes: what was left out, and how times were found where not word by word.
    """

    words: TimedWords = ()
    language: str = ""
    notes: tuple[str, ...] = ()


class SpeechToText(Protocol):
    """Words with times from sound."""

    @property
    def identity(self) -> str:
        """Changes where the words would: it goes into the dataset's settings."""
        ...

    def transcribe(self, clips: Sequence[np.ndarray | Iterable[np.ndarray]], sample_rate: int) -> list[Transcript]:
        """What is said in each clip, float32 [S], or pieces of it one after the other where it is long.

        Raises:
            ValueError: a clip is no sound.
        """
        ...


class PicturesToText(Protocol):
    """A caption from pictures."""

    @property
    def identity(self) -> str:
        """Changes where the captions would: it goes into the dataset's settings."""
        ...

    def caption(self, frames: np.ndarray) -> str:
        """One line about a clip, uint8 [N,H,W,3]; "" where there is nothing to say.

        Raises:
            ValueError: the clip is no pictures.
        """
        ...


def installed(group: str, field: str, name: str, config: Any) -> Any:
    """What the installed plug-in `name` makes of `config`. group: of entry points; field: where the name stands in the configuration.

    Raises:
        ValueError: none has this name, several have it, or it cannot be imported.
    """
    known = entry_points(group=group)
    found = [entry for entry in known if entry.name == name]
    if len(found) != 1:
        names = ", ".join(sorted({entry.name for entry in known})) or "none"
        raise ValueError(
            f"{field}={name!r}: {len(found)} installed packages name it as an entry point of {group!r} (there are: {names}); "
            "install the one that does, on every machine"
        )
    try:
        make = found[0].load()
    except Exception as error:  # whatever a stranger's module raises when it is imported
        raise ValueError(f"{field}={name!r}: {found[0].value} cannot be imported ({type(error).__name__}: {error})") from error
    return make(config)
