"""Work that ends its process at some rows: what a decoder does that meets a bad file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mutual_forcing.datasets.ffmpeg.ffmpeg_program import MediaError
from mutual_forcing.datasets.format.part_writer import PartWriter
from mutual_forcing.datasets.format.parts import Item, Outcome
from mutual_forcing.datasets.intake.sources import Source
from mutual_forcing.datasets.preparing.look import Look, Looked
from mutual_forcing.datasets.preparing.making import MakePart
from mutual_forcing.datasets.preparing.trials import Trials

SEGMENTATION_FAULT = 139


class EndingWork:
    """Row {sources: names} -> row {became: what of each}. A source with `once` in its name ends its process the first time, with `always`
    each time. folder: where tries are noted.
    """

    def __init__(self, folder: Path, trials: Trials) -> None:
        self._folder, self._trials = folder, trials

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"became": [f"{name}: {self._became(name)}" for name in row["sources"]]}

    def _became(self, name: str) -> str:
        try:
            with self._trials.of(name):
                with (self._folder / name).open("a") as file:
                    file.write("x")
                if "always" in name or ("once" in name and (self._folder / name).stat().st_size == 1):
                    os._exit(SEGMENTATION_FAULT)
                return "used"
        except MediaError as error:
            return f"{error.stage}, {error.reason}"


class EndingLook(Look):
    def _look(self, source: Source) -> Looked:
        if "ends look" in source.name:
            os._exit(SEGMENTATION_FAULT)
        return super()._look(source)


class EndingMakePart(MakePart):
    def _made(self, item: Item, writer: PartWriter, tally: Any) -> Outcome:
        made = super()._made(item, writer, tally)
        if "ends making" in item.source.name:
            os._exit(SEGMENTATION_FAULT)
        return made
