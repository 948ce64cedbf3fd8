"""The stages of `data prepare` called one after the other in this process, without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.encoding.encoders import LocalEncoder, OpenEncoder
from mutual_forcing.datasets.format.parts import Item, Part, Receipt
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.intake.sources import Source, source_to_json
from mutual_forcing.datasets.preparing.look import Look, Looked, looked_of
from mutual_forcing.datasets.preparing.making import MakePart
from mutual_forcing.datasets.preparing.measuring import Codecs, Measure, fit, unpack_moments


def source_at(path: Path, **given: Any) -> Source:
    """The source that a file is, with what a list may give it."""
    return replace(sources_of([str(path)])[0], **given)


def look(config: DataConfig, source: Source) -> Looked:
    return looked_of(Look(config)({"source": source_to_json(source)})["looked"])


def measure(config: DataConfig, source: Source) -> dict[str, Any]:
    return Measure(config)({"source": source_to_json(source), "starts": "[]"})


def fitted(config: DataConfig, sources: list[Source]) -> Codecs:
    """The embedded codecs, fitted to all clips of these sources."""
    return fit(config, [unpack_moments(measure(config, source)["moments"]) for source in sources])


def maker(config: DataConfig, codecs: Codecs, out: Path) -> MakePart:
    out.mkdir(parents=True, exist_ok=True)
    return MakePart(config, LocalEncoder(OpenEncoder(codecs[0] or None, codecs[1] or None)), str(out))


def make(config: DataConfig, codecs: Codecs, out: Path, *sources: Source, name: str = "0") -> Receipt:
    """One part of these sources, in the folder `out`."""
    items = tuple(Item(source, look(config, source).content or "unknown", 1) for source in sources)
    return maker(config, codecs, out).make(Part(name, items))
