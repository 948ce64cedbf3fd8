"""When skipped steps stop the run: which ranks save their step, and what every rank says."""

from __future__ import annotations

import shlex
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist
from bad_step_material import bad_step
from processes_material import run_processes

from mutual_forcing.workers.bad_step import FOLDER, bad_step_path, read_bad_step
from mutual_forcing.workers.checkpoint import Weights
from mutual_forcing.workers.step_guard import StepGuard, offending
from mutual_forcing.workers.train_step import Metrics

WORLD, MOST = 2, 1
NAN = float("nan")


def see_three(rank: int, folder: str, metrics: Metrics, run_dir: str = "") -> str:
    """Two skipped steps with a good one between them, then one more: what the guard says at the end, and the weights it asked for."""
    bad = bad_step()
    asked: list[bool] = []

    def weights(keep: bool) -> dict[str, Weights]:
        asked.append(keep)
        return bad.weights if keep else {}

    guard = StepGuard(Path(folder), Path(run_dir or folder), replace(bad.header.origin, rank=rank), MOST, weights)
    for step, skipped in enumerate((True, False, True)):
        guard.see(step, metrics, skipped, bad.batch, bad.rollout)
    assert not asked
    with pytest.raises(FloatingPointError) as found:
        guard.see(3, metrics, True, bad.batch, bad.rollout)
    assert len(asked) == 1
    return str(found.value)


def worker(rank: int, folder: str, metrics: list[Metrics]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    (Path(folder) / f"{rank}.txt").write_text(see_three(rank, folder, metrics[rank]))
    dist.barrier()
    dist.destroy_process_group()


CASES: dict[str, tuple[list[Metrics], list[tuple[str, ...]]]] = {
    "one rank's losses": ([{"loss/fm_video": 1.0}, {"loss/fm_video": NAN, "grad/fm_video": NAN}], [(), ("grad/fm_video", "loss/fm_video")]),
    "only the gradient": ([{"loss/fm_video": 1.0, "grad_norm": NAN}] * 2, [("grad_norm",), ("grad_norm",)]),
    "the fake score": ([{"loss/fm_video": 1.0, "grad_norm": 1.0, "grad_norm_fake": NAN}] * 2, [("grad_norm_fake",), ("grad_norm_fake",)]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_ranks_to_blame_save_and_all_stop(tmp_path: Path, case: str) -> None:
    metrics, blamed = CASES[case]
    run_processes(worker, (str(tmp_path), metrics), WORLD)
    origin = bad_step().header.origin
    files = [bad_step_path(tmp_path, replace(origin, rank=rank), 3) for rank in range(WORLD) if blamed[rank]]
    assert sorted((tmp_path / FOLDER).iterdir()) == files
    assert [read_bad_step(file)[0]["bad"] for file in files] == [list(names) for names in blamed if names]
    for rank in range(WORLD):
        said, mine = (tmp_path / f"{rank}.txt").read_text(), rank if blamed[rank] else 1
        assert f"step 3, rank {mine}: {', '.join(blamed[mine])} not finite, 2 steps in a row" in said
        assert "clips c0ffee, decade;" in said
        assert shlex.join(["mutual-forcing", "replay", str(bad_step_path(tmp_path, replace(origin, rank=mine), 3))]) in said
        assert "\n" not in said


def test_a_file_that_cannot_be_written_does_not_hide_the_cause(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        (tmp_path / FOLDER).write_text("in the way")
        said = see_three(0, str(tmp_path), {"loss/fm_video": NAN})
    finally:
        dist.destroy_process_group()
    assert "loss/fm_video not finite" in said
    assert "could not be saved (run=" in said
    assert "cannot create this folder" in said


def test_a_machine_apart_names_the_run_folder_and_its_own(tmp_path: Path) -> None:
    here, run = tmp_path / "here", tmp_path / "run"
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        said = see_three(0, str(here), {"loss/fm_video": NAN}, str(run))
    finally:
        dist.destroy_process_group()
    (saved,) = (here / FOLDER).iterdir()
    assert shlex.join(["mutual-forcing", "replay", str(run / FOLDER / saved.name)]) in said
    assert f"it is in {here} of {socket.gethostname()}" in said
    assert not run.exists()


def test_only_losses_and_gradients_are_to_blame() -> None:
    elsewhere: Metrics = {"loss": NAN, "grad_norm": NAN, "health/motion": NAN, "probe/loss": NAN}
    assert offending(elsewhere | {"loss/fm_video": 1.0}) == ()
    assert offending(elsewhere | {"loss/sc_audio": NAN, "loss/fm_video": 1.0, "grad/sc_audio": NAN}) == ("grad/sc_audio", "loss/sc_audio")
