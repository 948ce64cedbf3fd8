"""A finished run without Ray and without training: real data, and a checkpoint of a network that has learned nothing."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from checkpoint_material import save_stage

from mutual_forcing.datasets import pipeline
from mutual_forcing.datasets.parts import Part, clear
from mutual_forcing.datasets.sources import list_sources
from mutual_forcing.datasets.stages import Encode, MakePart, Survey, settings_of
from mutual_forcing.datasets.storage import write_json
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
    media = pipeline.source_folder(config.data, out, lambda *_: None)
    survey = [Survey(config.data)({"source": str(path), "measure": True}) for path in list_sources(media)]
    video, audio = pipeline._fit_codecs(config.data, survey)
    encode = Encode(config.data, video.to_json(), audio.to_json())
    rows = [clip for row in survey for clip in encode(row)]
    clips = MakePart(encode, str(out)).write(Part("0", ()), rows)
    clear(out)
    manifest = pipeline._account(config.data, settings_of(config.data, list_sources(media)), survey, clips, video, audio, media, out)
    manifest.write(out)
    loop, stage = loop_config(config, folder), config.stages[-1]
    network = AVTransformer(loop.network, loop.timeline)
    save_stage(loop.checkpoints, stage.name, stage.steps, loop.architecture(), {"ema": network.state_dict()})
    write_json(folder / "run.json", {"name": "tiny", "config": asdict(config), "stages": []})
    return config
