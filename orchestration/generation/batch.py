"""Many clips: `generate --batch prompts.jsonl`, through Ray Data over actors that hold a model each.

    prompts.jsonl -> a row each, all checked -> those without a whole file -> Ray Data -> Maker, Maker, ... -> OUT/ID.mp4, and its line
                                                                                                                       |
                                                     OUT/provenance.jsonl, a line a clip (batch_record) <--------------+

A clip depends on its row, the weights and the kind of device alone, so a row that is done needs no second time: its line names the row, the
weights and the file's hash, and a line that no longer holds is made again. All machines must see the files that rows name, and OUT. One
batch at a time works in OUT.
"""

from __future__ import annotations

import datetime
import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import ray
import ray.data
from pydantic import TypeAdapter, ValidationError

from ... import __version__
from ...datasets.ffmpeg.media_write import CONTAINERS
from ...datasets.places.lock import locked
from ...datasets.places.storage import local_path, make_folder, sha256_file
from ...datasets.progress import Progress, silent
from ...model.sampler import SamplerConfig
from ..session import ray_session
from .batch_record import SUFFIX, append, gather, note, put_in_order, sweep, whole
from .generating import STANDARD_OUTPUT, UNMARKED, Interrupts, write_clip
from .opened_model import OpenedModel, open_model
from .playing import Playing
from .prompts import Wishes, prompt_of
from .provenance import Marks

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
        ValueError: a row is none, the folder cannot be written to, another batch works in it, or the checkpoint cannot be opened. Rows
            that fail later say so in their line of provenance, and the others are made.
    """
    place = _folder(out)
    marks.signer(SUFFIX)
    rows = read_prompts(local_path("--batch", prompts), defaults, [*settings, repr(marks)])
    folder = make_folder("--out", place)
    identity = open_model(checkpoint, settings, "cpu").identity
    failed = dict[str, str]()
    with _recorded(folder, rows):
        done = whole(folder, rows, identity)
        todo = [row for row in rows if row["id"] not in done]
        progress("generate clips", len(done), len(rows))
        if todo:
            # Ray Data gives its actors references, of which Ray tells in an ERROR line each; what fails comes as an exception.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            with ray_session():
                for line in made(checkpoint, settings, todo, folder, device, actors, marks):
                    append(folder, line)
                    if "error" in line:
                        failed[line["id"]] = line["error"]
                    else:
                        done[line["id"]] = line
                    progress("generate clips", len(done) + len(failed), len(rows))
    return {"folder": str(folder), "clips": len(rows), "made": len(todo) - len(failed), "kept": len(rows) - len(todo), "failed": failed}


def _folder(out: str) -> Path:
    """Where many clips go.

    Raises:
        ValueError: it is the name of one film, or no folder here.
    """
    if out == STANDARD_OUTPUT:
        raise ValueError("--out=-: standard output takes one clip; with --batch give a folder")
    path = local_path("--out", out)
    if path.suffix.lower() in CONTAINERS and not path.is_dir():
        raise ValueError(f"--out={out!r}: is the name of one film; with --batch give a folder, such as {path.stem!r}")
    return path


@contextmanager
def _recorded(folder: Path, rows: Sequence[Row]) -> Iterator[None]:
    """Before the block and after it, however it ends, the folder's lines are true and no half film is left in it."""
    with locked("--out", folder):
        sweep(folder)
        gather(folder)
        try:
            yield
        finally:  # also after a Ctrl-C: the actors are gone by now
            sweep(folder)
            gather(folder)
            put_in_order(folder, [row["id"] for row in rows])


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
            line = about | clip_of(self._model, wishes_of(row["prompt"]), self._folder / f"{row['id']}{SUFFIX}", notes, self._marks)
        except ValueError as error:
            return about | {"error": " ".join(str(error).split())}
        note(self._folder, line)  # here: rows come to the driver late, and never after a Ctrl-C
        return line


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
        "sampler": _told(sampler),
        "evaluations_per_chunk": sampler.evaluations,
        "watermark": marks.watermark,
        "signed": marks.chain is not None,
        "device": str(model.device),
        "version": __version__,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "notes": notes,
    }


def _told(sampler: SamplerConfig) -> dict[str, Any]:
    """What of a sampler its mode applies."""
    own = {"few_sampler": sampler.few_sampler} if sampler.mode == "few" else {"guidance": sampler.guidance}
    return {"mode": sampler.mode, "moves": sampler.moves, **own}


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
        if isinstance(prompt.get(key), str) and key in given and _names_file(key, prompt[key], path.parent):
            prompt[key] = str((path.parent / prompt[key]).resolve())
    try:
        wishes_of(prompt)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    return {"id": name, "prompt": prompt, "request": _request(prompt, settings)}


def _names_file(key: str, value: str, folder: Path) -> bool:
    """Whether a file beside the prompts is meant; a word of a transcript is none."""
    if key == "transcript" and not Path(value).suffix:
        return False
    try:
        return (folder / value).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _request(prompt: Row, settings: Sequence[str]) -> str:
    """A hash of what is asked, with the contents of the files that it names."""
    contents = {key: sha256_file(Path(prompt[key])) for key in PATHS if key in prompt and Path(prompt[key]).is_file()}
    return hashlib.sha256(json.dumps([prompt, contents, list(settings)], sort_keys=True).encode()).hexdigest()
