"""The file of a skipped step: it comes back whole, or it is refused in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from bad_step_material import CHUNKS, IDS, OBJECTIVE, POSITIONS, STAGE, bad_step, with_exit, with_latent, without_exits
from safetensors.torch import save_file

from mutual_forcing.model.objective import ObjectiveConfig
from mutual_forcing.workers import bad_step as module
from mutual_forcing.workers.bad_step import FOLDER, MAX_HEADER, BadStep, bad_step_of, bad_step_path, read_bad_step, save_bad_step


def tensors_of(bad: BadStep) -> dict[str, torch.Tensor]:
    named = {f"real {m}": x for m, x in bad.batch.latents.items()} | bad.batch.controls.tensors()
    if bad.rollout is not None:
        named |= {f"history {m}": x for m, x in bad.rollout.history.items()}
        if bad.rollout.exit_state is not None and bad.rollout.exit_time_BK is not None:
            named |= {f"exit {m}": x for m, x in bad.rollout.exit_state.items()} | {"exit time": bad.rollout.exit_time_BK}
    return named | {f"{role} {name}": x for role, weights in bad.weights.items() for name, x in weights.items()}


def bits(x: torch.Tensor) -> bytes:
    """NaN equals itself by its bits alone."""
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def flow() -> BadStep:
    return bad_step("flow", modalities=("video",))


def no_exits() -> BadStep:
    bad = bad_step()
    assert bad.rollout is not None
    return replace(bad, rollout=without_exits(bad.rollout))


def half() -> BadStep:
    bad = flow()
    return replace(bad, weights=bad.weights | {"live": {name: x.bfloat16() for name, x in bad.weights["live"].items()}})


def padded() -> BadStep:
    bad, lengths = bad_step(), (CHUNKS, 1)
    return replace(bad, header=replace(bad.header, chunks_B=lengths), batch=replace(bad.batch, chunks_B=lengths))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = bad_step_path(tmp_path, bad_step().header.origin, 4)
    save_bad_step(path, bad_step())
    return path


@pytest.mark.parametrize(
    "make",
    [
        bad_step,
        flow,
        no_exits,
        half,
        padded,
        lambda: with_exit(with_latent(bad_step(), 0), 1),
        lambda: with_latent(bad_step(), 1, -torch.inf),
    ],
)
def test_everything_comes_back(tmp_path: Path, make: Callable[[], BadStep]) -> None:
    sent = make()
    path = bad_step_path(tmp_path, sent.header.origin, sent.header.step)
    save_bad_step(path, sent)
    about, tensors = read_bad_step(path)
    assert about == json.loads(json.dumps(asdict(sent.header)))
    came = bad_step_of(sent.header, tensors)
    assert (came.rollout is None) == (sent.rollout is None)
    if came.rollout is not None and sent.rollout is not None:
        assert (came.rollout.versions, came.rollout.samples) == (sent.rollout.versions, sent.rollout.samples)
    found, wanted = tensors_of(came), tensors_of(sent)
    assert found.keys() == wanted.keys()
    assert all(found[n].dtype == x.dtype and found[n].shape == x.shape and bits(found[n]) == bits(x) for n, x in wanted.items())
    assert (came.batch.positions, came.batch.sample_ids, came.batch.layout) == (POSITIONS, IDS, sent.batch.layout)
    assert came.batch.chunks_B == sent.batch.chunks_B


def test_its_name_tells_the_stage_the_step_and_the_rank(saved: Path, tmp_path: Path) -> None:
    assert saved == tmp_path / FOLDER / f"{STAGE}-4-rank1.safetensors"
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_writer_that_fails_leaves_the_earlier_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_way(tensors: object, file: str, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    before = saved.read_bytes()
    monkeypatch.setattr(module, "save_file", half_way)
    with pytest.raises(OSError, match="no space left"):
        save_bad_step(saved, flow())
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r"^bad step ") as found:
        read_bad_step(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize("share", [0, 1e-6, 0.01, 0.5, 0.999])
def test_a_file_cut_short(saved: Path, share: float) -> None:
    os.truncate(saved, int(share * saved.stat().st_size))
    refused(saved)


def test_no_flipped_bit_in_the_header_passes(saved: Path) -> None:
    whole = saved.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    text = whole.index(b'"__metadata__"')
    places = {*range(8), *range(text, text + 600, 5), *range(8, end, 97), end - 1}
    for place in sorted(places):
        if whole[place : place + 1] == b" ":
            continue  # padding
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 7)
        saved.write_bytes(damaged)
        refused(saved)


def test_a_flipped_bit_in_a_tensor(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-9] ^= 4
    saved.write_bytes(content)
    assert "damaged (its hash differs" in refused(saved)


def test_a_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2)}, str(path))
    assert "of another kind" in refused(path)
    path.write_bytes(b"once upon a time there was a clip")
    assert "is not such a file" in refused(path)
    path.write_bytes((MAX_HEADER + 1).to_bytes(8, "little") + b"{" * 100)
    assert f"would be {MAX_HEADER + 1} bytes" in refused(path)


def test_no_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.safetensors")
    assert "directory" in refused(tmp_path)


def test_another_format_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORMAT", 2)
    assert "has format 1, this release reads 2" in refused(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("weights/ema/branches.audio.out.bias"), None),  # the network finds it: test_replay
        (lambda t: [t.pop(n) for n in list(t) if n.startswith("weights/ema/")], "needs live and ema"),
        (lambda t: t.pop("controls/words_BWL"), "lacks latents, controls"),
        (lambda t: t.update({"rollout/history_audio": t["rollout/history_audio"][:, 1:]}), "'rollout/history_audio': is"),
        (lambda t: t.update({"batch/video": t["batch/video"][:1]}), "'batch/video': is"),
        (lambda t: t.pop("rollout/exit_time"), "lacks its versions or its exit times"),
        (lambda t: t.update({"weights/teacher/x": torch.zeros(1)}), "'teacher' is none of"),
        (lambda t: t.update({"batch/smell": torch.zeros(1)}), "'smell' is none of"),
        (lambda t: t.update({"x": torch.zeros(1)}), "'x': belongs to no part"),
    ],
)
def test_tensors_that_do_not_belong_together(saved: Path, change: Callable[[dict[str, torch.Tensor]], object], words: str | None) -> None:
    _, tensors = read_bad_step(saved)
    change(tensors)
    if words is None:
        assert bad_step_of(bad_step().header, tensors)
        return
    with pytest.raises(ValueError, match=words):
        bad_step_of(bad_step().header, tensors)


def test_a_clip_longer_than_its_latents_is_refused_before_anything_is_made(saved: Path) -> None:
    _, tensors = read_bad_step(saved)
    with pytest.raises(ValueError, match="'batch/video': is"):
        bad_step_of(replace(bad_step().header, chunks=CHUNKS * 10**9), tensors)


def test_the_objective_in_the_file_is_the_one_trained(saved: Path) -> None:
    about, _ = read_bad_step(saved)
    assert about["origin"]["setup"]["objective"] == json.loads(json.dumps(asdict(OBJECTIVE)))
    assert ObjectiveConfig() != OBJECTIVE
