"""The verb `replay`: a file of a skipped step -> typed records -> what is not finite in it. It needs neither Ray nor DeepSpeed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..workers.bad_step import BadStep, Header, bad_step_of, read_bad_step
from ..workers.replay import Replayed, replay


def open_bad_step(path: Path) -> BadStep:
    """The step in a file.

    Raises:
        ValueError: the file is missing, damaged, of another kind, or of a release with other settings.
    """
    tree, tensors = read_bad_step(path)
    try:
        header = TypeAdapter(Header).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"bad step {path}: {where or 'header'}: {first['msg']}; replay it with the release that trained") from None
    if json.loads(json.dumps(asdict(header))) != tree:  # pydantic lets unknown fields pass, and fills in missing ones
        raise ValueError(f"bad step {path}: its settings are not those that this release knows; replay it with the release that trained")
    return bad_step_of(header, tensors)


def replay_file(path: Path) -> tuple[BadStep, Replayed]:
    """Compute the step of a file again.

    Raises:
        ValueError: see `open_bad_step`, or its weights do not fit its network.
    """
    bad = open_bad_step(path)
    return bad, replay(bad)


def as_record(path: Path, bad: BadStep, replayed: Replayed) -> dict[str, Any]:
    """All of it for `--json`; a number that is not finite is null."""
    header = bad.header
    return {
        "file": str(path),
        "stage": header.origin.stage,
        "objective": header.origin.kind,
        "step": header.step,
        "rank": header.origin.rank,
        "positions": list(header.positions),
        "sample_ids": list(header.sample_ids),
        "offending": list(header.bad),
        "checks": [{"name": c.name, "finite": c.finite, "where": c.first, "largest": c.largest} for c in replayed.checks],
        "parts": [
            {
                "part": p.name,
                "loss": _or_null(p.loss),
                "gradient_norm": {m: _or_null(norm) for m, norm in p.gradient_norms.items()},
                "finite": p.finite,
            }
            for p in replayed.parts
        ],
        "first": replayed.first,
        "verdict": replayed.verdict,
    }


def _or_null(x: float) -> float | None:
    return x if math.isfinite(x) else None
