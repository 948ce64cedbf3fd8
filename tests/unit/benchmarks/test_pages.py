"""The tables of the documentation are those of the records beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mutual_forcing.benchmarks import _records, ablation, history

DOCS = Path(__file__).resolve().parents[3] / "docs"
Comparison = tuple[Callable[[Any], Any], Callable[[Any, Path], None]]
PAGES: dict[str, Comparison] = {
    "ablation": (ablation.summarise, ablation.write_page),
    "history": (history.summarise, history.write_page),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_tables_of_its_records(name: str, tmp_path: Path) -> None:
    summarise, write_page = PAGES[name]
    page, records = DOCS / f"{name}.md", _records.kept(DOCS / "records" / f"{name}.json")
    again = tmp_path / page.name
    again.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    write_page(summarise(records), again)
    assert again.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), "give the command of the page again"
    figures = next(iter(next(iter(records.values())).values()))["few4"]["windows"]
    next(iter(figures.values()))["frechet_joint"] += 1.0
    write_page(summarise(records), again)
    assert again.read_text(encoding="utf-8") != page.read_text(encoding="utf-8")
