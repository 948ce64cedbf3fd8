"""New processes for a test, forked from a server that has imported once what would take each of them ten seconds."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from torch.multiprocessing.spawn import start_processes

IMPORTED = ["pytest", "moto.moto_server.werkzeug_app", "mutual_forcing.orchestration.run_record", "mutual_forcing.workers.train_loop"]


def run_processes(work: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """`work(rank, *arguments)` in so many processes, all of which end when one fails.

    Raises:
        ProcessExitedException, ProcessRaisedException: of the first that failed.
    """
    multiprocessing.set_forkserver_preload(IMPORTED)
    start_processes(_one, (work, arguments, dict(os.environ)), count, start_method="forkserver")


def _one(rank: int, work: Callable[..., None], arguments: tuple[Any, ...], environment: dict[str, str]) -> None:
    """The server has the environment of the test that was first."""
    os.environ.clear()
    os.environ.update(environment)
    work(rank, *arguments)
