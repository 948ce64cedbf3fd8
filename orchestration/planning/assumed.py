"""What a plan takes for granted where nothing was measured, within which bounds, and where each figure is from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .gpus import Gpu

LOW_MFU, MFU = 0.11, 0.24
"""Of the first run and of the best one that docs/performance.md has of a training step."""

BOUNDS = {
    "mfu": (1e-4, 1.0),
    "fp32": (1e-4, 1.0),
    "network": (1e6, 1e13),
    "upload": (1e5, 1e13),
    "copy": (1e6, 1e13),
    "host": (1e6, 1e13),
    "clips_per_s": (1e-6, 1e6),
    "cpus": (1, 10_000),
    "per_source": (1e-3, 1e6),
}
BYTES = ("network", "upload", "copy", "host")  # options in 10^9 bytes/s


@dataclass(frozen=True)
class Assumed:
    """Each of them is an option of the verb.

    mfu: share of the peak, of the recipe's precision, that training reaches (None: 24 %, and 11 % for the slower end of a range); fp32:
    share of the fp32 peak of the teacher and the rollouts; network: bytes/s of a GPU to other machines (None: of its kind, `gpus`); upload:
    bytes/s of a process to S3; copy: bytes/s from a GPU to its machine; host: of a process in its machine's memory; clips_per_s: that a CPU
    prepares; cpus: of a machine that prepares data; per_source: clips of a source.

    Raises:
        ValueError: one is outside its bounds.
    """

    mfu: float | None = None
    fp32: float = 0.5
    network: float | None = None
    upload: float = 0.25e9
    copy: float = 10e9
    host: float = 20e9
    clips_per_s: float = 0.5
    cpus: int = 64
    per_source: float = 4.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            unit = 1e9 if name in BYTES else 1.0
            if value is not None:
                require_number(f"--{name.replace('_', '-')}", value / unit, BOUNDS[name][0] / unit, BOUNDS[name][1] / unit)

    def on(self, gpu: Gpu) -> Assumed:
        """With the figures of a kind of GPU where none were given."""
        return replace(self, mfu=self.mfu or MFU, network=self.network or gpu.network)


def require_number(option: str, value: float, low: float, high: float) -> None:
    """Raises:
    ValueError: `value` does not lie between the two, or is no number.
    """
    if not low <= value <= high:
        raise ValueError(f"{option}={value:g}: must be a number from {low:g} to {high:g}")


def assumptions(assumed: Assumed, gpu: Gpu, precision: str) -> dict[str, dict[str, Any]]:
    """Name -> value and where it is from."""
    measured = (
        f"of the {precision} peak; measured for `base` in bf16 on an H200, 8 clips a forward, blocks compiled, which ZeRO-3 excludes "
    )
    measured += "(docs/performance.md); `paper` was not measured"
    known = {
        "mfu": measured,
        "fp32": "not measured",
        "network": gpu.wire,
        "upload": "not measured",
        "copy": "not measured",
        "host": "not measured: a process's share of its machine's memory, for an optimizer that is offloaded",
        "clips_per_s": "not measured with pretrained codecs; docs/scale.md says how to",
        "cpus": "a choice",
        "per_source": "a choice",
    }
    defaults, whole = vars(Assumed()), vars(assumed.on(gpu))
    slower = {"mfu_low": {"value": LOW_MFU, "from": "the slower end of the range: the same with 2 clips, as first run"}}
    given = {name for name, value in vars(assumed).items() if value != defaults[name]}
    made = {name: {"value": value, "from": "given" if name in given else known[name]} for name, value in whole.items()}
    return made if "mfu" in given else {"mfu": made["mfu"]} | slower | made
