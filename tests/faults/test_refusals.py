"""What the system refuses, and what a run folder holds that must not be trusted: one line that names it, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from checkpoint_material import save_stage
from command_material import Running, Said, command

from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, write_corpus
from mutual_forcing.datasets.places.storage import write_json
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.orchestration.generation.generating import generate_clip
from mutual_forcing.orchestration.generation.prompts import Wishes
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.run_record import loop_config

CONFIG = recipe("tiny")
CHECK_PORTS = (sys.executable, "-c", "from mutual_forcing.orchestration.session import check_ports; check_ports()")
LOOPBACK_DOWN = "true"
ONE_PORT = "ip link set lo up && echo 60000 60000 >/proc/sys/net/ipv4/ip_local_port_range"


def namespace(kind: str, prepare: str) -> tuple[str, ...]:
    """Words that run a command in a namespace of its own, after the shell has done `prepare` there."""
    words = ("unshare", kind, "sh", "-ec", f'{prepare}; exec "$@"', "sh")
    if (
        sys.platform != "linux"
        or not shutil.which("unshare")
        or subprocess.run([*words, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"this system does not let us make a namespace with: {prepare}")
    return words


def assert_refused(answer: Said, *parts: str) -> None:
    """One line of failure; progress may stand before it."""
    assert answer.code == 1, answer.error
    assert len(answer.errors) == 1, answer.error
    assert answer.error.splitlines()[-1] == answer.errors[0]
    assert "Traceback" not in answer.error
    for part in parts:
        assert part in answer.errors[0]


@pytest.mark.parametrize("place", ["below a file", pytest.param("in /proc", marks=pytest.mark.slow)])
def test_a_run_folder_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    run = {"below a file": tmp_path / "file" / "run", "in /proc": Path("/proc/run")}[place]
    assert_refused(command("train", "tiny", "--out", str(run)), f"--out={str(run)!r}", "cannot be written to", "choose another")


@pytest.mark.slow
def test_a_run_folder_on_a_read_only_disk(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    words = namespace("-m", f"mount --bind {run} {run} && mount -o remount,ro,bind {run}")
    assert_refused(
        command("train", "tiny", "--out", str(run), prefix=words), f"--out={str(run)!r}", "cannot be written to", "Read-only file system"
    )
    assert not list(run.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", ["1200k", "1800k", "3m"])
def test_a_full_disk_stops_the_run_and_room_lets_it_finish(tmp_path: Path, size: str) -> None:
    """Of the data, the clips or the report, not of the training: steps go on without room. The disk exists in the command's namespace
    alone, so one shell runs the command, makes room, and runs it again.
    """
    disk, first = tmp_path / "disk", tmp_path / "first"
    disk.mkdir()
    twice = f'"$@" 2>{first} && exit 9; mount -o remount,size=100m {disk}'
    words = namespace("-m", f"mount -t tmpfs -o size={size} tmpfs {disk}")
    elsewhere = ("--set", f"checkpoint.uri={tmp_path / 'checkpoints'}")  # or preflight would see it coming
    shell = (*words, "sh", "-c", f'{twice}; exec "$@"', "sh")
    answer = command("train", "tiny", "--out", str(disk / "run"), *elsewhere, prefix=shell, seconds=500)
    assert answer.code == 0, first.read_text() + answer.error
    assert_refused(Said(1, "", first.read_text()), "No space left on device", "make room")


@pytest.mark.slow
@pytest.mark.parametrize("size", ["100k", "250k"])
def test_a_full_disk_stops_data_preparation_and_room_lets_it_finish(tmp_path: Path, size: str) -> None:
    """A worker meets it first: what a task of Ray Data raised comes to the terminal as it was raised there."""
    disk, first = tmp_path / "disk", tmp_path / "first"
    disk.mkdir()
    words = namespace("-m", f"mount -t tmpfs -o size={size} tmpfs {disk}")
    shell = (*words, "sh", "-c", f'"$@" 2>{first} && exit 9; mount -o remount,size=100m {disk}; exec "$@"', "sh")
    media = tmp_path / "media"
    write_corpus(SyntheticConfig(count=4, seconds=2.6), media)
    answer = command("data", "prepare", str(media), "--recipe", "tiny", "--out", str(disk / "data"), prefix=shell, seconds=250)
    assert answer.code == 0, first.read_text() + answer.error
    assert_refused(Said(1, "", first.read_text()), "No space left on device", "make room")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_disk_that_is_full_for_a_while_costs_a_training_no_step_and_no_line(tmp_path: Path) -> None:
    disk, steps, kept = tmp_path / "disk", 60, tmp_path / "kept"
    disk.mkdir()
    spool, full = disk / "run" / "metrics" / "mutual.jsonl", tmp_path / "full"
    until = f"until [ $(wc -l <{spool} || echo 0) -ge 3 ]; do sleep 0.1; done 2>/dev/null"
    fill = f"dd if=/dev/zero of={disk}/fill bs=512 2>/dev/null; wc -l <{spool} >{full}; sleep 4; wc -l <{spool} >>{full}; rm {disk}/fill"
    words = (*namespace("-m", f"mount -t tmpfs -o size=60m tmpfs {disk}"), "sh", "-c")
    script = f'({until}; {fill} || true) & "$@"; code=$?; cp -r {disk}/run/metrics {kept}; exit $code'
    settings = (f"checkpoint.uri={tmp_path / 'checkpoints'}", f"stages.mutual.steps={steps}", "workers.max_failures=0")
    chosen = [word for setting in settings for word in ("--set", setting)]
    answer = command("train", "tiny", "--out", str(disk / "run"), *chosen, prefix=(*words, script, "sh"), seconds=500)
    assert answer.code == 0, answer.error
    first, last = (int(count) for count in full.read_text().split())
    assert first >= 3
    assert last - first <= 8, "the disk was not full: some lines may have had room"
    assert last < steps, "the training was over before"
    lines = [json.loads(line) for line in (kept / "mutual.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["metrics"]] == list(range(steps))


@pytest.mark.slow
def test_a_disk_too_small_for_the_checkpoints_is_refused_before_it_starts(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    words = namespace("-m", f"mount -t tmpfs -o size=3m tmpfs {disk}")
    assert_refused(command("train", "tiny", "--out", str(disk / "run"), prefix=words), "disk: checkpoints take up to", "make room")


@pytest.mark.parametrize(("prepare", "reason"), [(LOOPBACK_DOWN, "Network is unreachable"), (ONE_PORT, "Address already in use")])
def test_ports_that_ray_needs_are_looked_for_first(prepare: str, reason: str) -> None:
    done = subprocess.run([*namespace("-n", prepare), *CHECK_PORTS], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: network: ")
    assert reason in last
    assert "ip_local_port_range" in last


@pytest.mark.slow
def test_a_run_without_a_free_port_ends_at_once(tmp_path: Path) -> None:
    with Running("train", "tiny", "--out", str(tmp_path / "run"), prefix=namespace("-n", ONE_PORT)) as running:
        answer = running.wait(120)
        assert not running.left_behind(5)
    assert_refused(answer, "cannot open 32 TCP ports", "Address already in use", "net.ipv4.ip_local_port_range")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with one finished stage, before any damage."""
    torch.manual_seed(0)
    loop = loop_config(CONFIG, tmp_path)
    weights = AVTransformer(CONFIG.model, CONFIG.data.timeline).state_dict()
    write_json(tmp_path / "run.json", {"config": asdict(CONFIG)})
    save_stage(loop.checkpoints, "joint", 6, loop.architecture(), {"ema": weights})
    return tmp_path


def refusal(run: Path) -> str:
    clip = run / "clip.mp4"
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the callers look at the text
        generate_clip(str(run), str(clip), Wishes(seconds=1.0))
    assert not clip.exists()
    return str(refused.value)


def test_an_undamaged_checkpoint_is_not_what_is_refused(run: Path) -> None:
    assert "dataset manifest" in refusal(run)  # it comes after the checkpoint, and this run has none


@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_generate_from_a_damaged_checkpoint(run: Path, damage: str) -> None:
    (file,) = (run / "checkpoints" / "joint").glob("*/ema.*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        os.truncate(file, len(content) // 2)
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    said = refusal(run)
    assert str(file) in said
    assert "damaged" in said
    assert f"remove {file.parent} and train on from the one before" in said


def test_generate_from_a_checkpoint_of_another_architecture(run: Path) -> None:
    loop = loop_config(CONFIG, run)
    other = loop.architecture() | {"model.depth": 5}
    save_stage(loop.checkpoints, "joint", 6, other, {"ema": {"x": torch.zeros(1)}}, attempt="ffffffff")
    said = refusal(run)
    assert f"model.depth=5, this run has model.depth={CONFIG.model.depth}" in said
    assert "another run folder" in said


def test_the_command_says_so_in_one_line(run: Path) -> None:
    next((run / "checkpoints" / "joint").glob("*/ema.*.safetensors")).write_bytes(b"")
    answer = command("generate", str(run), "--out", str(run / "clip.mp4"))
    assert_refused(answer, "damaged", "train on from the one before")
    assert not (run / "clip.mp4").exists()
