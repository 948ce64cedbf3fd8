"""The verb `serve`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ..command import Debug, Set, console, run_verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .limits import Limits
    from .studio import ModelSource, Studio

TOKEN = "MUTUAL_FORCING_TOKEN"


def serve(
    checkpoint: Annotated[str, typer.Argument(help="RUN, RUN@best, RUN@STAGE, a folder below RUN/checkpoints, or an exported one.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; other than loopback's only with a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8000,
    token: Annotated[str | None, typer.Option("--token", help=f"Asked of every request (better in the environment: {TOKEN}).")] = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="Host name that browsers may use for it (repeatable).")] = None,
    replicas: Annotated[
        int, typer.Option("--replicas", min=0, max=256, help="Copies of the model, by Ray Serve; 0: one in this process, without Ray.")
    ] = 1,
    viewers: Annotated[int, typer.Option("--viewers", help="Streams at once of a copy.")] = 8,
    per_address: Annotated[int, typer.Option("--per-address", help="Streams at once of one client's address.")] = 4,
    batch: Annotated[int, typer.Option("--batch", help="Clips that are made together, if they begin together.")] = 8,
    seconds: Annotated[float, typer.Option("--seconds", help="Most film a stream.")] = 600.0,
    ahead: Annotated[float, typer.Option("--ahead", help="Seconds of film that may wait to be fetched; less: words come sooner.")] = 2.0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", min=0, help="Of torch, a copy; 0: the run's.")] = 0,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Serve streams over HTTP that are generated while they are watched, and a page that plays them."""

    def work() -> None:
        from .guard import GuardConfig
        from .limits import Limits

        guard = GuardConfig(host, token or os.environ.get(TOKEN) or None, tuple(n.lower() for n in name or ()))
        limits = Limits(viewers=viewers, per_address=per_address, batch=batch, seconds=seconds, ahead_s=ahead)
        from .http_server import Server, address_of, listen

        with listen(host, port) as listener:
            from .api import serve_app
            from .studio import ModelSource

            source = ModelSource(checkpoint, tuple(set_ or ()), device, threads)

            def ready() -> None:
                typer.echo(f"Serving {checkpoint} at {address_of(listener)}  (Ctrl-C ends it)")
                if guard.token:
                    typer.echo("The page asks for the token; or open it as ...#token=TOKEN")

            with _studios(source, limits, replicas) as studios:
                Server(serve_app(studios, guard, limits), ready).run([listener])

    run_verb(work, debug, "all streams have ended")


@contextmanager
def _studios(source: ModelSource, limits: Limits, count: int) -> Iterator[Sequence[Studio]]:
    if count == 0:
        from .studio import LocalStudio

        studio = LocalStudio(source.open, limits)
        try:
            yield [studio]
        finally:
            studio.close()
        return
    try:
        from .replicas import replicas
    except ImportError as error:
        needs = "pip install 'mutual-forcing[serve]', or give --replicas 0"
        raise ValueError(f"--replicas={count}: Ray Serve is not installed ({error.name}); {needs}") from error

    with console.status("Ray Serve and the model are starting ..."), replicas(source, limits, count) as studios:
        yield studios
