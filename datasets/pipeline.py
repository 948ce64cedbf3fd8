"""THE ordered list of stages, from what a user names to a finished dataset.

    list -> look (probe, hash, text)                                           one small row a source     look.py
         -> measure (decode some), fit the embedded codecs                     in the driver              measuring.py
         -> parts (decode, align, cut, judge, encode, write a shard, receipt)  one row a part             making.py
         -> account, contact sheet, manifest                                   the manifest last: it is the commit

Ray Data runs the stages; the rules live in `filters.py` and in the files named above. A dataset that is there already grows: only sources
that it has not seen go through the stages, and its codecs are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..model.codecs.shape import is_pretrained
from ..model.noise import position_seed
from ..model.types import MODALITIES
from .adopt import adopt
from .config import DataConfig
from .drawn.synthetic import SyntheticConfig, write_corpus
from .encoding.encoders import clip_encoder
from .encoding.pretrained_codecs import describe_pretrained, require_same, require_settings
from .format.account import SOURCES, SourceLine, read_account, write_lines
from .format.clip_table import clips_in, measures_in, write_rows
from .format.manifest import MANIFEST, Manifest, open_manifest, read_manifest
from .format.parts import Item, Part, Receipts, clear, finished, parts_of
from .intake.inputs import sources_of
from .intake.sources import Source, file_of, source_to_json
from .places.scratch import Scratch
from .places.storage import local_path, make_folder
from .places.store import Store, below, is_remote, write_bytes
from .preparing.commit import counted_anew, described, lines_of, rows_of
from .preparing.growth import TWIN, Again, drawn, first_of, growth, listed
from .preparing.look import Look, Looked, Row, looked_of
from .preparing.making import MakePart, part_row
from .preparing.measuring import Codecs, Measure, Measured, fit, unpack_moments
from .preparing.notes import SurveyNotes
from .preparing.outputs import Hold, opened, refuse_nesting
from .preparing.scribing import identities
from .preparing.shared import apart
from .preparing.spread import Rows, spread
from .preparing.trials import UNWATCHED, trials
from .progress import Progress, silent
from .unchanged import refuse_other_settings
from .views.pictures import draw_contact_sheet

TOGETHER = 4  # parts of a task
MOST_ASKED = 1000  # folders of sources, of which other machines are asked


def prepare(config: DataConfig, out: str | Path, progress: Progress = silent, grow: bool = False, again: Again | None = None) -> Manifest:
    """Make the dataset of `config` in `out`, a folder or an s3:// URI, or reuse what is there; Ray must be running.

    progress(stage, done, total) is called as work advances. grow: sources that the dataset there has not seen are added to it. again: which
    refused ones are tried again.

    Raises:
        ValueError: no source could be used, an input is missing, `out` lies within one, or holds a dataset of other settings or (without
            `grow`) of other sources, or is being written by another process.
        OSError: the store does not answer.
    """
    if config.prepared:
        return adopt(config, Path(out), progress, config.cache_gb)
    refuse_nesting(config, str(out))
    stands = config.is_synthetic or is_remote(str(out)) or local_path("data.out", out).exists()
    sources = None if stands else sources_of(config.inputs)  # a mistyped folder must not make `out`
    with opened(out, progress) as (store, hold):
        return _Job(config, store, progress, hold, sources).run(grow, again)


class _Job:
    """One job: what it is of, and where it writes. hold: of that place; sources: what is listed, if that is known."""

    def __init__(self, config: DataConfig, store: Store, progress: Progress, hold: Hold, sources: Sequence[Source] | None) -> None:
        self._config, self._store, self._progress, self._sources = config, store, progress, sources
        self._pretrained, self._hold = config.pretrained.only(config.modalities), hold
        self._trials, self._here = UNWATCHED, False

    def run(self, grow: bool, again: Again | None) -> Manifest:
        before, account = self._before(), dict[str, SourceLine]()
        if before is not None:
            account = {line.path: line for line in read_account(self._store.fetch(before.account))}
            self._require_same(before, (), ())
            if self._config.is_synthetic:
                self._clear(entry.file for entry in before.shards)
                return before  # characters follow from the settings alone
        every = listed(self._inputs(), account.values()) if account or self._sources is None else self._sources
        found = growth(first_of(every, account, self._config.stream_sources), account, again)
        scribes = identities(self._config)
        if before is not None:
            self._require_same(before, found.changed, () if grow else (*found.added, *found.gone))
            self._codecs_of(before)
            if scribes != before.scribes and (scribes or (found.fresh and grow)):
                raise ValueError(
                    f"data.out={self._store.uri!r}: its text was written by other networks than data.transcribe and data.caption name now; "
                    "name those, or prepare into another folder"
                )
            if not found.fresh or not grow:
                self._clear(entry.file for entry in before.shards)  # the job that wrote it may have been killed before it did
                return self._replaced(before, replace(before, inputs=self._inputs_now(before, again))) if again else before
        inputs = self._inputs_now(before, again)
        self._here = bool(found.fresh) and self._apart(found.fresh)
        with trials() as self._trials:
            if before is None and self._config.stream_sources:
                fresh, looked = self._first_usable(every)
            else:
                fresh, looked = found.fresh, self._look(found.fresh, account)
            looked, used = self._without_twins(fresh, looked, account)
            codecs = self._codecs_of(before) if before else self._codecs(used, looked)
            receipts = self._make(used, looked, codecs, before, scribes) if codecs else Receipts(())
        manifest = self._commit(fresh, looked, receipts, codecs, account, before, scribes, inputs)
        self._clear(entry.file for entry in manifest.shards)
        return manifest

    def _apart(self, sources: Sequence[Source]) -> bool:
        """Whether other machines do not see the sources, or the place of the dataset."""
        folders = [] if is_remote(self._store.uri) else [Path(self._store.uri)]
        local = (Path(file_of(s.path)) for s in sources if not s.refused and not is_remote(s.path))
        # One a folder, for inputs may lie on several disks; what this machine does not see either, tells nothing of others.
        files = list({path.parent: path for path in local if path.exists()}.values())[:MOST_ASKED]
        if why := apart(self._config.pool.takes, folders, files):
            self._progress(f"prepare data on this machine alone: {why}", 0, 1)
        return bool(why)

    def _before(self) -> Manifest | None:
        there = self._store.names()
        if MANIFEST not in there:
            return None
        manifest = open_manifest(self._store.fetch(MANIFEST))
        if not is_remote(self._store.uri):
            return read_manifest(Path(self._store.uri))  # with its shards, which no server has taken care of
        return manifest

    def _require_same(self, before: Manifest, changed: Sequence[str], strange: Sequence[str]) -> None:
        where = f"data.out={self._store.uri!r}"
        refuse_other_settings(before, self._config, self._store.uri)
        if changed:
            raise ValueError(
                f"{where}: {changed[0]!r} is not what it was when its clips were made; put it back, or prepare into another folder"
            )
        if strange:
            raise ValueError(f"{where}: holds a dataset of other sources ({strange[0]!r} differs); choose another folder or remove it")

    def _replaced(self, before: Manifest, manifest: Manifest) -> Manifest:
        """The manifest of the same version, written if it is another."""
        if manifest != before:
            write_bytes(self._store, MANIFEST, manifest.to_json())
        return manifest

    def _inputs_now(self, before: Manifest | None, again: Again | None) -> tuple[str, ...]:
        """Those of the dataset: further ones join, but who tries again names all, at their places of now."""
        earlier = before.inputs if before is not None and again is None else ()
        return tuple(dict.fromkeys((*earlier, *self._config.inputs)))

    def _inputs(self) -> Sequence[str]:
        if not self._config.is_synthetic:
            return self._config.inputs
        return [str(draw_characters(self._config, self._store, self._progress))]

    def _first_usable(self, sources: Sequence[Source]) -> tuple[list[Source], dict[str, Looked]]:
        """The sources that are prepared before training takes the others as they come: drawn until so many seem to be of use."""
        left, fresh, looked = drawn(sources, self._config.seed), list[Source](), dict[str, Looked]()
        while left and (missing := self._config.stream_sources - sum(not looked[s.name].reason for s in fresh)) > 0:
            asked, left = left[:missing], left[missing:]
            looked |= self._look(asked, {})
            fresh += asked
        return fresh, looked

    def _look(self, sources: Sequence[Source], account: Mapping[str, SourceLine]) -> dict[str, Looked]:
        """What is found in each; what an earlier job found counts, unless the source is tried again."""
        notes = SurveyNotes(self._store, _hash(self._config.shaping()))
        looked = {s.name: known for s in sources if s.name not in account and (known := notes.known(s))}
        asked = {s.name: s for s in sources if s.name not in looked}
        rows = Rows(list(asked.values()), lambda source: {"source": source_to_json(source)})
        for row in self._spread(rows, Look(self._config, self._trials), "look into sources"):
            looked[row["name"]] = looked_of(row["looked"])
            notes.add(asked[row["name"]], looked[row["name"]])
        notes.flush()
        return looked

    def _without_twins(
        self, sources: Sequence[Source], looked: Mapping[str, Looked], account: Mapping[str, SourceLine]
    ) -> tuple[dict[str, Looked], list[Source]]:
        """What was found, with twins refused, and the sources that are to be made, by name. Of usable ones with the same content the first
        is kept, one with text before others.
        """
        first = {line.content: line.path for line in account.values() if line.used}
        found, used = dict(looked), list[Source]()
        for source in sorted(sources, key=lambda s: (not looked[s.name].has_text, s.name)):
            if found[source.name].reason:
                continue
            if (twin := first.setdefault(found[source.name].content, source.name)) != source.name:
                found[source.name] = replace(found[source.name], stage="filter", reason=f"{TWIN}{twin}")
            else:
                used.append(source)
        return found, sorted(used, key=lambda s: s.name)

    def _codecs_of(self, before: Manifest) -> Codecs:
        """Those that the dataset was made with; settings may name other copies of pretrained ones."""
        if found := describe_pretrained(self._pretrained):
            made = {"video": before.video_codec or None, "audio": before.audio_codec or None}
            require_same(self._pretrained, found, made, f"data.out={self._store.uri!r}")
        return before.video_codec, before.audio_codec

    def _codecs(self, used: Sequence[Source], looked: dict[str, Looked]) -> Codecs | None:
        """Pretrained codecs where the settings name them, embedded ones for the rest; None if no source can be used to fit these."""
        c = self._config
        found = describe_pretrained(self._pretrained)
        require_settings(self._pretrained, found, c.settings_of_codecs())
        if set(c.modalities) <= found.keys():
            return found.get("video", {}), found.get("audio", {})
        fitted = self._fit(used, looked)
        return fitted and (found.get("video", fitted[0]), found.get("audio", fitted[1]))

    def _fit(self, used: Sequence[Source], looked: dict[str, Looked]) -> Codecs | None:
        """The embedded codecs, fitted to a sample of the sources: the same of the same sources, in any order of listing. Those of which no
        clip can be used give their place to the next; None if there is none that can, with the reasons in `looked`.
        """
        c, measured, refused = self._config, dict[str, Measured](), dict[str, Looked]()
        kept = f".codecs-{_hash([c.shaping(), [[s.name, looked[s.name].content] for s in used]])[:16]}.json"
        if kept in self._store.names():
            video, audio = json.loads(self._store.fetch(kept).read_text(encoding="utf-8"))
            return video, audio
        drawn = sorted(used, key=lambda s: position_seed(c.seed, "fit", s.name))
        while drawn and (missing := c.codec_fit_sources - len(measured)) > 0:
            asked, drawn = drawn[:missing], drawn[missing:]
            rows = [{"source": source_to_json(s), "starts": json.dumps(looked[s.name].starts)} for s in asked]
            for row in self._spread(rows, Measure(c, self._trials), "measure codecs"):
                if row["moments"]:
                    measured[row["name"]] = unpack_moments(row["moments"])
                else:
                    refused[row["name"]] = looked_of(row["refused"])
        if not measured:
            looked |= refused
            return None
        codecs = fit(c, [measured[name] for name in sorted(measured)])
        write_bytes(self._store, kept, json.dumps(codecs).encode())
        return codecs

    def _make(
        self, used: Sequence[Source], looked: Mapping[str, Looked], codecs: Codecs, before: Manifest | None, scribes: dict[str, str]
    ) -> Receipts:
        """The parts of these sources, those that an earlier job made included."""
        items = [Item(s, looked[s.name].content, self._clips_in(s, looked[s.name]), looked[s.name].starts) for s in used]
        parts = parts_of(items, self._config.clip_bytes, _hash([self._config.shaping(), *codecs, scribes]))
        there, receipts = self._store.names(), Receipts([part.name for part in parts])
        keep, left = {entry.file for entry in before.shards} if before else set[str](), list[Part]()
        for part in parts:
            if receipt := finished(self._store, part, there):
                receipts.add(part.name, receipt.to_json())
                keep |= {part.receipt, *(entry.file for entry in receipt.shards)}
            else:
                left.append(part)
        self._clear({*keep, *(name for name in there if name.startswith((".survey-", ".codecs-")))})
        if left:
            video, audio = (codec if m in self._config.modalities and codec else None for m, codec in zip(MODALITIES, codecs, strict=True))
            with clip_encoder(video, audio, self._pretrained, self._config.encoders, self._config.latent_dtype, self._progress) as encoder:
                work = MakePart(self._config, encoder, self._store.uri, self._trials)
                for row in self._spread(Rows(left, part_row), work, "encode clips", TOGETHER):
                    receipts.add(row["part"], row["receipt"])
        return receipts

    def _commit(
        self,
        sources: Sequence[Source],
        looked: Mapping[str, Looked],
        receipts: Receipts,
        codecs: Codecs | None,
        account: Mapping[str, SourceLine],
        before: Manifest | None,
        scribes: dict[str, str],
        inputs: Sequence[str],
    ) -> Manifest:
        """Write what became of every source, and describe the shards; the dataset is not there before the manifest is written."""

        def lines() -> Iterator[SourceLine]:
            return lines_of(sources, looked, receipts, account)

        if not any(line.used for line in lines()):
            write_lines(self._store, SOURCES, lines())
            reasons = "; ".join(sorted({line.reason for line in lines()})[:3])
            raise ValueError(
                f"data.media={self._config.media!r}: none of its {len(account.keys() | looked.keys())} files can be used ({reasons}); "
                f"all reasons: {below(self._store.uri, SOURCES)}"
            )
        self._hold.require()
        if before is not None and not any(receipt.clips for receipt in receipts):
            # Before the account: a source that does not stand there yet is new to the next job.
            manifest = self._replaced(before, counted_anew(before, lines(), inputs))
            write_lines(self._store, manifest.account, lines())
            return manifest
        earlier = self._store.fetch(before.table) if before else None
        assert codecs is not None
        try:
            table = clips_in(earlier) if earlier else ()
            manifest = described(self._config, codecs, lines(), receipts, before, table, scribes, inputs)
        except ValueError:
            if before is None:
                write_lines(self._store, SOURCES, lines())
            raise
        write_lines(self._store, manifest.account, lines())
        measures = {measure for receipt in receipts for row in receipt.clips for measure, _ in row.found}
        rows = rows_of(receipts, clips_in(earlier) if earlier else ())
        write_rows(self._store, manifest.table, rows, measures.union(measures_in(earlier) if earlier else ()))
        if before is not None:
            write_bytes(self._store, f"manifest-{before.version}.json", before.to_json())
        if not any(is_pretrained(codec) for codec in codecs):
            draw_contact_sheet(self._store, manifest, clips_in(self._store.fetch(manifest.table)), self._progress)
        there = self._store.names()
        if lost := [entry.file for entry in manifest.shards if there.get(entry.file) != entry.bytes]:
            raise OSError(f"{self._store.uri}: {lost[0]} is not there any more; does another job write there? give the command again")
        self._hold.require()
        write_bytes(self._store, MANIFEST, manifest.to_json())
        return manifest

    def _clear(self, keep: Iterable[str]) -> None:
        """Of files of ours, keep these alone; another job's are none of ours."""
        self._hold.require()
        clear(self._store, keep)

    def _clips_in(self, source: Source, looked: Looked) -> int:
        """About how many clips a source makes; at least one."""
        t, c = self._config.timeline, self._config
        seconds = sum(span.end_s - span.start_s for span in source.spans) or looked.seconds
        return max(1, int((seconds * t.fps - t.frames(c.clip_chunks)) // (c.stride * t.chunk_frames)) + 1)

    def _spread(self, rows: Sequence[Row], work: Callable[[Row], Row], stage: str, together: int = 64) -> Iterator[Row]:
        return spread(rows, work, stage, self._config.pool, self._progress, self._hold.check, together, self._here)


def draw_characters(config: DataConfig, store: Store, progress: Progress) -> Path:
    """The corpus of talking characters beside the dataset, drawn if it is not there yet; for one in S3, in a folder that goes with this
    process."""
    t = config.timeline
    corpus = SyntheticConfig(
        config.synthetic_count, config.synthetic_seconds, config.width, config.height, t.fps, t.sample_rate, config.seed
    )
    folder = Scratch().folder / "media" if is_remote(store.uri) else Path(store.uri).parent / "media"
    write_corpus(corpus, make_folder("data.out", folder), progress=progress)
    return folder


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
