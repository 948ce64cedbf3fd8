"""The baselines of the ablation through the real machinery: they differ from the tiny recipe by settings alone."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from command_material import Running

from mutual_forcing.model.objective import ObjectiveConfig, variants

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def settings_of(name: str) -> list[str]:
    """The fields in which a recipe of the ablation differs from the defaults, as --set writes them."""

    def leaves(a: dict, b: dict, path: str) -> list[str]:
        found = []
        for key, value in a.items():
            where = f"{path}.{key}"
            found += leaves(value, b[key], where) if isinstance(value, dict) else [] if value == b[key] else [f"{where}={value}"]
        return found

    base = ObjectiveConfig()
    return leaves(asdict(variants(base)[name]), asdict(base), "objective")


CASES = {
    "sc-tf": {"loss", "loss/fm_video", "loss/sc_audio", "probe/loss"},
    "dmd-sf": {"dmd", "loss/dmd_video", "loss/fake", "skipped_fake"},
    "mutual-true-history": {"loss", "loss/fm_video", "loss/sc_audio", "dmd", "loss/fake"},
}
ABSENT = {"sc-tf": {"dmd", "loss/fake"}, "dmd-sf": {"loss", "loss/fm_video", "probe/loss"}}


@pytest.mark.parametrize("name", CASES)
def test_a_baseline_trains_what_its_name_says_and_nothing_else(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    words = [word for setting in settings_of(name) for word in ("--set", setting)]
    with Running("train", "tiny", "--out", str(folder), "--json", *words) as running:
        answer = running.wait(500)
    assert answer.code == 0, answer.error
    lines = [json.loads(line) for line in (folder / "metrics" / "mutual.jsonl").read_text().splitlines()]
    first = lines[0]["metrics"]
    assert CASES[name] <= first.keys()
    assert not ABSENT.get(name, set()) & first.keys()
    losses = [value for line in lines for key, value in line["metrics"].items() if key.startswith("loss")]
    assert all(value is not None and math.isfinite(value) for value in losses)
    assert any(key.startswith("age/") for key in first) == (name != "sc-tf"), "ShortCut on true history reads no rollout"
    assert (folder / "report.html").is_file()
    stage = json.loads(answer.out)["stages"][-1]
    assert (stage["loss_before"] is None) == (name == "dmd-sf"), "DMD alone trains no regression"
