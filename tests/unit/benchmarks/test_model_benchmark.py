"""The counted arithmetic is what PyTorch counts, both ways of generating give one clip, and the benchmark keeps its contract."""

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from mutual_forcing.benchmarks.model import (
    FEW,
    MULTI,
    TOLERANCE,
    Size,
    cached_macs,
    guided_macs,
    largest_difference,
    main,
    make_bench,
    paired_ratios,
    recompute_macs,
)
from mutual_forcing.model.text import TextConfig
from mutual_forcing.model.timeline import Timeline
from mutual_forcing.model.transformer import TransformerConfig
from mutual_forcing.orchestration.main import app

# Branches of two widths, a window that rolls, and 7 or 8 audio latents a chunk: no two terms of the count look alike.
TINY = Size(
    chunks=4,
    runs=1,
    grid=4,
    model=TransformerConfig(
        video_channels=3,
        audio_channels=5,
        video_width=24,
        audio_width=16,
        depth=2,
        heads=2,
        head_dim=16,
        ffn_ratio=3,
        window=2,
        text=TextConfig(max_caption_words=3, max_words=6, max_bytes=6),
    ),
    timeline=Timeline(audio_hop=1024),
)


@pytest.mark.parametrize("way", ["cached", "recompute", "guided"])
def test_the_formula_counts_what_pytorch_counts(way: str) -> None:
    bench = make_bench(TINY, "cpu")
    # PyTorch's counter does not know the fused attention of the CPU: as plain products, attention is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        if way == "recompute":
            bench.recompute(FEW)
        else:
            bench.cached(FEW if way == "cached" else MULTI)
    counted = {
        "cached": cached_macs(TINY, FEW.moves),
        "recompute": recompute_macs(TINY, FEW.moves),
        "guided": guided_macs(TINY, MULTI),
    }[way]
    assert counter.get_total_flops() == 2 * counted  # no tolerance: both count whole multiply-adds


def test_both_ways_of_generating_give_one_clip_that_the_history_shapes() -> None:
    bench = make_bench(TINY, "cpu")
    assert largest_difference(bench) < TOLERANCE
    other = make_bench(TINY, "cpu")
    other.first_frame_BFCHW.neg_()
    last, changed = bench.cached(FEW)[-1], other.cached(FEW)[-1]
    assert float((last.get("audio") - changed.get("audio")).abs().max()) > 10 * TOLERANCE


def test_pairs_alternate_their_order() -> None:
    calls: list[str] = []
    ratios = paired_ratios(lambda: calls.append("slow"), lambda: calls.append("fast"), 3, torch.device("cpu"))
    assert calls == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert len(ratios) == 3


def test_it_prints_one_json_object_and_leaves_the_threads_alone(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert main(["--quick", "--json"], TINY) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["name"] == "model"
    assert figures["threads"] == 1
    assert figures["limit"]["few4_vs_multi"] == 8
    for name in ("cached_vs_recompute", "few4_vs_multi"):
        low, high = figures["spread"][name]
        assert 0 < low <= figures[name] <= high
    flops = recompute_macs(TINY, FEW.moves) / cached_macs(TINY, FEW.moves)
    assert figures["cached_vs_flop_ratio"] == pytest.approx(figures["cached_vs_recompute"] / flops, rel=0.02)
    assert torch.get_num_threads() == threads


def test_the_command_line_names_the_benchmarks_when_one_is_unknown() -> None:
    result = CliRunner().invoke(app, ["bench", "no-such"])
    assert result.exit_code == 1
    assert "choose from" in result.stderr
    assert "model" in result.stderr
