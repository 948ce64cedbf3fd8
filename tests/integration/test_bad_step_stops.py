"""A clip whose sound is not finite: the run stops, names the clip and its file, and `replay` finds the clip in that file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_material import command

from mutual_forcing.datasets.format.manifest import read_manifest
from mutual_forcing.datasets.format.shards import Shard, write_shard
from mutual_forcing.datasets.places.storage import sha256_file
from mutual_forcing.workers.bad_step import read_bad_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def break_one_clip(dataset: Path) -> str:
    """One number in the sound of a training clip becomes NaN, as if a codec had made it; returns the clip's id."""
    manifest = read_manifest(dataset)
    entry = manifest.shards[0]
    shard = Shard(dataset / entry.file)
    rows = [shard.row(i) for i in range(len(shard))]
    broken = next(i for i, row in enumerate(rows) if row.clip_id not in manifest.held_out)
    audio = rows[broken].get("audio").copy()
    audio[3, 1] = np.nan
    rows[broken] = replace(rows[broken], audio=audio)
    del shard
    write_shard(dataset / entry.file, rows)
    size, digest = (dataset / entry.file).stat().st_size, sha256_file(dataset / entry.file)
    replace(manifest, shards=(replace(entry, bytes=size, sha256=digest), *manifest.shards[1:])).write(dataset)
    return rows[broken].clip_id


def test_a_clip_that_is_not_finite_stops_the_run_and_is_found_again(tmp_path: Path) -> None:
    dataset, run = tmp_path / "data", tmp_path / "run"
    done = command("data", "prepare", "synthetic", "--recipe", "tiny", "--out", str(dataset))
    assert done.code == 0, done.error
    clip = break_one_clip(dataset)

    settings = ("workers.max_bad_steps=0", "workers.max_failures=0")
    stopped = command("train", "tiny", "--data", str(dataset), "--out", str(run), *(w for s in settings for w in ("--set", s)))
    assert stopped.code == 1
    [line] = stopped.errors
    for part in ("stage 'pretrain-audio'", "loss/fm_audio not finite", "workers.max_bad_steps=0", clip):
        assert part in line
    [file] = (run / "bad-steps").iterdir()  # of the rank that had the clip
    assert f"mutual-forcing replay {file}" in line
    header, _ = read_bad_step(file)
    assert clip in header["sample_ids"]

    logs = [path.read_text().splitlines()[-1] for path in sorted((run / "logs").iterdir())]
    for rank, last in enumerate(map(json.loads, logs)):
        assert (last["level"], last["rank"], last["stage"], last["step"]) == ("critical", rank, "pretrain-audio", header["step"])
        assert "FloatingPointError: stage 'pretrain-audio'" in last["exception"]

    replayed = command("replay", str(file))
    assert replayed.code == 0, replayed.error
    [position] = [p for p, name in zip(header["positions"], header["sample_ids"], strict=True) if name == clip]
    verdict = replayed.out.splitlines()[-1]
    assert verdict.startswith(f"first not finite: real latents, audio: clip {clip} (position {position}); ")
    assert re.search(r"fm +│ not finite", replayed.out)
    record = json.loads(command("replay", str(file), "--json").out)
    assert (record["first"], record["stage"], record["offending"]) == ("real latents, audio", "pretrain-audio", ["loss/fm_audio"])
