"""A finished run without Ray and without training: real data, and a checkpoint of a network that has learned nothing."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from checkpoint_material import save_stage
from making_material import fitted, look, make

from mutual_forcing.datasets.format.account import write_account
from mutual_forcing.datasets.format.clip_table import write_clips
from mutual_forcing.datasets.format.parts import clear
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.pipeline import draw_characters
from mutual_forcing.datasets.places.storage import write_json
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.preparing.commit import described, line_of
from mutual_forcing.datasets.progress import silent
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.orchestration.config import RunConfig
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.run_record import loop_config


def untrained_run(folder: Path) -> RunConfig:
    """Make the run folder of the recipe `tiny` with three characters and one finished stage."""
    tiny = recipe("tiny")
    config = replace(tiny, data=replace(tiny.data, synthetic_count=3, held_out_share=0.67), samples=replace(tiny.samples, multi_steps=2))
    out = folder / "data"
    out.mkdir(parents=True)
    store = LocalStore(out)
    sources = sources_of([str(draw_characters(config.data, store, silent))])
    codecs = fitted(config.data, sources)
    looked = {source.name: look(config.data, source) for source in sources}
    receipt = make(config.data, codecs, out, *sources)
    lines = [line_of(s, looked[s.name], o, 1) for s, o in zip(sources, receipt.outcomes, strict=True)]
    manifest = described(config.data, codecs, lines, [receipt], None)
    write_account(store, manifest.account, lines)
    write_clips(store, manifest.table, receipt.clips)
    clear(store, {shard.file for shard in manifest.shards})
    manifest.write(out)
    loop, stage = loop_config(config, folder), config.stages[-1]
    network = AVTransformer(loop.network, loop.timeline)
    save_stage(loop.checkpoints, stage.name, stage.steps, loop.architecture(), {"ema": network.state_dict()})
    write_json(folder / "run.json", {"name": "tiny", "config": asdict(config), "stages": []})
    return config
