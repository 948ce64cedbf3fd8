"""Training that takes its clips as they are decoded, killed within a pass and begun again: each clip once a pass, none held out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_material import Running, command

from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, write_corpus
from mutual_forcing.datasets.format.account import read_account
from mutual_forcing.datasets.format.clip_table import read_clips
from mutual_forcing.datasets.format.manifest import open_manifest
from mutual_forcing.datasets.ledger import Update, head_of, read_chain
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.workers.checkpoint import newest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, BATCH = 24, 4


def ledger(run: Path) -> list[Update]:
    store = LocalStore(run / "checkpoints")
    last = newest(store, "joint")
    return [] if last is None else read_chain(store, head_of(last.manifest["ledger"]))


def test_a_killed_stream_goes_on_in_the_pass_that_it_was_in(tmp_path: Path) -> None:
    media, run = tmp_path / "media", tmp_path / "run"
    write_corpus(SyntheticConfig(20, 2.6, 32, 32, seed=3), media)
    shutil.copy(sorted(media.glob("*.mp4"))[0], media / "copy.mp4")
    (media / "broken.mp4").write_bytes(b"no film")
    words = (
        "train",
        "tiny",
        "--media",
        str(media),
        "--out",
        str(run),
        "--set",
        "data.stream_sources=5",
        "--set",
        f"stages.joint.steps={STEPS}",
    )
    words = (*words, "--set", "checkpoint.every=2", "--set", "data.stream_shuffle=4")
    with Running(*words) as first:
        first.until(lambda: len(ledger(run)) >= 4, 400)
        first.kill()
    before = ledger(run)
    assert 4 <= len(before) < STEPS
    said = command(*words, seconds=600)
    assert said.code == 0, said.errors
    assert "gave no clip" in said.error, said.error
    assert "by their positions" in said.error, said.error

    after = ledger(run)
    assert after[: len(before)] == before
    assert len(after) == STEPS
    manifest = open_manifest(run / "data" / "manifest.json")
    table = read_clips(run / "data" / manifest.table)
    held = {clip.source for clip in table if clip.clip_id in set(manifest.held_out)}
    twins = 2 * 2  # a source that is there twice, unless it is held out
    by_pass: dict[int, list[str]] = {}
    for update in after:
        for clip, number in zip(update.clips, update.passes, strict=True):
            by_pass.setdefault(number, []).append(clip)
    assert not set(manifest.held_out) & {clip for clips in by_pass.values() for clip in clips}
    assert len(by_pass) > 1, "it must have gone into a second pass"
    for clips in by_pass.values():
        assert len(clips) - len(set(clips)) <= twins / 2
    whole = by_pass[0]
    refused = {line.path: line.reason for line in read_account(run / "streamed.jsonl") if not line.used}
    apart = {path for path, reason in refused.items() if reason == "held out"}
    assert refused.keys() - apart == {"broken.mp4"}
    sources = 20 - len(held | apart - {"copy.mp4"})
    assert len(set(whole)) >= 2 * sources - 1, "all clips but one that had no worker to go to"

    verdict = command("audit", str(run), "--json")
    assert verdict.code == 0, verdict.errors
    joint = next(r for r in json.loads(verdict.out) if r["stage"] == "joint")
    assert joint["faults"] == []
    assert joint["clips"] == STEPS * BATCH
    assert command("data", "audit", str(run / "data"), "--run", str(run)).code == 0


def test_streaming_needs_media() -> None:
    said = command("train", "tiny", "--data", "/nowhere", "--set", "data.stream_sources=5")
    assert said.code != 0
    assert "data.stream_sources=5" in said.errors[-1]
