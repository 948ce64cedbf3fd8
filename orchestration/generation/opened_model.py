"""Open a model to make clips with: a run, one of its checkpoints, or a folder of exported weights.

    RUN                        averaged weights of the last finished stage   |  run.json, data/manifest.json
    RUN@best                   of the best checkpoint (`course.best`)        |
    RUN@STAGE                  of that stage's last checkpoint               |-> the run
    RUN/checkpoints/STAGE      the same                                      |-> the run beside them
    RUN/checkpoints/STAGE/...  of that checkpoint                            |
    EXPORTED                   what `checkpoint export` wrote                -> weights.json alone

Whatever it was, what comes out is the same: the same weights have the same identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...datasets.encoding.pretrained_codecs import PretrainedConfig, open_codecs
from ...datasets.format.records import ClipRecord
from ...datasets.places.storage import local_path, read_json, sha256_file
from ...datasets.places.store import LocalStore, Store
from ...datasets.reading.loader import LatentDataset
from ...model.codecs.base import AudioCodec, VideoCodec
from ...model.execution import PLAIN, ExecutionConfig
from ...model.sampler import SamplerConfig, few_mode
from ...model.transformer import AVTransformer
from ...model.types import MODALITIES
from ...workers.checkpoint import COMMIT, Checkpoint, Weights, is_finished, newest
from ...workers.standing import BEST_OF, best_of
from ..checkpoints import FORMAT, WEIGHTS
from ..config import RunConfig, with_settings
from ..model_record import ModelRecord, controls_of, dataset_of, read_model_record, record_of_run
from ..run_folder import RUN
from ..run_record import loop_config, open_run, require_both

ROLE = "ema"
MAX_MOVES = 1000
Warn = Callable[[str], None]


@dataclass(frozen=True)
class OpenedModel:
    """A network with all that clips need. identity: SHA-256 of its weights, the same for a run and for what was exported of it."""

    network: AVTransformer
    record: ModelRecord
    video: VideoCodec
    audio: AudioCodec
    stage: str
    step: int
    identity: str
    device: torch.device
    data: Path | None = None

    @cached_property
    def dataset(self) -> LatentDataset | None:
        """The clips that it was trained beside; None of exported weights."""
        return None if self.data is None else dataset_of(self.data)

    @cached_property
    def controls(self) -> tuple[str, ...]:
        """Which texts it was trained with: caption, transcript."""
        return self.record.controls if self.dataset is None else controls_of(self.dataset)

    def held_out(self, number: int) -> ClipRecord:
        """A clip that training has not seen.

        Raises:
            ValueError: there is no such clip.
        """
        if self.dataset is None:
            raise ValueError(f"--like={number}: exported weights come without clips; give --first-frame, or the run folder")
        places = self.dataset.held_out
        if not 0 <= number < len(places):
            raise ValueError(f"--like={number}: the run has {len(places)} held-out clips, numbered from 0")
        shard, row = places[number]
        return shard.row(row)

    def sampler(self, mode: str, moves: int | None, guidance: float | None, warn: Warn = lambda _: None) -> SamplerConfig:
        """How clips are made; None takes what the run's own samples were made with. `warn` hears what the model was not trained for.

        Raises:
            ValueError: there is no such mode, or a number is out of range.
        """
        check_mode(mode, moves)
        objective, samples = self.record.objective, self.record.samples
        if mode == "multi":
            scale = samples.multi_guidance if guidance is None else guidance
            return SamplerConfig("multi", moves or samples.multi_steps, guidance=scale, path=objective.path)
        if guidance is not None:
            warn(f"--guidance={guidance:g} is ignored: mode few has learned its guidance; give --mode multi to choose one")
        trained = objective.few.moves
        if moves not in (None, trained):
            never = "and other moves were never its task; expect a worse clip"
            warn(f"--moves={moves}: mode few was trained for {trained} moves a chunk, {never}")
        return few_mode(objective, moves or trained)


def check_mode(mode: str, moves: int | None) -> None:
    """Raises ValueError unless clips can be made so."""
    if mode not in ("few", "multi"):
        raise ValueError(f"--mode={mode!r}: choose few or multi")
    if moves is not None and not 1 <= moves <= MAX_MOVES:
        raise ValueError(f"--moves={moves}: from 1 to {MAX_MOVES} a chunk")


def open_model(
    checkpoint: str, settings: Sequence[str] = (), device: str = "auto", dtype: torch.dtype = torch.float32, threads: int = 0
) -> OpenedModel:
    """Open a checkpoint (see the module docstring). settings: as `--set` takes them, for this opening alone; of exported weights those of
    `data.pretrained` are of use. device: auto (a GPU where there is one), cpu or cuda; threads: of torch, 0: the run's.

    Raises:
        ValueError: it is none of these, is damaged, or the settings do not fit it.
    """
    place, which = parted(checkpoint)
    path, where = local_path("checkpoint", place), torch.device(device_named(device))
    if (path / WEIGHTS).is_file():
        return _exported(path, settings, where, dtype, threads)
    run_dir = next((folder for folder in (path, *path.parents) if (folder / RUN).is_file()), None) if path.is_dir() else None
    if run_dir is None:
        what = "holds neither a run nor exported weights" if path.is_dir() else "is no folder"
        raise ValueError(f"checkpoint {checkpoint!r}: {what}; give a run folder (`mutual-forcing train`), or exported weights")
    config = with_settings(open_run(run_dir), settings)
    loop = loop_config(config, run_dir)
    found = _chosen(path, run_dir, config) if which is None else _named(which, loop.checkpoints, config)
    found.require(loop.architecture())
    require_both(config, found.stage)
    weights, data = found.weights(ROLE), loop.data
    record = record_of_run(config, data, ())
    torch.set_num_threads(threads or config.workers.threads)  # more threads than free cores wait for each other at every operation
    return _opened(weights, record, config.data.pretrained, config.execution, found.stage, found.step, where, dtype, data)


def parted(checkpoint: str) -> tuple[str, str | None]:
    """The folder, and what stands behind its @; None where nothing does, or the folder's own name has it."""
    place, at, which = checkpoint.rpartition("@")
    return (place, which) if at and not Path(checkpoint).exists() else (checkpoint, None)


def weights_identity(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of tensors by their names, dtypes, shapes and contents."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        x = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {x.dtype} {list(x.shape)}\n".encode())
        digest.update(x.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def device_named(name: str) -> str:
    """`auto` is a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not (name.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise ValueError(f"--device={name!r}: there is none here; choose auto or cpu")
    return name


def _named(which: str, store: Store, config: RunConfig) -> Checkpoint:
    """The checkpoint that RUN@WHICH names."""
    stages = [s.name for s in config.stages]
    if which == BEST_OF:
        return best_of(store, stages)
    found = newest(store, which) if which in stages else None
    if found is None:
        known = f"RUN, RUN@{BEST_OF} or RUN@STAGE; the stages are {', '.join(stages)}"
        raise ValueError(f"checkpoint @{which[:80]}: no stage of that name has one in {store.uri}; give {known}")
    return found


def _chosen(path: Path, run_dir: Path, config: RunConfig) -> Checkpoint:
    """The checkpoint that a path within a run names."""
    loop = loop_config(config, run_dir)
    if path == run_dir:
        finished = [s.name for s in config.stages if is_finished(loop.checkpoints, s.name)]
        if not finished:
            raise ValueError(f"run {str(run_dir)!r}: no stage is finished; train it first: mutual-forcing train {config.name}")
        found = newest(loop.checkpoints, finished[-1])
        assert found is not None
        return found
    if (path / COMMIT).is_file():
        return Checkpoint(LocalStore(path.parent.parent), f"{path.parent.name}/{path.name}")
    found = newest(LocalStore(path.parent), path.name)
    if found is None:
        raise ValueError(f"checkpoint {str(path)!r}: holds no complete checkpoint; `mutual-forcing checkpoint list {run_dir}` shows them")
    return found


def _exported(path: Path, settings: Sequence[str], device: torch.device, dtype: torch.dtype, threads: int) -> OpenedModel:
    about = read_json(path / WEIGHTS, f"exported weights {str(path)!r}")
    if not isinstance(about, dict) or about.get("format") != FORMAT or not isinstance(about.get("files"), dict):
        raise ValueError(f"exported weights {str(path)!r}: are not of the format {FORMAT!r}; export them again")
    if about.get("model") is None:
        raise ValueError(f"exported weights {str(path)!r}: were exported without a run; export them from the run folder to make clips")
    record = read_model_record(about["model"], f"exported weights {str(path)!r}: {WEIGHTS}")
    pretrained = _pretrained_of(settings)
    weights: Weights = {}
    for name in MODALITIES:
        file = path / f"{name}.safetensors"
        if file.name not in about["files"] or not file.is_file():
            raise ValueError(f"exported weights {str(path)!r}: have no {file.name}; export both branches to make clips")
        told = about["files"][file.name]
        if not isinstance(told, dict) or sha256_file(file) != told.get("sha256"):
            raise ValueError(f"exported weights {str(file)!r}: damaged (its hash is not the one in {WEIGHTS}); export them again")
        try:
            weights |= {f"branches.{name}.{key}": x for key, x in load_file(str(file)).items()}
        except SafetensorError as error:
            raise ValueError(f"exported weights {str(file)!r}: damaged ({error}); export them again") from error
    if threads:
        torch.set_num_threads(threads)
    stage, step = str(about.get("stage", "")), about.get("step", 0)
    return _opened(weights, record, pretrained, PLAIN, stage, step if isinstance(step, int) else 0, device, dtype, None)


def _pretrained_of(settings: Sequence[str]) -> PretrainedConfig:
    """Where the autoencoders of exported weights lie on this machine."""
    folders = dict[str, str]()
    for setting in settings:
        key, found, folder = setting.partition("=")
        name = key.strip().removeprefix("data.pretrained.")
        if not found or name not in MODALITIES:
            raise ValueError(f"--set {setting!r}: of exported weights data.pretrained.video and .audio can be set alone, to a folder")
        folders[name] = folder
    return PretrainedConfig(**folders)


def _opened(
    weights: Weights,
    record: ModelRecord,
    pretrained: PretrainedConfig,
    execution: ExecutionConfig,
    stage: str,
    step: int,
    device: torch.device,
    dtype: torch.dtype,
    data: Path | None,
) -> OpenedModel:
    network = AVTransformer(record.network, record.timeline, execution)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"weights of stage {stage}: do not fit the network of their record ({error}); export them again") from error
    codecs = open_codecs(record.video_codec, record.audio_codec, pretrained, str(device))
    if codecs.video is None or codecs.audio is None:
        lacking = "pictures" if codecs.video is None else "sound"
        raise ValueError(f"weights of stage {stage}: were trained without {lacking}; clips need both")
    network = network.to(device, dtype).eval().requires_grad_(False)
    return OpenedModel(network, record, codecs.video, codecs.audio, stage, step, weights_identity(weights), device, data)
