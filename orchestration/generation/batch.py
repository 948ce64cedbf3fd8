"""Many clips: `generate --batch prompts.jsonl`, through Ray Data over actors that hold a model each.

    prompts.jsonl -> a row each, all checked -> those without a whole file -> Ray Data -> Maker, Maker, ... -> OUT/ID.mp4
                                                                                 |
                                     OUT/provenance.jsonl, a line a clip <-------+

A clip depends on its row, the weights and the kind of device alone, so a row that is done needs no second time: its line names the row, the
weights and the file's hash, and a line that no longer holds is made again. All machines must see the files that rows name, and OUT.
"""

from __future__ import annotations

import datetime
import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import ray
import ray.data
from pydantic import TypeAdapter, ValidationError

from ... import __version__
from ...datasets.places.storage import atomic_path, local_path, make_folder, sha256_file
from ...datasets.progress import Progress, silent
from ..session import ray_session
from .generating import UNMARKED, Interrupts, write_clip
from .opened_model import OpenedModel, open_model
from .playing import Playing
from .prompts import Wishes, prompt_of
from .provenance import Marks

PROVENANCE = "provenance.jsonl"
SUFFIX = ".mp4"
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_BYTES = 64 << 20
MAX_ROWS = 100_000
PATHS = ("transcript", "text", "first_frame", "continue")  # that may lie beside the file of prompts
Row = dict[str, Any]


def generate_batch(
    checkpoint: str,
    prompts: str,
    out: str,
    defaults: Wishes,
    settings: Sequence[str] = (),
    device: str = "auto",
    actors: int = 0,
    progress: Progress = silent,
    marks: Marks = UNMARKED,
) -> dict[str, Any]:
    """Make the clip of every row that has none yet. out: a folder; defaults: what rows leave out; actors: that hold a model each, 0: one a
    GPU of the cluster, or one where there is none.

    Raises:
        ValueError: a row is none, the folder cannot be written to, or the checkpoint cannot be opened. Rows that fail later say so in
            their line of provenance, and the others are made.
    """
    marks.signer(SUFFIX)
    rows = read_prompts(local_path("--batch", prompts), defaults, [*settings, repr(marks)])
    folder = make_folder("--out", local_path("--out", out))
    identity = open_model(checkpoint, settings, "cpu").identity
    done = _whole(folder, rows, identity)
    todo = [row for row in rows if row["id"] not in done]
    progress("generate clips", len(done), len(rows))
    failed = dict[str, str]()
    if todo:
        with ray_session():
            for line in made(checkpoint, settings, todo, folder, device, actors, marks):
                _append(folder, line)
                if "error" in line:
                    failed[line["id"]] = line["error"]
                else:
                    done[line["id"]] = line
                progress("generate clips", len(done) + len(failed), len(rows))
    _in_order(folder, [row["id"] for row in rows])
    return {"folder": str(folder), "clips": len(rows), "made": len(todo) - len(failed), "kept": len(rows) - len(todo), "failed": failed}


def made(
    checkpoint: str, settings: Sequence[str], rows: Sequence[Row], folder: Path, device: str, actors: int, marks: Marks = UNMARKED
) -> Iterator[dict[str, Any]]:
    """The lines of provenance of rows, each as soon as its clip is there; Ray is up."""
    gpus = int(ray.cluster_resources().get("GPU", 0)) if device != "cpu" else 0
    if device.startswith("cuda") and not gpus:
        raise ValueError(f"--device={device}: the cluster has no GPU; choose auto or cpu")
    count = min(len(rows), actors or gpus or 1)
    where = "cuda" if gpus else "cpu"
    given = ray.data.from_items([{"row": json.dumps(row)} for row in rows], override_num_blocks=len(rows))
    maker: Any = Maker  # Ray Data makes one an actor, and calls it
    lines = given.map(
        maker,
        fn_constructor_args=(checkpoint, list(settings), str(folder), where, marks),
        concurrency=count,
        num_cpus=1,
        num_gpus=min(1.0, gpus / count) if gpus else 0,
    )
    for line in lines.iter_rows():
        yield json.loads(line["line"])


class Maker:
    """A model, held by an actor."""

    def __init__(self, checkpoint: str, settings: list[str], folder: str, device: str, marks: Marks = UNMARKED) -> None:
        self._model = open_model(checkpoint, settings, device)
        self._folder, self._marks = Path(folder), marks

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        wanted: Row = json.loads(row["row"])
        return {"line": json.dumps(self._line(wanted))}

    def _line(self, row: Row) -> dict[str, Any]:
        notes: list[str] = []
        about = {"id": row["id"], "prompt": row["prompt"], "request": row["request"], "model": self._model.identity}
        try:
            return about | clip_of(self._model, wishes_of(row["prompt"]), self._folder / f"{row['id']}{SUFFIX}", notes, self._marks)
        except ValueError as error:
            return about | {"error": " ".join(str(error).split())}


def clip_of(model: OpenedModel, wishes: Wishes, path: Path, notes: list[str], marks: Marks = UNMARKED) -> dict[str, Any]:
    """Make one clip; what its provenance tells of it. notes: get what the wishes were understood as."""
    sampler = model.sampler(wishes.mode, wishes.moves, wishes.guidance, notes.append)
    prompt, chunks = prompt_of(model, wishes, notes.append)
    playing = Playing(model, [prompt], sampler, chunks)
    done = write_clip(playing, path, model, chunks, Interrupts(), marks=marks, signer=marks.signer(path.name))
    return {
        "file": path.name,
        "sha256": sha256_file(path),
        "seconds": round(done.seconds, 3),
        "frames": done.frames,
        "caption": prompt.caption,
        "words": len(prompt.words),
        "seed": wishes.seed,
        "stage": model.stage,
        "step": model.step,
        "sampler": {k: v for k, v in asdict(sampler).items() if k != "path"},
        "watermark": marks.watermark,
        "signed": marks.chain is not None,
        "device": str(model.device),
        "version": __version__,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "notes": notes,
    }


def read_prompts(path: Path, defaults: Wishes, settings: Sequence[str] = ()) -> list[Row]:
    """The rows of a file of prompts: id, prompt (the wishes, complete), request (their hash, with that of the settings).

    Raises:
        ValueError: it cannot be read, a line is no object of known fields, or two have one id.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise ValueError(f"--batch={str(path)!r}: must be a file of at most {MAX_BYTES} bytes, a JSON object a line")
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ValueError(f"--batch={str(path)!r}: cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--batch={str(path)!r}: is not UTF-8; write it again") from error
    rows = [_row(text, number, path, defaults, settings) for number, text in enumerate(lines, 1) if text.strip()]
    if not 0 < len(rows) <= MAX_ROWS:
        raise ValueError(f"--batch={str(path)!r}: holds {len(rows)} prompts; from 1 to {MAX_ROWS} are made")
    ids = set[str]()
    for row in rows:
        if (key := row["id"].lower()) in ids:
            raise ValueError(f"--batch={str(path)!r}: id {row['id']!r} stands twice; give each prompt its own")
        ids.add(key)
    return rows


def wishes_of(prompt: Mapping[str, Any]) -> Wishes:
    """The wishes that a row holds.

    Raises:
        ValueError: a field is of another type, or does not fit.
    """
    try:
        return TypeAdapter(Wishes).validate_python({("onward" if key == "continue" else key): value for key, value in prompt.items()})
    except ValidationError as error:
        first = error.errors()[0]
        told = first["msg"].removeprefix("Value error, ")
        raise ValueError(told if first["type"] == "value_error" else f"{'.'.join(map(str, first['loc']))}: {told}") from None


def _row(text: str, number: int, path: Path, defaults: Wishes, settings: Sequence[str]) -> Row:
    label = f"--batch={path.name}, line {number}"
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{label}: is not JSON ({error}); write an object, as {{"caption": "..."}}') from error
    known = ["id", *("continue" if f.name == "onward" else f.name for f in fields(Wishes))]
    if not isinstance(given, dict):
        raise ValueError(f'{label}: is no object; write one, as {{"caption": "..."}}')
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"{label}: unknown field {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"))
    name = given.pop("id", f"{number:06d}")
    if not isinstance(name, str) or not ID.fullmatch(name):
        raise ValueError(f"{label}: id={str(name)[:80]!r}: use letters, digits, dots, hyphens and underscores, at most 128")
    base = {("continue" if key == "onward" else key): value for key, value in asdict(defaults).items()}
    prompt = {key: value for key, value in (base | given).items() if value is not None}
    for key in PATHS:
        if isinstance(prompt.get(key), str) and key in given and (path.parent / prompt[key]).is_file():
            prompt[key] = str((path.parent / prompt[key]).resolve())
    try:
        wishes_of(prompt)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    return {"id": name, "prompt": prompt, "request": _request(prompt, settings)}


def _request(prompt: Row, settings: Sequence[str]) -> str:
    """A hash of what is asked, with the contents of the files that it names."""
    contents = {key: sha256_file(Path(prompt[key])) for key in PATHS if key in prompt and Path(prompt[key]).is_file()}
    return hashlib.sha256(json.dumps([prompt, contents, list(settings)], sort_keys=True).encode()).hexdigest()


def _whole(folder: Path, rows: Sequence[Row], identity: str) -> dict[str, dict[str, Any]]:
    """Lines of rows whose clips are there as they were made, by these weights."""
    lines = _lines(folder)
    found = dict[str, dict[str, Any]]()
    for row in rows:
        line, path = lines.get(row["id"], {}), folder / f"{row['id']}{SUFFIX}"
        same = (line.get("request"), line.get("model")) == (row["request"], identity) and "error" not in line
        if same and path.is_file() and sha256_file(path) == line.get("sha256"):
            found[row["id"]] = line
    return found


def _lines(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest line of each id; what a killed job wrote by half is left out."""
    path, found = folder / PROVENANCE, dict[str, dict[str, Any]]()
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and isinstance(line.get("id"), str):
                found[line["id"]] = line
    return found


def _append(folder: Path, line: Mapping[str, Any]) -> None:
    with (folder / PROVENANCE).open("ab") as file:
        file.write(b"\n" + json.dumps(line, ensure_ascii=False).encode() + b"\n")  # a line that a killed job wrote by half ends here
        file.flush()
        os.fsync(file.fileno())


def _in_order(folder: Path, ids: Sequence[str]) -> None:
    """One line an id, those of this job first and in their order."""
    lines = _lines(folder)
    order = [*(i for i in ids if i in lines), *(i for i in lines if i not in set(ids))]
    with atomic_path(folder / PROVENANCE) as temporary:
        temporary.write_text("".join(json.dumps(lines[i], ensure_ascii=False) + "\n" for i in order), encoding="utf-8")
