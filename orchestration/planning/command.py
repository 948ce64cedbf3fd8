"""The verb `plan`: what it is told, and what becomes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ..command import Debug, Json, Set, run_verb

if TYPE_CHECKING:
    from ...datasets.format.manifest import Manifest
    from ..config import RunConfig

GB = 1e9
NOT_KEPT = "nothing was started; give the command again"


def plan(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, for example paper.")],
    gpus: Annotated[int, typer.Option("--gpus", help="How many there are for training and rollouts together.")] = 8,
    gpu: Annotated[str, typer.Option("--gpu", help="Which: a100-40, a100-80, h100, h100-nvl or h200.")] = "h100",
    price: Annotated[float | None, typer.Option("--price", help="Of one for an hour (default: a round figure).")] = None,
    host_memory: Annotated[
        float | None, typer.Option("--host-memory", help="10^9 bytes of a machine's own memory (default: no limit).")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Prepared dataset (folder or s3://): its clips instead of the recipe's.")
    ] = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help="File that `bench plan --calibrate` wrote on this GPU.")] = None,
    mfu: Annotated[
        float | None, typer.Option("--mfu", help="Share of the peak that training reaches (default: a range, 0.11 to 0.24).")
    ] = None,
    fp32: Annotated[float, typer.Option("--fp32", help="Share of the fp32 peak that the teacher and rollouts reach.")] = 0.5,
    network: Annotated[
        float | None, typer.Option("--network", help="10^9 bytes/s of a GPU to other machines (default: by its kind).")
    ] = None,
    upload: Annotated[float, typer.Option("--upload", help="10^9 bytes/s of a process to S3.")] = 0.25,
    copy: Annotated[float, typer.Option("--copy", help="10^9 bytes/s from a GPU to its machine.")] = 10.0,
    host: Annotated[float, typer.Option("--host", help="10^9 bytes/s of a process in its machine's memory.")] = 20.0,
    clips_per_s: Annotated[float, typer.Option("--clips-per-s", help="Clips that one CPU prepares in a second.")] = 0.5,
    cpus: Annotated[int, typer.Option("--cpus", help="Of a machine that prepares data.")] = 64,
    per_source: Annotated[float, typer.Option("--per-source", help="Clips that a source gives.")] = 4.0,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a run will need before it starts: memory by ZeRO stage, a layout that fits, hours, traffic, cost. Starts nothing.

    Exits 1 where nothing fits.
    """
    fits = False

    def work() -> None:
        from pathlib import Path

        from ..runs import configured
        from .assumed import Assumed, require_number
        from .calibration import read_calibration
        from .gpus import gpu as known
        from .plan import Wish, make_plan
        from .tables import show

        nonlocal fits
        card = known(gpu)
        if host_memory is not None:
            require_number("--host-memory", host_memory, 1, 1e6)
        assumed = Assumed(
            mfu=mfu,
            fp32=fp32,
            network=None if network is None else network * GB,
            upload=upload * GB,
            copy=copy * GB,
            host=host * GB,
            clips_per_s=clips_per_s,
            cpus=cpus,
            per_source=per_source,
        )
        memory = None if host_memory is None else round(host_memory * GB)
        wish = Wish(recipe, gpus, gpu.lower(), card, card.price if price is None else price, memory)
        config = configured(recipe, None, ["workers.use_gpu=true", "workers.count=1", "engine.micro_batch=0", *(set_ or [])], data)
        measured = read_calibration(Path(calibration)) if calibration else None
        made = make_plan(config, wish, assumed, measured, _manifest(config, data) if data else None)
        fits = made.layout is not None
        if as_json:
            typer.echo(json.dumps(made.to_json(config), allow_nan=False))
        else:
            show(made, config)

    run_verb(work, debug, NOT_KEPT)
    raise typer.Exit(int(not fits))


def _manifest(config: RunConfig, uri: str) -> Manifest:
    """The manifest of a dataset, which is all that is read of it.

    Raises:
        ValueError: there is none, or its clips have other sizes than the recipe's.
    """
    from ...datasets.format.manifest import MANIFEST, open_manifest
    from ...datasets.places.store import store_of

    store = store_of(uri)
    try:
        found = open_manifest(store.fetch(MANIFEST))
    except OSError as error:
        raise ValueError(f"--data={uri!r}: no manifest.json can be read there ({' '.join(str(error).split())})") from error
    finally:
        store.close()
    sizes = {name: getattr(found, name) for name in ("clip_chunks", "width", "height")}
    if other := {name: value for name, value in sizes.items() if getattr(config.data, name) != value}:
        words = " ".join(f"--set data.{name}={value}" for name, value in other.items())
        raise ValueError(f"--data={uri!r}: its clips have other sizes than the recipe's; give {words}")
    return found
