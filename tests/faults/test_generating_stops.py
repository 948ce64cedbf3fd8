"""A clip that ends before its time: what was made is whole when a person ends it, and nothing is left when something breaks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_material import COMMAND, Running
from run_material import untrained_run
from test_refusals import namespace

from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, decode, probe
from mutual_forcing.datasets.places.storage import sha256_file

pytestmark = pytest.mark.slow
HOURS = ("--seconds", "7200", "--device", "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    untrained_run(folder)
    return folder


def frames_in(path: Path) -> int:
    return len(decode(path, probe(path), DecodeConfig()).frames)


def grown(folder: Path, size: int) -> Callable[[], bool]:
    """Whether a temporary file in there is so large."""
    return lambda: any(p.stat().st_size > size for p in folder.glob(".*.part.*"))


@pytest.mark.parametrize(("stop", "code"), [(Running.interrupt, 130), (Running.terminate, 143)])
def test_a_clip_that_a_person_stops_is_whole(run: Path, tmp_path: Path, stop: Callable[[Running], None], code: int) -> None:
    clip = tmp_path / "clip.mp4"
    with Running("generate", str(run), "--out", str(clip), *HOURS) as running:
        running.until(grown(tmp_path, 100_000), 120)
        assert not clip.exists()
        stop(running)
        answer = running.wait(60)
        assert not running.left_behind(5)
    assert answer.code == code, answer.error
    frames = frames_in(clip)
    assert frames > 24
    assert frames % 12 == 1, "whole chunks"
    assert answer.errors == [f"stopped: {frames / 24:.2f} s were made, and are whole in {clip}"]
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_many_clips_that_a_person_stops_are_kept_and_not_made_again(run: Path, tmp_path: Path) -> None:
    out, prompts = tmp_path / "out", tmp_path / "prompts.jsonl"
    rows = [{"seconds": 0.5}, {"seconds": 1}, {"seconds": 7200}]
    prompts.write_text("\n".join(map(json.dumps, rows)))
    words = ("generate", str(run), "--batch", str(prompts), "--out", str(out), "--device", "cpu", "--json")
    with Running(*words) as running:
        running.until(lambda: (out / "000002.mp4").exists() and grown(out, 50_000)(), 200)
        running.interrupt()
        answer = running.wait(60)
        assert not running.left_behind(5)
    assert answer.code == 130, answer.error
    assert answer.errors == ["stopped: clips that are finished are kept; the same command goes on"]
    assert sorted(p.name for p in out.iterdir()) == [".lock", "000001.mp4", "000002.mp4", "provenance.jsonl"]
    told = [json.loads(line) for line in (out / "provenance.jsonl").read_text().splitlines()]
    assert [(line["id"], line["sha256"]) for line in told] == [(n, sha256_file(out / f"{n}.mp4")) for n in ("000001", "000002")]
    prompts.write_text("\n".join(map(json.dumps, [*rows[:2], {"seconds": 0.5}])))
    with Running(*words) as running:
        answer = running.wait(200)
    assert json.loads(answer.out)["kept"] == 2, answer.error
    assert "core_worker" not in answer.error, "no line of Ray's own"
    assert sorted(p.name for p in out.iterdir()) == [".lock", "000001.mp4", "000002.mp4", "000003.mp4", "provenance.jsonl"]


def test_standard_output_gets_a_film_and_nothing_else(run: Path, tmp_path: Path) -> None:
    words = [str(COMMAND), "generate", str(run), "--out", "-", "--seconds", "3", "--device", "cpu", "--json"]
    done = subprocess.run(words, capture_output=True, timeout=120, check=True)
    (tmp_path / "clip.mp4").write_bytes(done.stdout)
    assert frames_in(tmp_path / "clip.mp4") == 73
    assert b'"file": "-"' in done.stderr


def test_a_reader_who_leaves_ends_it(run: Path) -> None:
    words = [str(COMMAND), "generate", str(run), "--out", "-", *HOURS]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.read(20_000)[4:8] == b"ftyp"
        child.stdout.close()
        said = child.stderr.read().decode()
        assert child.wait(60) == 1
    assert "error: --out=-: nobody reads standard output any more, after" in said
    assert "Traceback" not in said


def test_a_disk_that_fills_up_in_the_middle_of_a_clip_is_named(run: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    prefix = namespace("-m", f"mount -t tmpfs -o size=400k tmpfs {disk}")
    script = f'"$@"; code=$?; echo "left: $(ls -A {disk})"; exit $code'
    words = [*prefix, "sh", "-c", script, "sh", str(COMMAND), "generate", str(run), "--out", str(disk / "clip.mp4"), *HOURS]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.strip() == "left:"
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: clip.mp4: ffmpeg could not write it")
    assert "No space left on device" in line
    assert line.endswith("make room or choose another folder; nothing was finished; give the command again to start over")
