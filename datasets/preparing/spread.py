"""A stage's rows over the processes of a cluster: what Ray Data is asked for, and nothing of what is done there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, overload

import ray
import ray.data
from ray._private.utils import get_num_cpus
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from ..config import PoolConfig
from ..progress import Progress, silent
from .share import leave_to_others

Row = dict[str, Any]
T = TypeVar("T")
WOKEN, PATIENCE = 2, 10.0  # processes, and seconds in which they have imported what they need; others may hold the CPUs meanwhile


class Rows(Sequence[Row]):
    """Rows that are made when they are given away: all of them together would be as large again as what they are made of."""

    def __init__(self, things: Sequence[T], make: Callable[[T], Row]) -> None:
        self._things, self._make = things, make

    def __len__(self) -> int:
        return len(self._things)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return Rows(self._things[index], self._make) if isinstance(index, slice) else self._make(self._things[index])


def spread(
    rows: Sequence[Row],
    work: Callable[[Row], Row],
    stage: str,
    pool: PoolConfig,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
    together: int = 64,
    here: bool = False,
) -> Iterator[Row]:
    """What `work` makes of each row, in any order, on as many processes as the settings and the cluster allow. check: is called before each
    row that is given, and ends the stage where it raises. together: at most so many rows are lost with a process. Ray gives them to another
    one without end: work must see to it that each row comes to one (`trials.py`). here: on this machine alone, whether or not it has CPUs
    that Ray may give.
    """
    if not len(rows):
        return
    there, options = ray.cluster_resources(), pool.options
    if here:
        there, options = {"CPU": float(get_num_cpus())}, _here()  # of a container, what its limit allows
        pool = replace(pool, resource="")
    else:
        leave_to_others(progress)
    if pool.resource and not there.get(pool.resource):
        progress(f"wait for a node: none has data.pool.resource={pool.resource!r} now", 0, 1)
    _wake(options)
    cpus = int(there.get("CPU", 1))
    most = min(pool.most(there), len(rows))
    # Enough blocks to keep all processes busy, few enough that each is worth a task.
    blocks = min(len(rows), max(4 * max(most, cpus), -(-len(rows) // together)))
    dataset = ray.data.from_items(rows, override_num_blocks=blocks)  # type: ignore[arg-type]  # asks for one after the other
    progress(stage, 0, len(rows))
    if least := min(pool.min_workers, most):
        held = ActorPoolStrategy(min_size=least, max_size=most)
        made = dataset.map(Held, fn_constructor_args=(work,), compute=held, **options)  # type: ignore[arg-type]
    else:
        made = dataset.map(work, compute=TaskPoolStrategy(size=most), **options)
    for done, row in enumerate(made.iter_rows()):
        check()
        yield row
        progress(stage, done + 1, len(rows))


def _here() -> dict[str, Any]:
    """Of a task or an actor on this machine, as Ray takes them. It holds no CPU: Ray may have been told that this machine has none."""
    return {"num_cpus": 0, "label_selector": {"ray.io/node-id": ray.get_runtime_context().get_node_id()}}


def _wake(options: dict[str, Any]) -> None:
    """Have processes that wait for work import what it needs. Ray Data's own actors, which begin with the first dataset, else take them,
    and the first task waits for one that starts beside those.
    """
    import_all = ray.remote(**options)(_import)
    ray.wait([import_all.remote() for _ in range(WOKEN)], num_returns=WOKEN, timeout=PATIENCE)


def _import() -> None:
    from . import making  # noqa: F401


class Held:
    """A stage's work in an actor: a pool with bounds asks for a class."""

    def __init__(self, work: Callable[[Row], Row]) -> None:
        self._work = work

    def __call__(self, row: Row) -> Row:
        return self._work(row)
