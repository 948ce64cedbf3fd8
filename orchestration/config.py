"""One typed `RunConfig`: what a run is. Frozen dataclasses that live beside their components; unknown keys fail by name."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from math import inf, isfinite
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from ..datasets.config import DataConfig
from ..datasets.places.store import is_remote
from ..datasets.redaction import NO_USER, has_user, redacted
from ..model.execution import ExecutionConfig
from ..model.objective import ObjectiveConfig
from ..model.trunk import TransformerConfig
from ..model.types import MODALITIES
from ..workers.engine import EngineConfig
from ..workers.evaluation.gathering import parse_windows
from ..workers.loop_config import StageConfig
from ..workers.pretrained import InitConfig
from ..workers.profiler import ProfileConfig
from ..workers.retention import CheckpointConfig
from ..workers.standing import BEST_OF
from .course_config import CourseConfig
from .elastic.sizes import Batch, admissible
from .mirror import RemoteConfig
from .rollout_buffer import consumers_of, per_step_of
from .rollouts_config import RolloutsConfig
from .run_folder import EVALUATED
from .workers_config import WorkersConfig

T = TypeVar("T")


@dataclass(frozen=True)
class SamplesConfig:
    """Clips made for the report from held-out controls.

    clips: how many are made in each mode; shown: how many of them the report plays; multi_steps: Euler steps a chunk of MULTI;
    multi_guidance: its scale (1 is none). windows: spans in seconds, as `evaluate --windows` takes them, in which clips of FEW that last
    until the last one ends are judged at the end, which tells whether they drift (empty: none); window_clips: how many.
    """

    clips: int = 12
    shown: int = 4
    multi_steps: int = 16
    multi_guidance: float = 2.0
    windows: str = ""
    window_clips: int = 8

    def __post_init__(self) -> None:
        for name in ("clips", "shown", "multi_steps", "window_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"samples.{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.multi_guidance < inf:
            raise ValueError(f"samples.multi_guidance={self.multi_guidance}: must be a number from 0 (1 is none)")
        if self.windows:
            parse_windows(self.windows, "samples.windows")


@dataclass(frozen=True)
class RunConfig:
    """A complete run.

    name: its folder below `runs/`; seed: of first weights, noise and the order of clips.
    """

    name: str
    stages: tuple[StageConfig, ...]
    data: DataConfig = field(default_factory=DataConfig)
    model: TransformerConfig = field(default_factory=TransformerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    rollouts: RolloutsConfig = field(default_factory=RolloutsConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    course: CourseConfig = CourseConfig()
    init: InitConfig = InitConfig()
    execution: ExecutionConfig = ExecutionConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    profile: ProfileConfig = ProfileConfig()
    remote: RemoteConfig = RemoteConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model.video_channels != self.data.video_codec.channels:
            raise ValueError(
                f"model.video_channels={self.model.video_channels}: must equal data.video_codec.channels={self.data.video_codec.channels}"
            )
        if self.model.audio_channels != self.data.audio_codec.channels:
            raise ValueError(
                f"model.audio_channels={self.model.audio_channels}: must equal data.audio_codec.channels={self.data.audio_codec.channels}"
            )
        cells = self.data.video_codec.spatial * self.model.patch
        if self.data.width % cells or self.data.height % cells:
            raise ValueError(
                f"data.width={self.data.width}, data.height={self.data.height}: must be multiples of {cells} "
                f"(data.video_codec.spatial x model.patch)"
            )
        names = [s.name for s in self.stages]
        if unknown := sorted(set(self.profile.stages) - set(names)):
            raise ValueError(f"profile.stages={unknown}: there is no such stage; the stages are {names}")
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"stages={names}: at least one stage, each with its own name")
        if any(set(n) - set("abcdefghijklmnopqrstuvwxyz0123456789-") for n in [self.name, *names]):
            raise ValueError(f"name={self.name!r}, stages={names}: use lower-case letters, digits and hyphens")
        if taken := sorted({EVALUATED, BEST_OF} & set(names)):
            raise ValueError(f"stages={names}: {taken[0]!r} means something else (`course`); give the stage another name")
        self._check_stages()
        self._check_course()
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed}: choose one from 0 to {2**63 - 1}")
        _require_plain(asdict(self), "")

    def _check_stages(self) -> None:
        for stage in self.stages:
            if stage.batch % self.workers.count:
                raise ValueError(
                    f"workers.count={self.workers.count}: does not divide stages.{stage.name}.batch={stage.batch}; change one of them"
                )
            share, micro = stage.batch // self.workers.count, self.engine.micro_batch
            if micro and share % micro:
                raise ValueError(
                    f"engine.micro_batch={micro}: does not divide a worker's {share} clips of stages.{stage.name}.batch={stage.batch}; "
                    "change one of them"
                )
        mutual = [s.name for s in self.stages if s.objective == "mutual"]
        if len(mutual) > 1:
            raise ValueError(f"stages={mutual}: one stage with the mutual objective a run; start the second from a new run")
        for stage in self.stages:
            if stage.objective == "mutual" and self.rollouts.clips:
                per_step_of(stage.batch, self.rollouts.clips)
                consumers_of(stage.batch // self.workers.count, self.rollouts.clips)
        if self.workers.least < self.workers.count and len(self.sizes) == 1:
            raise ValueError(
                f"workers.min_count={self.workers.min_count}: no number from there to {self.workers.count - 1} shares the batches of all "
                "stages in equal whole micro-batches and rollout requests; lower it, change stages.NAME.batch, or set it to 0"
            )
        self._check_execution()
        if self.objective.fake.kind == "lora" and self.engine.zero_stage == 3:
            raise ValueError(
                "objective.fake.kind='lora' with engine.zero_stage=3: the adapter needs theta's whole weights in every process; "
                "use stage 0, 1 or 2, or fake.kind='full'"
            )
        seen = self.data.clip_chunks - 1
        if self.model.window > max(1, seen):
            raise ValueError(
                f"model.window={self.model.window}: training clips of data.clip_chunks={self.data.clip_chunks} show a chunk at most {seen} "
                f"chunks of history; set model.window={max(1, seen)} or data.clip_chunks={self.model.window + 1}"
            )

    def _check_course(self) -> None:
        every, checkpoints = self.course.every, self.checkpoint.every
        if every and (not checkpoints or every % checkpoints):
            raise ValueError(
                f"course.every={every}: evaluations are of checkpoints; make it a multiple of checkpoint.every={checkpoints}, or set that"
            )
        if every and not any(set(s.modalities) == set(MODALITIES) for s in self.stages):
            raise ValueError(f"course.every={every}: no stage trains both modalities, so no clip can be made; set it to 0")

    def _check_execution(self) -> None:
        """Ways of computing that would train something else, or fail in the middle of a run."""
        e, adapter = self.execution, self.objective.fake.kind == "lora"
        if e.attention == "flex" and not self.workers.use_gpu:
            raise ValueError(
                "execution.attention='flex': FlexAttention has no backward on a CPU; set it to 'dense', or set workers.use_gpu=true"
            )
        if e.checkpoint_every and adapter:
            raise ValueError(
                f"execution.checkpoint_every={e.checkpoint_every} with objective.fake.kind='lora': the backward would recompute layers "
                "without the adapter; set one of them back to 0 or 'full'"
            )
        if self.engine.offload != "none" and not self.workers.use_gpu:
            raise ValueError(
                f"engine.offload={self.engine.offload!r}: moves the optimizer from a GPU to the CPU, where it is already; set it to "
                "'none', or workers.use_gpu=true"
            )
        if e.compile and (adapter or self.engine.zero_stage == 3):
            other = "objective.fake.kind='lora'" if adapter else "engine.zero_stage=3"
            raise ValueError(f"execution.compile=true with {other}: compiled code does not notice its hooks; set compile=false")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of workers that may train, ascending; the last is `workers.count`."""
        micro, request = self.engine.micro_batch, self.rollouts.clips
        batches = [Batch(s.batch, micro, request if s.objective == "mutual" else 0) for s in self.stages]
        return admissible(batches, self.workers.least, self.workers.count)

    @property
    def checkpoint_uri(self) -> str:
        """Where checkpoints are; empty: in the run folder."""
        return self.checkpoint.uri or self.remote.checkpoints

    @property
    def data_uri(self) -> str:
        """Where a machine without the run folder gets the data; empty: nowhere."""
        return self.data.prepared if is_remote(self.data.prepared) else self.remote.data

    def settings(self) -> str:
        """Hash of what shapes the trained weights (not of what merely reports on them, guards them, or of how they are computed)."""
        value = asdict(replace(self, samples=SamplesConfig()))
        del value["execution"], value["checkpoint"], value["profile"], value["remote"], value["course"]
        for name in ("pool", "encoders", "cache_gb"):
            del value["data"][name]
        value["workers"] = {"max_bad_steps": self.workers.max_bad_steps, "use_gpu": self.workers.use_gpu}
        value["engine"] = {"precision": self.engine.precision}  # how the work is divided changes the rounding of sums alone
        value["rollouts"] = {name: getattr(self.rollouts, name) for name in ("max_age", "publish_every", "weights")}
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def with_settings(config: RunConfig, assignments: Sequence[str]) -> RunConfig:
    """Apply `--set section.key=value` assignments; values are YAML. `stages.NAME.key` reaches into a stage.

    Raises:
        ValueError: an unknown key (the nearest is suggested), a value of the wrong type, or one that the section refuses.
    """
    tree = asdict(config)
    _set(tree, assignments)
    return from_tree(tree)


def with_data_settings(config: DataConfig, assignments: Sequence[str]) -> DataConfig:
    """Apply `--set data.KEY=value` to the settings of a dataset alone; see `with_settings`."""
    tree = {"data": asdict(config)}
    _set(tree, assignments)
    return _checked(tree["data"], DataConfig, "data.")


def _set(tree: dict[str, Any], assignments: Sequence[str]) -> None:
    for assignment in assignments:
        key, found, text = assignment.partition("=")
        if not found:
            raise ValueError(f"--set {assignment!r}: write section.key=value, for example --set rollouts.max_age=0")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {key}: {text!r} is not a YAML value ({str(error).splitlines()[0]})") from error
        _assign(tree, key.strip(), value)


def from_tree(tree: dict[str, Any]) -> RunConfig:
    """Plain data (of `asdict`, JSON or YAML) -> a checked `RunConfig`."""
    return _checked(tree, RunConfig, "")


def _checked(tree: dict[str, Any], kind: type[T], where: str) -> T:
    """The record that plain data describes; `where` it stands in the settings, with a full stop at the end."""
    _refuse_unknown(tree, kind, where)
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = where + ".".join(_place(tree, first["loc"]))
        raise ValueError(
            first["msg"].removeprefix("Value error, ") if first["type"] == "value_error" else f"{name}={first['input']!r}: {first['msg']}"
        ) from None


def _require_plain(tree: Any, where: str) -> None:
    """Refuse .nan and .inf wherever they stand: comparisons let NaN pass. And addresses with a user: settings are kept and shown."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        name = f"{where}{value['name'] if isinstance(key, int) and isinstance(value, dict) else key}"
        if isinstance(value, dict | list | tuple):
            _require_plain(value, f"{name}.")
        elif isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{name}={value}: must be a finite number")
        elif isinstance(value, str) and "://" in value and has_user(value):
            raise ValueError(f"{name}={redacted(value)!r}: {NO_USER}")


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    node: Any = tree
    *path, last = key.split(".")
    for i, part in enumerate(path):
        if isinstance(node, list | tuple):
            node = next((stage for stage in node if stage.get("name") == part), None)
            if node is None:
                raise ValueError(f"--set {key}: there is no stage {part!r}; the stages are {[s['name'] for s in tree['stages']]}")
        else:
            _known(node, part, key)
            node = node[part]
        if not isinstance(node, dict | list | tuple):
            raise ValueError(f"--set {key}: {'.'.join(path[: i + 1])} is a value, not a section")
    if not isinstance(node, dict):
        raise ValueError(f"--set {key}: name a stage and its field, for example --set stages.joint.steps=100")
    _known(node, last, key)
    if isinstance(node[last], dict):
        raise ValueError(f"--set {key}: is a section with the fields {sorted(node[last])}; set one of them")
    node[last] = value


def _known(node: dict[str, Any], part: str, key: str) -> None:
    if part not in node:
        near = difflib.get_close_matches(part, node, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(node))}"
        raise ValueError(f"--set {key}: unknown key {part!r}; {hint}")


def _place(tree: Any, path: Sequence[Any]) -> list[str]:
    """A path as `--set` writes it: a stage by its name. It may lead past what the user gave, into what a type expects."""
    names = []
    for part in path:
        reached = part in tree if isinstance(tree, dict) else isinstance(tree, list | tuple)
        tree = tree[part] if reached else None
        names.append(str(tree["name"]) if isinstance(part, int) and isinstance(tree, dict) and "name" in tree else str(part))
    return names


def _refuse_unknown(tree: Any, kind: Any, where: str) -> None:
    """Compare the keys of `tree` with the fields of the dataclass `kind`, and of all that it holds."""
    if get_origin(kind) is tuple and isinstance(tree, list | tuple):
        for i, item in enumerate(tree):
            name = item.get("name", i) if isinstance(item, dict) else i
            _refuse_unknown(item, get_args(kind)[0], f"{where}{name}.")
    if not (is_dataclass(kind) and isinstance(tree, dict)):
        return
    types = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(
                f"{where}{key}: unknown field; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}")
            )
        _refuse_unknown(value, types[key], f"{where}{key}.")
