"""What `data prepare | requeue | inspect | audit | export` do, with a dataset in a folder here or in S3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...datasets.config import DataConfig, first_difference
from ...datasets.format.account import SourceLine, read_account
from ...datasets.format.clip_table import read_clips
from ...datasets.format.manifest import MANIFEST, SHEET, Manifest, open_manifest, read_manifest
from ...datasets.format.parquet import export_parquet
from ...datasets.intake.inputs import moved, require_there
from ...datasets.intake.sources import Source
from ...datasets.ledger import head_of, read_chain
from ...datasets.pipeline import prepare
from ...datasets.places.scratch import Scratch
from ...datasets.places.storage import local_path
from ...datasets.places.store import Store, below, is_remote, store_of, write_bytes
from ...datasets.places.writable import require_writable
from ...datasets.preparing.audit import Audit, audit
from ...datasets.preparing.growth import Again, first_of, listed
from ...datasets.preparing.scribing import identities
from ...datasets.progress import Progress
from ...datasets.reading.loader import LatentDataset
from ...datasets.transfer import fetch_dataset, told
from ...datasets.unchanged import require_same_settings
from ...datasets.views.pictures import draw_contact_sheet
from ...datasets.views.playback import play
from ...workers.checkpoint import newest
from ..config import with_data_settings
from ..run_record import loop_config, open_run
from ..session import ray_session
from .page import PAGE, data_page


@dataclass(frozen=True)
class Told:
    """A dataset as it describes itself: its manifest, its account of sources, and where its contact sheet and its page are (empty: there is
    none).
    """

    manifest: Manifest
    lines: tuple[SourceLine, ...]
    sheet: str
    page: str = ""


@dataclass(frozen=True)
class Requeue:
    """What came of trying sources again. tried: how many were; gone: names of those that were asked for, and are not among the inputs any
    more; added: new ones that came along.
    """

    tried: int
    gone: tuple[str, ...]
    added: int

    def __str__(self) -> str:
        gone = f"no longer among the inputs: {len(self.gone)} (the first: {self.gone[0]!r})" if self.gone else ""
        return "; ".join(filter(None, (f"tried again: {self.tried}", gone, f"new: {self.added}" if self.added else "")))


def prepared(config: DataConfig, out: str, progress: Progress) -> Told:
    """Make the dataset `out`, or add to it what is new.

    Raises:
        ValueError: see `prepare`; or the store does not answer.
    """
    place = out if is_remote(out) else str(local_path("--out", out))
    with told("--out", out):
        if is_remote(out):
            require_writable("--out", out)  # before Ray starts
        if not config.is_synthetic and not config.prepared:
            require_there(config.inputs)
        if not config.prepared and (is_remote(out) or Path(place).is_dir()):
            require_same_settings(config, place)
        identities(config)  # so must the networks that write text, which stay open
        with ray_session():
            prepare(config, place, progress, grow=True)
        return described(place)


def requeued(
    uri: str, stage: str, words: str, media: Sequence[str], progress: Progress, settings: Sequence[str] = ()
) -> tuple[Told, Requeue]:
    """Try refused sources of a dataset again: those that this stage refused, with these words in the reason; and what came of that.
    media: where the inputs are now, if they moved; settings: see `config_of`.

    Raises:
        ValueError: there is no dataset, none of its sources was refused so, or they follow from its settings.
    """
    place, again = _place(uri), Again(stage, words)
    before = described(place)
    if before.manifest.synthetic:
        raise ValueError(
            f"{uri!r}: is of talking characters, which follow from its settings alone, so that trying again changes nothing; "
            "prepare others into another folder, with another data.seed"
        )
    config = config_of(before.manifest, media, settings)
    asked = [line.path for line in before.lines if again.wants(line)]
    if not asked:
        stages = Counter(line.stage for line in before.lines if not line.used)
        there = ", ".join(f"{name} ({count})" for name, count in stages.items()) or "none"
        raise ValueError(f"{uri!r}: no source was refused by --stage={stage!r} with --reason={words!r}; refused are, by stage: {there}")
    if is_remote(place):
        require_writable("dataset", place)
    identities(config)  # before Ray starts: networks that write text must be there; they stay open
    with told("dataset", uri), ray_session():
        prepare(config, place, progress, grow=True, again=again)
        after = described(place)
    attempts = {line.path: line.attempts for line in before.lines}
    tried = {line.path for line in after.lines if line.attempts > attempts.get(line.path, line.attempts)}
    gone = tuple(sorted(set(asked) - tried))
    return after, Requeue(len(tried), gone, sum(line.path not in attempts for line in after.lines))


def described(place: str) -> Told:
    """Raises ValueError: there is no dataset, or it is damaged."""
    with told("dataset", place), store_of(place) as store:
        return _described(store)


def inspected(uri: str, progress: Progress, settings: Sequence[str] = ()) -> Told:
    """A dataset, and a page about it beside it; a local one has its shards verified, and gets a new contact sheet. settings: see
    `config_of`; they may name other copies of its codecs.
    """
    place = _place(uri)
    if not is_remote(place):
        read_manifest(Path(place), progress=progress)
    with told("dataset", uri), store_of(place) as store:
        found = _described(store)
        rows = read_clips(store.fetch(found.manifest.table))
        if not is_remote(place):
            codecs = config_of(found.manifest, settings=settings).pretrained
            draw_contact_sheet(store, found.manifest, rows, progress, codecs)
        sheet = store.fetch(SHEET) if SHEET in store.names() else None
        page = data_page(found.manifest, found.lines, rows, sheet, Path(place).name or place)
        write_bytes(store, PAGE, page.encode())
        return replace(found, page=below(store.uri, PAGE))


def played(uri: str, clip: str, out: str, media: Sequence[str], settings: Sequence[str] = ()) -> dict[str, str]:
    """Write a clip of a dataset as a film; what is seen in it. settings: see `config_of`.

    Raises:
        ValueError: see `play`.
    """
    place, path = _place(uri), local_path("--out", out)
    with told("dataset", uri), store_of(place) as store:
        manifest = _manifest(store)
        lines = read_account(store.fetch(manifest.account))
        shown = play(store, manifest, config_of(manifest, media, settings), clip, _listed(manifest, media, lines), path)
    return {"clip": shown, "file": str(path)}


def audited(uri: str, run: str | None, media: Sequence[str], progress: Progress) -> tuple[Audit, dict[str, int]]:
    """Whether the account of a dataset adds up, and with `run` how often its sources were trained on.

    Raises:
        ValueError: there is no dataset, or no such run.
    """
    place = _place(uri)
    with told("dataset", uri), store_of(place) as store:
        manifest = _manifest(store)
        lines = read_account(store.fetch(manifest.account))
        found = audit(store, _listed(manifest, media, lines), progress)
        sources = {row.clip_id: row.source for row in read_clips(store.fetch(manifest.table))}
    if run is None:
        return found, {}
    faults, visits = trained_on(run, manifest, sources)
    return replace(found, faults=(*found.faults, *faults)), visits


def trained_on(run: str, manifest: Manifest, sources: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """The ledger of a training run against a dataset: what of it cannot be, and how many clips of each source were trained on. sources: of
    the dataset's clips, by their ids.
    """
    path = local_path("--run", run)
    config = open_run(path)
    loop = loop_config(config, path)
    dataset = LatentDataset(loop.data, config.model.text)
    if dataset.manifest.contents() != manifest.contents():
        raise ValueError(f"--run={run!r}: was trained on another dataset, or on an earlier version of this one")
    training, held_out = set(dataset.train_ids) & sources.keys(), set(manifest.held_out)
    faults, visits = list[str](), Counter[str]({sources[clip]: 0 for clip in training})
    for stage in config.stages:
        last = newest(loop.checkpoints, stage.name)
        if last is None:
            continue
        for update in read_chain(loop.checkpoints, head_of(last.manifest["ledger"])):
            for clip in update.clips:
                if clip in training:
                    visits[sources[clip]] += 1
                elif not update.passes or clip in held_out:  # clips that were streamed stand in no dataset
                    faults.append(f"stage {stage.name}, step {update.step}: {clip} was trained on, and is no training clip of this dataset")
    return faults, dict(visits)


def exported(uri: str, out: str, progress: Progress) -> dict[str, Any]:
    """Write a dataset's clips as Parquet; what was written.

    Raises:
        ValueError: see `export_parquet`; or the store does not answer.
    """
    place, folder = _place(uri), local_path("--out", out)
    if not is_remote(place):
        return {"clips": export_parquet(Path(place), folder, progress), "folder": str(folder)}
    with Scratch() as scratch, told("dataset", uri), store_of(place) as store:
        fetch_dataset(store, scratch, progress)
        return {"clips": export_parquet(scratch, folder, progress), "folder": str(folder)}


def config_of(manifest: Manifest, media: Sequence[str] = (), settings: Sequence[str] = ()) -> DataConfig:
    """The settings that a dataset was made with. settings: assignments to some that shape no clip, as `--set` has them: where networks are,
    how many processes there may be.

    Raises:
        ValueError: those of the dataset are of another release, or one that is assigned does shape clips, or names other inputs.
    """
    inputs = moved(manifest.inputs, media)
    tree = manifest.settings | {"media": inputs[0] if len(inputs) == 1 else inputs}
    try:
        made = TypeAdapter(DataConfig).validate_python(tree)
    except ValidationError as error:
        raise ValueError(f"dataset manifest: its settings are of another release ({error.errors()[0]['msg']}); prepare it again") from error
    config = with_data_settings(made, settings)
    for name in ("media", "prepared", "mix"):
        if getattr(config, name) != getattr(made, name):
            raise ValueError(f"--set data.{name}: a dataset that is there has its inputs; give --media if they are at another place now")
    if differs := first_difference(made.shaping(), config.shaping()):
        raise ValueError(f"--set: its clips are made already, of other settings ({differs}); leave it out, or prepare into another folder")
    return config


def _described(store: Store) -> Told:
    manifest = _manifest(store)
    return Told(manifest, tuple(read_account(store.fetch(manifest.account))), below(store.uri, SHEET) if SHEET in store.names() else "")


def _manifest(store: Store) -> Manifest:
    try:
        return open_manifest(store.fetch(MANIFEST))
    except FileNotFoundError:
        raise ValueError(f"dataset {store.uri}: holds none (no {MANIFEST}); make one with `mutual-forcing data prepare`") from None


def _listed(manifest: Manifest, media: Sequence[str], lines: Sequence[SourceLine]) -> list[Source] | None:
    """The sources as they are now, under their names in the account; None where they are not at hand."""
    if manifest.synthetic and not media:
        return None
    try:
        found = listed(moved(manifest.inputs, media), lines)
        return first_of(found, {line.path: line for line in lines}, manifest.settings.get("stream_sources", 0))
    except (ValueError, OSError):
        if media:
            raise
        return None


def _place(uri: str) -> str:
    return uri if is_remote(uri) else str(local_path("folder", uri))
