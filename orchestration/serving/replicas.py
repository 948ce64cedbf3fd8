"""Studios as deployments of Ray Serve: each with a copy of the model, in a process of its own, started again when it dies.

    viewers -> this process: HTTP, who may enter, which studio --handle--> studio-0: model, batches
                                                               --handle--> studio-1: ...            on any machine of the cluster

HTTP stays out of Ray Serve's proxy, which reads a replica's answer into a queue without end: a viewer who reads slowly would fill it. Here
each piece is fetched by a call of its own, when its viewer wants it. A studio is a deployment with one replica, not one of many replicas
of one: a stream lives where it was started, and calls for it must go there.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from ..session import ray_session
from .limits import Limits, Refused
from .stream_request import StreamRequest
from .studio import About, LocalStudio, ModelSource
from .viewer import Piece

APPLICATION = "mutual-forcing-{}"
CALLS = 16  # at once for each viewer: pieces are waited for, status and words come besides
END_S = 5.0
# How long an answer may take: a call to a replica that has died would wait for the one that is started in its place.
ABOUT_S, ANSWER_S = 2.0, 5.0
CHUNK_S = 30.0  # of what is done between two chunks


class StudioReplica:
    """A `LocalStudio` behind a handle."""

    def __init__(self, source: ModelSource, limits: Limits, number: int) -> None:
        self._studio = LocalStudio(source.open, limits, number)

    async def call(self, method: str, *arguments: Any) -> Any:
        return await getattr(self._studio, method)(*arguments)

    def check_health(self) -> None:
        """Raises what ended the thread that makes streams: Ray Serve then starts another replica."""
        if (broken := self._studio.batches.broken) is not None:
            raise RuntimeError("the thread that makes streams has ended") from broken

    def __del__(self) -> None:
        if hasattr(self, "_studio"):
            self._studio.close()


class RemoteStudio:
    """A studio in a replica. Raises as a local one; `Refused` (503) when the replica is away."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def start(self, request: StreamRequest, address: str) -> dict[str, Any]:
        return await self._call(ANSWER_S, "start", request, address)

    async def piece(self, name: str, number: int, wait_s: float) -> Piece:
        return await self._call(wait_s + ANSWER_S, "piece", name, number, wait_s)

    async def say(self, name: str, text: str) -> list[tuple[str, float, float]]:
        return await self._call(CHUNK_S, "say", name, text)

    async def caption(self, name: str, text: str) -> None:
        await self._call(CHUNK_S, "caption", name, text)

    async def stop(self, name: str) -> None:
        await self._call(CHUNK_S, "stop", name)

    async def status(self, name: str) -> dict[str, Any]:
        return await self._call(ANSWER_S, "status", name)

    async def about(self) -> About:
        return await self._call(ABOUT_S, "about")

    async def _call(self, seconds: float, method: str, *arguments: Any) -> Any:
        try:
            return await asyncio.wait_for(self._handle.call.remote(method, *arguments), seconds)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, Refused | ValueError):
                raise cause from None
            raise
        except (RayError, RayServeException, TimeoutError) as error:
            raise Refused(503, f"a replica does not answer ({type(error).__name__}); try again when it has started anew", 10) from error


@contextmanager
def replicas(source: ModelSource, limits: Limits, count: int) -> Iterator[Sequence[RemoteStudio]]:
    """Start them on the cluster that RAY_ADDRESS names, or on this machine, each with a GPU where it has some; they end with the block.

    Raises:
        ValueError: Ray could not start, or has no room for them.
    """
    with ExitStack() as whole, ray_session():
        gpus = gpus_each(source.device, count, ray.cluster_resources())
        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what it does stays in Ray's log files
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR", "enable_access_log": False})
        try:
            targets = [
                serve.RunTarget(_deployed(source, limits, i, gpus), name=APPLICATION.format(i), route_prefix=None) for i in range(count)
            ]
            yield [RemoteStudio(handle) for handle in serve.run_many(targets)]
        finally:
            # Ray prints, until it has ended, that calls to the controller that is ended here have failed.
            whole.enter_context(redirect_stdout(io.StringIO()))
            serve.shutdown()


def gpus_each(device: str, count: int, have: Mapping[str, float]) -> int:
    """How many GPUs each of `count` replicas takes of a cluster's resources: this machine may have none, and the cluster some.

    Raises:
        ValueError: the cluster has none where one is asked for, or not one for each: Ray would wait for the rest without end.
    """
    gpus = 0 if device == "cpu" else int(have.get("GPU", 0))
    if device.startswith("cuda") and not gpus:
        raise ValueError(f"--device={device}: the cluster has no GPU; choose auto or cpu")
    if 0 < gpus < count:
        raise ValueError(f"--replicas={count}: the cluster has {gpus} GPUs, and each takes one; give --replicas {gpus}, or --device cpu")
    return int(gpus > 0)


def _deployed(source: ModelSource, limits: Limits, number: int, gpus: int) -> serve.Application:
    deployment = serve.deployment(StudioReplica).options(  # type: ignore[call-overload]
        name="studio",
        num_replicas=1,
        max_ongoing_requests=CALLS * limits.viewers,
        graceful_shutdown_timeout_s=END_S,
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus},
    )
    return deployment.bind(source, limits, number)
