"""A run folder: whose it is, and what of it is shown elsewhere."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from ..datasets.places.lock import LOCK
from ..datasets.places.storage import write_json

RUN = "run.json"
JOB_RUN, JOB_REMOTE = "mutual_forcing.run", "mutual_forcing.remote"  # what Ray keeps of a run's job: its folder, and remote.uri
COURSE, EVALUATED = "course", "evaluation"  # folder of the evaluations made during training, and the spool of their figures
# Of the run's page in a tracking store.
NOTE = (
    "Curves: each stage's loss here, everything else in its nested run. Artifacts: `report.html` (everything on one page), `samples/` "
    "(generated and real clips, their contact sheet), `data/contact.png` (training clips), `course/` (sheets of evaluations made "
    "meanwhile). Tags `changed.*`: settings with which the run went on later."
)
RESTORING = ".restoring"  # a run is being fetched from another place into the folder


def require_ours(run_dir: Path) -> None:
    """Refuse a folder with something else in it.

    Raises:
        ValueError: it holds files and no run.
    """
    if not (run_dir / RUN).is_file() and not (run_dir / RESTORING).is_file() and any(p.name != LOCK for p in run_dir.iterdir()):
        raise ValueError(f"run folder {str(run_dir)!r}: is not empty and holds no run; choose another with --out")


def kept_key(path: Path) -> str:
    """The key by which a tracking store knows the run folder, as this file has it; made where there is none."""
    try:
        key = json.loads(path.read_text())["key"]
    except (OSError, ValueError, TypeError, KeyError):
        key = ""
    if not re.fullmatch("[0-9a-f]{32}", str(key)):
        key = secrets.token_hex(16)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"key": key})
    return key


def shown_files(run_dir: Path) -> Iterator[tuple[Path, str | None]]:
    """What a tracking store gets of a finished run, each with the folder for it: report, contact sheets, clips."""
    yield run_dir / "report.html", None
    yield run_dir / "data" / "contact.png", "data"
    for folder in ("samples", COURSE):
        for path in sorted((run_dir / folder).glob("*")):
            if not path.name.startswith("."):
                yield path, folder
