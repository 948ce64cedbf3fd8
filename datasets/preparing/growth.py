"""Which of the sources that are named now a dataset has not seen: a pure decision, from its account."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...model.noise import position_seed
from ..format.account import UNREAD, SourceLine
from ..intake.inputs import sources_of
from ..intake.sources import Source, file_of
from ..places.store import is_remote

TWIN = "same content as "  # begins the reason of a source whose bytes another has


@dataclass(frozen=True)
class Again:
    """Which refused sources are tried again though they are what they were: of this stage, with these words in the reason (empty: any)."""

    stage: str = ""
    words: str = ""

    def wants(self, line: SourceLine) -> bool:
        return not line.used and self.stage in ("", line.stage) and self.words in line.reason


@dataclass(frozen=True)
class Growth:
    """fresh: sources to be made; added: names of those among them that are new, or are not what they were; changed: names of used sources
    that are not; gone: names that are not listed any more.
    """

    fresh: tuple[Source, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]


def listed(inputs: Sequence[str], lines: Iterable[SourceLine]) -> list[Source]:
    """The sources of now, under the names that they have in the account: a file that is added may not rename another, nor take the name of
    one that lies elsewhere. Of inputs that were moved as a whole, names stay by themselves.
    """
    found = sources_of(inputs)
    here, names = {source.path for source in found}, {source.name for source in found}
    known = {line.where: line.path for line in lines if line.where in here or (line.path in names and _is_there(line.where))}
    if known.keys() <= here and all(known.get(source.path, source.name) == source.name for source in found):
        return found
    return sources_of(inputs, known)


def first_of(sources: Sequence[Source], account: Mapping[str, SourceLine], stream_sources: int) -> list[Source]:
    """All sources, or where training takes them as they come, those that were prepared before it."""
    return [source for source in sources if not stream_sources or source.name in account]


def drawn(sources: Sequence[Source], seed: int) -> list[Source]:
    """Sources in an order that their names decide, without those that are refused from listing alone."""
    return sorted((s for s in sources if not s.refused), key=lambda s: position_seed(seed, "stream", s.name))


def _is_there(where: str) -> bool:
    """Whether a source that is not listed now still lies where it did; of one in S3 it is taken for granted."""
    return bool(where) and (is_remote(where) or os.path.lexists(file_of(where)))


def growth(sources: Sequence[Source], account: Mapping[str, SourceLine], again: Again | None) -> Growth:
    """What to do with the sources of now. What could not be read is always tried again, what changed since it was refused too, and the twin
    of a source that came to nothing.
    """
    fresh, changed = [], []
    for source in sources:
        line = account.get(source.name)
        if line is None or (not line.used and (line.stamp != source.stamp or _is_open(line, account) or (again and again.wants(line)))):
            fresh.append(source)
        elif line.used and line.stamp != source.stamp:
            changed.append(source.name)
    added = [source.name for source in fresh if source.name not in account or account[source.name].stamp != source.stamp]
    gone = account.keys() - {source.name for source in sources}
    return Growth(tuple(fresh), tuple(added), tuple(changed), tuple(sorted(gone)))


def _is_open(line: SourceLine, account: Mapping[str, SourceLine]) -> bool:
    """Whether what was said of a refused source may be over: it could not be read, or its twin was to be used and was not."""
    twin = account.get(line.reason.removeprefix(TWIN)) if line.reason.startswith(TWIN) else None
    return line.stage == UNREAD or (twin is not None and not twin.used)
