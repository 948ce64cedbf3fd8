"""What an actor takes of a machine: fields that sections of the settings share, checked and as Ray wants them."""

from __future__ import annotations

from typing import Any, Protocol


class Takes(Protocol):
    """threads: of torch; cpus, gpus: logical ones of Ray's, gpus in fractions too; resource: a custom one of nodes (empty: none)."""

    @property
    def threads(self) -> int: ...

    @property
    def cpus(self) -> float: ...

    @property
    def gpus(self) -> float: ...

    @property
    def resource(self) -> str: ...


def ray_options(takes: Takes) -> dict[str, Any]:
    """Ray's options of an actor."""
    return {
        "num_cpus": takes.cpus,
        "num_gpus": takes.gpus,
        "resources": {takes.resource: 1} if takes.resource else {},
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(takes.threads)}},
    }


def taken(takes: Takes) -> dict[str, float]:
    """Resources of Ray's that one actor takes."""
    return {"CPU": takes.cpus, "GPU": takes.gpus} | ({takes.resource: 1.0} if takes.resource else {})


def require_gpus(section: str, gpus: float) -> None:
    """Raises ValueError where Ray would refuse so many GPUs later."""
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"{section}.gpus={gpus}: must be a share of one GPU, or whole ones")
