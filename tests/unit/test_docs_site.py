"""The site of the documentation builds without a warning, all of its links lead somewhere, and nothing on it needs a network."""

from __future__ import annotations

import re
import shutil
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer

pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
from sphinx.cmd.build import build_main

from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.settings_table import sections

# myst-parser asks Sphinx in ways that a later release will not have.
pytestmark = pytest.mark.filterwarnings("ignore:.*Check CHANGES for Sphinx API modifications:PendingDeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TO = re.compile(r'\s(?:href|src|poster|action)="([^"]*)"')
LOADED = re.compile(r'<(?:link|script|img|source|video|audio|iframe|object)\b[^>]*?\s(?:href|src|poster|data)="([^"]*)"')
OF_CSS = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


def built(source: Path, out: Path) -> int:
    """Build as `make docs` does; the exit status."""
    return build_main(["--fail-on-warning", "--keep-going", "--fresh-env", "--quiet", str(source), str(out)])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    assert built(DOCS, out) == 0, "the warnings are above"
    return out


@cache
def targets(page: Path) -> frozenset[str]:
    return frozenset(unescape(x) for x in re.findall(r'\s(?:id|name)="([^"]+)"', page.read_text(encoding="utf-8")))


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def dead(page: Path, link: str) -> str | None:
    """What is wrong with a link of a page, if something is."""
    path, _, fragment = unescape(link).partition("#")
    if re.match(r"[a-z]+:", path):
        return None if path.startswith(("https://", "data:image/")) else "of another kind"
    there = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
    if not there.is_file():
        return "no such file"
    return None if not fragment or fragment in targets(there) else "no such place on the page"


def test_every_link_leads_somewhere(site: Path) -> None:
    links = {(page, link) for page in pages(site) for link in TO.findall(page.read_text(encoding="utf-8")) if link not in ("", "#")}
    assert len(links) > 500
    assert [(page.name, link, why) for page, link in sorted(links) if (why := dead(page, link))] == []


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    found = [(page.name, link) for page in pages(site) for link in LOADED.findall(page.read_text(encoding="utf-8"))]
    styles = [(css.name, a or b) for css in site.rglob("*.css") for a, b in OF_CSS.findall(css.read_text(encoding="utf-8"))]
    assert len(found) > 50
    assert [(where, link) for where, link in [*found, *styles] if re.match(r"(?!data:)[a-z+]+:|//", link.strip())] == []


def test_every_page_is_in_the_site_and_every_page_reaches_it(site: Path) -> None:
    written = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert written <= {page.relative_to(site) for page in pages(site)}
    menu = set(TO.findall((site / "index.html").read_text(encoding="utf-8")))
    assert menu >= {str(path) for path in written - {Path("index.html")}}


def test_the_reference_has_every_setting_and_every_verb(site: Path) -> None:
    there = targets(site / "reference" / "settings.html")
    assert [setting.key for section in sections() for setting in section.settings if setting.key not in there] == []
    text = re.sub(r"<[^>]+>", "", (site / "reference" / "commands.html").read_text(encoding="utf-8"))
    command = typer.main.get_command(app)
    verbs = [name for name, verb in command.commands.items() if not hasattr(verb, "commands")]  # pyright: ignore[reportAttributeAccessIssue]
    assert len(verbs) > 4
    assert [verb for verb in [*verbs, "data prepare", "checkpoint prune"] if f"$ mutual-forcing {verb} [OPTIONS]" not in text] == []


@pytest.mark.parametrize(
    ("page", "warned"),
    [
        ("[a](nowhere.md)", "nowhere.md"),
        ("[a](other.md#nowhere)", "nowhere"),
        ("[a](#nowhere)", "nowhere"),
        ("![a](nowhere.png)", "nowhere.png"),
        ("<!-- generated: nothing -->", "nothing"),
    ],
)
def test_what_leads_nowhere_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str], page: str, warned: str) -> None:
    write_site(tmp_path, page)
    assert built(tmp_path, tmp_path / "out") != 0
    assert warned in capfd.readouterr().err


def test_a_page_that_no_menu_has_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_site(tmp_path, "fine: [a](other.md#here)")
    assert built(tmp_path, tmp_path / "out") == 0
    (tmp_path / "lonely.md").write_text("# Lonely\n")
    assert built(tmp_path, tmp_path / "out") != 0
    assert "lonely.md" in capfd.readouterr().err


def write_site(folder: Path, page: str) -> None:
    """Two pages under the site's own configuration."""
    for name in ("conf.py", "reference_pages.py"):
        shutil.copyfile(DOCS / name, folder / name)
    (folder / "_static").mkdir()
    (folder / "_static" / "site.css").touch()
    (folder / "index.md").write_text(f"# Top\n\n{page}\n\n```{{toctree}}\nother\n```\n")
    (folder / "other.md").write_text("# Other\n\n## Here\n")


README_LINKS = [link for link in re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")) if ":" not in link]


@pytest.mark.parametrize("link", sorted(set(README_LINKS)))
def test_links_of_the_readme_lead_somewhere(site: Path, link: str) -> None:
    path, _, fragment = link.partition("#")
    assert (ROOT / path).is_file()
    if fragment:
        assert fragment in targets(site / Path(path).relative_to("docs").with_suffix(".html"))
