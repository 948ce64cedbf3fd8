"""Start, run and shut down: data -> one `fit()` over all stages -> samples -> report, all in one run folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray.train

from ..datasets.adopt import adopt_mix
from ..datasets.format.manifest import MANIFEST
from ..datasets.pipeline import prepare
from ..datasets.places.lock import locked
from ..datasets.places.storage import make_folder, write_json
from ..datasets.places.store import is_remote
from ..datasets.progress import Progress
from ..datasets.reading.members import members_of
from ..datasets.redaction import redacted, without_secrets
from ..datasets.transfer import source_of
from ..model.types import MODALITIES
from ..workers.checkpoint import is_finished
from .config import RunConfig
from .evaluation.at_end import judge_at_end
from .evaluation.course import course_of, is_left
from .fit import fit
from .generation.samples import make_samples, open_generator
from .mirror import mirrored
from .preflight import awaited, examine, in_one_line
from .report.page import build_report
from .restore import MOVED, restore
from .run_folder import JOB_REMOTE, JOB_RUN, NOTE, RUN, require_ours, shown_files
from .run_record import claim, loop_config
from .session import ray_session, uninterrupted
from .shared_folder import require_shared
from .spool_watcher import Say
from .stage_ends import StageEnds
from .tracking import Tracker


def train(
    config: RunConfig, run_dir: Path, commands: list[str], progress: Progress, warn: Callable[[str], None], say: Say = lambda _: None
) -> bool:
    """The whole main job in `run_dir`; returns whether there was anything to do. What an earlier, interrupted call finished is reused.

    Raises:
        ValueError: bad input, or the folder holds a run of another configuration, or of data that have changed.
    """
    if restore(config.remote, config.settings(), run_dir, progress):
        warn(f"the run in {config.remote.uri} was brought to {str(run_dir)!r}, and goes on here; let no other machine work on it")
    preflight(config, run_dir, warn)  # before minutes of preparing data, and before a mistyped folder claims the run folder
    make_folder("run", run_dir)
    require_ours(run_dir)
    with locked("run folder", run_dir):
        record = claim(config, run_dir, commands)
        with mirrored(config.remote, run_dir, not is_remote(config.data.prepared), warn):
            return _train(config, run_dir, record, progress, warn, say)


def preflight(config: RunConfig, run_dir: Path, warn: Callable[[str], None]) -> None:
    """See that the run can start.

    Raises:
        ValueError: it cannot; all problems are named.
    """
    findings = examine(config, run_dir)
    problems = [f.text for f in findings if f.kind == "problem"]
    for finding in findings:
        if finding.kind == "warning":
            warn(finding.text)
    if problems:
        raise ValueError(in_one_line(problems))


def _train(config: RunConfig, run_dir: Path, record: dict[str, Any], progress: Progress, warn: Callable[[str], None], say: Say) -> bool:
    begin = time.monotonic()
    loop = loop_config(config, run_dir)
    todo = [s.name for s in config.stages if not is_finished(loop.checkpoints, s.name)]
    done = not todo and record.get("finished") and (run_dir / "report.html").is_file()
    if done and record.get("tracked", True):
        return False
    late = not todo and is_left(config, loop)
    for name in MODALITIES:
        if todo and (width := config.model.branch(name).caption_features):
            warn(f"model.{name}.caption_features={width}: prepared clips hold no such features yet, so the {name} branch reads no captions")

    ends = StageEnds(loop.checkpoints, run_dir / "metrics", {s.name: s.steps for s in config.stages})
    ends.look()
    tracker = Tracker(run_dir, config.name, [s.name for s in config.stages], ends.ended, warn)
    spent, status = record["total_seconds"], "FAILED"

    def keep() -> None:
        """Write the record as it is now: an interrupted run continues from it."""
        run_id = tracker.run_id or record.get("mlflow", {}).get("run_id")  # the store may be away now, and was not before
        record["mlflow"] = {"tracking_uri": redacted(tracker.uri), "run_id": run_id}
        record["tracked"] = tracker.complete
        record["stages"] = ends.look()
        record["total_seconds"] = round(spent + time.monotonic() - begin, 1)
        record["finished"] = status == "FINISHED"
        write_json(run_dir / RUN, record)

    try:
        tracker.open(asdict(config), {"config_hash": config.settings(), "mlflow.note.content": NOTE})
        if done:  # and trained, but the store was away
            for file in shown_files(run_dir):
                tracker.artifact(*file)
            status = "FINISHED"
            return False
        keep()
        if todo or late or not (loop.data / MANIFEST).is_file():
            with ray_session(about={JOB_RUN: str(run_dir), JOB_REMOTE: config.remote.uri}):
                for text in awaited(config, ray.cluster_resources()):
                    warn(text)
                if todo and os.environ.get("RAY_ADDRESS"):
                    require_shared(config, run_dir)
                _dataset(config, loop.data, record, progress)
                source = source_of(config.data_uri, loop.data)
                keep()
                if todo or late:
                    tracker.follow()
                    about = {"config": asdict(config), "settings": config.settings(), "mlflow_run_id": tracker.run_id, **_code(record)}
                    whole = replace(loop, about=json.loads(json.dumps(about)), source=source)
                    with course_of(config, whole, run_dir, progress, warn, say, tracker.later):
                        if todo:
                            fit(config, whole, run_dir, progress, warn, say)
        shutil.rmtree(run_dir / "samples", ignore_errors=True)  # those of other settings
        make_samples(open_generator(loop, config), run_dir, progress)
        judge_at_end(config.samples, run_dir, progress, warn)
        keep()
        build_report(run_dir, progress)
        for file in shown_files(run_dir):
            tracker.artifact(*file)
        status = "FINISHED"
        return True
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with uninterrupted():
            ends.look()  # the tracker, which asks it, gives each stage its status
            tracker.finish(status)
            keep()


def _dataset(config: RunConfig, data: Path, record: dict[str, Any], progress: Progress) -> None:
    """Have the run's dataset in its folder; what it holds is the same as long as the run goes on."""
    if MOVED in record and (data / MANIFEST).is_file():  # what it was made of is on another machine, or has other times here
        contents = members_of(data)[0].manifest(progress=progress).contents()
    else:
        contents = prepare(config.data, data, progress).contents()
        if config.data.mix:
            adopt_mix(config.data, config.data.mix, data, progress, config.data.cache_gb)
    if record.setdefault("dataset", contents) != contents:
        raise ValueError(f"run {str(data.parent)!r}: its data hold other clips than when it was begun; start another run with --out")


def _code(record: dict[str, Any]) -> dict[str, Any]:
    """What the run was begun with: commit and versions."""
    return {name: record[name] for name in ("git_commit", "git_dirty", "versions") if name in record}


def command_line() -> str:
    """The command that started this process, as a user would type it, but for secrets: records of runs keep it."""
    return without_secrets(shlex.join(["mutual-forcing", *sys.argv[1:]]))
