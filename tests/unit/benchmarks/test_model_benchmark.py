"""The counted arithmetic is what PyTorch counts, a chunk without a cache is the chunk with one, and the benchmark keeps its contract."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretrained_material import NARROW22, NARROW_OOBLECK, oobleck_folder, wan_folder
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from mutual_forcing.benchmarks import _speed
from mutual_forcing.benchmarks import model as bench
from mutual_forcing.benchmarks._ceilings import Ceilings
from mutual_forcing.benchmarks._decoding import decoded, embedded
from mutual_forcing.benchmarks._speed import DECODED, FEW4, MODES, Amount, Way, long, roofline, stream, times_of, training
from mutual_forcing.benchmarks._streams import Case, Stage
from mutual_forcing.benchmarks.model import codecs_of
from mutual_forcing.model.losses import Models, flow_matching
from mutual_forcing.model.mask import dense_mask
from mutual_forcing.model.objective import ObjectiveConfig
from mutual_forcing.model.plan import joint
from mutual_forcing.model.presets import WAN, Preset, preset
from mutual_forcing.model.sampler import chunk_latents
from mutual_forcing.model.text import TextConfig
from mutual_forcing.model.timeline import Layout, Timeline
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.model.types import AV, AVBatch
from mutual_forcing.orchestration.main import app

# Branches of two widths, a window that rolls, 7 or 8 audio latents a chunk, 3 x 5 latents in patches of 2: no two terms look alike.
NETWORK = TransformerConfig(
    video_channels=3,
    audio_channels=5,
    video_width=24,
    audio_width=16,
    depth=2,
    heads=2,
    head_dim=16,
    ffn_ratio=3,
    window=2,
    text=TextConfig(max_caption_words=3, max_words=40, max_bytes=6),
)
CASE = Case(Preset(NETWORK, Timeline(audio_hop=1024)), 24, 40, torch.device("cpu"), seconds=16)
FEATURED = replace(WAN, caption_features=12)
LIKE_WAN = replace(CASE, preset=replace(CASE.preset, network=replace(NETWORK, video=FEATURED, audio=FEATURED)))
CEILINGS = Ceilings(1e11, 1e10)
WAYS = MODES | {"multi5": replace(MODES["multi50"], moves=5)}
SHOWN = DECODED.format("few4")


@pytest.fixture
def few_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """MULTI in five moves, where its rows are looked at and not its figures."""
    monkeypatch.setitem(MODES, "multi50", WAYS["multi5"])


def counted(work) -> int:
    """Multiply-adds. PyTorch's counter does not know the fused attention of the CPU: as plain products, attention is counted."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


@pytest.mark.parametrize("case", [CASE, LIKE_WAN], ids=["own", "like Wan"])
@pytest.mark.parametrize(
    ("way", "clips"), [("few4", 1), ("few4", 3), ("few8", 1), ("multi5", 1), pytest.param("multi50", 1, marks=pytest.mark.slow)]
)
def test_the_formula_counts_what_pytorch_counts_in_a_stream(case: Case, way: str, clips: int) -> None:
    """Six chunks, until most words are over and the window has rolled: no tolerance, both count whole multiply-adds."""
    sums, sampler, player = case.arithmetic(), WAYS[way], Stage(replace(case, clips=clips)).play(WAYS[way])
    twice = clips * (2 if sampler.mode == "multi" else 1)
    for chunk in range(6):
        before = sums.start() if chunk == 0 else sums.commit(chunk - 1)
        assert counted(lambda: next(player)) == twice * (before + sampler.moves * sums.evaluation(chunk)), f"chunk {chunk}"


@pytest.mark.parametrize("case", [CASE, LIKE_WAN], ids=["own", "like Wan"])
@pytest.mark.parametrize("first", [0, 1, 4])
def test_the_formula_counts_what_pytorch_counts_without_a_cache(case: Case, first: int) -> None:
    stage, layout = Stage(case), Layout(case.preset.clock, 3, first=first)
    clip, x = stage.clip(first, 3), chunk_latents(stage.clip(first, 3), Layout(case.preset.clock, 3), 0)
    x = AV(x.video, clip.get("audio")[:, : case.arithmetic().tokens(first + 2)["audio"]])
    words, controls = len(case.words_near(layout)), stage.text_near(layout)
    assert counted(lambda: stage.recompute(FEW4, clip, x, layout, controls)) == 4 * case.arithmetic().parallel(first, 3, words)


def test_a_chunk_without_a_cache_is_the_chunk_with_one() -> None:
    """While the window has not rolled, so that both see all that was: chunk 2 after the same two chunks and from the same noise."""
    stage = Stage(CASE)
    player = stage.play(FEW4)
    made = [next(player) for _ in range(3)]
    video = torch.cat([stage.first, *(x.get("video") for x in made)], dim=1)
    clip = AV(video, torch.cat([x.get("audio") for x in made], dim=1))
    start = stage.noise.normal_like(made[2], "chunk", 2)
    layout = Layout(CASE.preset.clock, 3)
    again = stage.recompute(FEW4, clip, start, layout, stage.text_near(layout))
    for (name, a), (_, b) in zip(again.items(), made[2].items(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * float(b.abs().max()), msg=name)
    moved = stage.recompute(FEW4, clip.map(lambda y: y + 0.5), start, layout, stage.text_near(layout))
    assert float((moved.get("audio") - again.get("audio")).abs().max()) > 1e-3, "the history shapes it"


def test_training_counts_allowed_pairs_alone() -> None:
    """Against the pairs of the dense mask: of all tokens, and of the noisy ones, which alone go through the last layer."""
    chunks, sums = 4, CASE.arithmetic()
    stage = Stage(CASE)
    plan = stage.net.planner.both(  # the same places that a forward has
        AV(*(x[:, :-n] for (_, x), n in zip(stage.clip(0, chunks).items(), (3, sums.tokens(3)["audio"]), strict=True))),
        AV(stage.clip(0, chunks).get("video")[:, 1:], stage.clip(0, chunks).audio),
        Layout(CASE.preset.clock, chunks),
        stage.first,
    )
    words, without, allowed = len(CASE.words()), sums.parallel(0, chunks, len(CASE.words())), 0
    assert plan.last is not None
    for layers, spots in ((NETWORK.depth - 1, plan.spots), (1, plan.last.spots)):
        without -= layers * len(joint(spots)) * len(plan.keys) * 2 * sums.inner
        allowed += layers * int(dense_mask(joint(spots), plan.keys, NETWORK.window).sum()) * 2 * sums.inner
    assert sums.training(chunks, words) == 3 * (without + allowed)


def test_a_backward_is_twice_the_forward() -> None:
    """As PyTorch counts both under the dense mask: what is left out is the gradient of the latents, which nobody takes;
    what is more is the product that gathers the gradient of a modulation, which is no useful work.
    """
    case = replace(CASE, clips=2)
    stage, chunks = Stage(case), 4
    layout = Layout(case.preset.clock, chunks)
    batch = AVBatch(stage.clip(0, chunks), stage.text_near(layout), layout, (0, 1), ("", ""))
    net = stage.net.train().requires_grad_(True)
    made = counted(lambda: flow_matching(Models(net, net), batch, None, stage.noise, ObjectiveConfig()).value.backward())
    forward = case.clips * case.arithmetic().parallel(0, chunks, len(case.words_near(layout)))
    assert 0.97 < made / (3 * forward) < 1.03


def test_weights_of_an_evaluation_leave_out_what_is_read_once_a_clip() -> None:
    net = Stage(CASE).net
    read: set[str] = set()
    hooks = [m.register_forward_hook(lambda *_, name=name: read.add(name)) for name, m in net.named_modules()]
    player = Stage(CASE)  # a stage of its own, so that its start is not counted
    stream_ = net.start(player.controls)
    stream_.commit(AV(video=player.first), -1)
    read.clear()
    x = chunk_latents(player.clip(0, 1), Layout(CASE.preset.clock, 1), 0)
    t = AV(torch.full((1, 1), 0.5), torch.full((1, 1), 0.5))
    stream_.velocity(x, t, t, 0)
    for hook in hooks:
        hook.remove()
    touched = sum(p.numel() for name in read for p in net.get_submodule(name).parameters(recurse=False))
    assert CASE.arithmetic().weights == touched


def test_a_roofline_is_the_slower_of_computing_and_reading() -> None:
    computing = roofline(CASE, FEW4, 3, Ceilings(1e9, 1e30), 1.0)
    reading = roofline(CASE, FEW4, 3, Ceilings(1e30, 1e9), 1.0)
    assert computing["predicted_ms"] == pytest.approx(1e3 * 2 * computing["macs"] / 1e9)
    assert reading["predicted_ms"] == pytest.approx(1e3 * reading["bytes"] / 1e9)
    assert reading["of_roofline"] == pytest.approx(reading["predicted_ms"] / 1e3)


def test_chunks_are_decoded_as_the_whole_clip_is() -> None:
    chosen = preset("tiny")
    stage, codecs = Stage(Case(chosen, 16, 24, torch.device("cpu"), seconds=4, clips=2)), embedded(chosen)
    chunks = [x for _, x in zip(range(3), stage.play(FEW4), strict=False)]
    frames, samples = zip(*decoded(codecs, stage.first, iter(chunks)), strict=True)
    video = torch.cat([stage.first, *(x.get("video") for x in chunks)], dim=1)
    assert torch.equal(torch.cat(frames, dim=1), codecs.video.decode(video)[:, 1:])
    audio = codecs.audio.decode(torch.cat([x.get("audio") for x in chunks], dim=1))
    made = torch.cat(samples, dim=1)
    assert 0 < audio.shape[1] - made.shape[1] <= chosen.clock.audio_hop, "what the overlap of windows holds back"
    torch.testing.assert_close(made, audio[:, : made.shape[1]])


def test_a_preset_has_the_codecs_of_its_latents_or_none(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert codecs_of("paper", "", "", cpu) == (None, "none")
    codecs, name = codecs_of("small", "", "", cpu)
    assert codecs is not None
    assert (codecs.video.channels, codecs.audio.hop, name) == (32, 512, "embedded")
    with pytest.raises(ValueError, match="--video-codec='a', --audio-codec='': give both or neither"):
        codecs_of("paper", "a", "", cpu)
    vae = wan_folder(tmp_path / "video", NARROW22)
    sound = oobleck_folder(tmp_path / "audio", NARROW_OOBLECK | {"encoder_hidden_size": 128, "decoder_input_channels": 64})
    codecs, name = codecs_of("paper", str(vae), str(sound), cpu)
    assert codecs is not None
    assert (codecs.video.channels, codecs.audio.channels, name) == (48, 64, f"{vae}, {sound}")
    with pytest.raises(
        ValueError, match=r"--video-codec='.*audio': the preset's latents are 48 channels of 16 x 16 pixels, its own are not"
    ):
        codecs_of("paper", str(sound), str(vae), cpu)


@pytest.mark.usefixtures("few_moves")
def test_rows_have_their_figures() -> None:
    shown = stream(Case(preset("tiny"), 16, 16, torch.device("cpu"), codecs=embedded(preset("tiny"))), Amount(2, 2), CEILINGS, False)
    assert all(shown[DECODED.format(way)]["fps"] > 0 for way in MODES)
    assert set(shown["first_chunk_ms"]) == {"few4", DECODED.format("few4")}
    made = stream(CASE, Amount(rounds=2, latency=3), CEILINGS, recompute=True)
    assert made["cached_vs_recompute"] > 0
    assert made["few4"]["runs"] == 2
    assert made["few4"]["p50_ms"] <= made["few4"]["p99_ms"]
    assert (made["few4"]["chunks"], made["multi50"]["chunks"]) == (3, 2), "MULTI has its rounds alone"
    assert set(made["first_chunk_ms"]) == {"few4"}
    assert set(long(CASE, 200)) == {"seconds_of_clip", "latency_growth", "rss_growth_mb"}
    trained = training(replace(CASE, clips=2), Amount(rounds=2, chunks=3), CEILINGS)
    assert 0 < trained["mfu"] == trained["of_ceiling"] < 1
    assert trained["mfu_of"] == "0.1 TFLOP/s, measured here"
    assert trained["tokens_per_s"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("few_moves")
def test_it_prints_one_json_object_and_continues_from_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(bench, "preset", lambda name: CASE.preset)
    words = ["--quick", "--json", "--out", str(tmp_path)]
    assert bench.main([*words, "--minutes", "0"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["name"] == "model"
    assert all("not measured" in figures["rows"][name] for name in ("stream-64x64", "training", "long"))
    assert bench.main([*words, "--plot", str(tmp_path / "roofline.png")]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"cached_vs_flop_ratio", "few4_vs_predicted", "latency_growth", "rss_growth_mb", "mfu"} <= figures.keys()
    assert (tmp_path / "roofline.png").stat().st_size > 5000
    assert bench.main([*words, "--minutes", "0"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == figures["rows"], "measured rows are read, not measured again"
    assert torch.get_num_threads() == threads
    path = next(tmp_path.rglob("training.json"))
    path.write_text(path.read_text().replace('"cpu"', '"another"'))
    with pytest.raises(ValueError, match=r"--out=.*training\.json was measured with device 'another', now 'cpu'; choose another folder"):
        bench.main(words)
    mark = bench.mark_of(torch.device("cpu"), Amount(), "none")
    assert {name for name, x in bench.mark_of(torch.device("cpu"), Amount(rounds=1), "both").items() if x != mark[name]} == {
        "amount",
        "codecs",
    }


def test_it_runs_with_pytorch_alone(tmp_path: Path) -> None:
    """From a checkout that is not installed, without NumPy: the embedded codecs need it, so nothing is decoded."""
    code = (
        "import runpy, sys; sys.modules['numpy'] = None; sys.argv[0] = sys.argv[1]; del sys.argv[1]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = ["bench", "model", "--quick", "--minutes", "0", "--json", "--out", str(tmp_path)]
    made = subprocess.run([sys.executable, "-c", code, str(bench.ROOT), *words], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "not measured" in json.loads(made.stdout.splitlines()[-1])["rows"]["stream-64x64"]
    assert json.loads((tmp_path / "tiny-cpu-quick" / "ceilings.json").read_text())["mark"]["codecs"] == "none"


@pytest.mark.slow
def test_a_row_that_fails_says_why_and_is_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tries: list[str] = []

    def broken(ceilings: Ceilings) -> dict:
        tries.append("")
        raise {1: torch.OutOfMemoryError("no room"), 2: RuntimeError("no compiler\nand more")}[len(tries)]

    rows = [bench.Row("stream-a", broken), bench.Row("training", lambda c: {"mfu": 0.5, "tokens_per_s": 1.0, "mfu_of": "it"})]
    for why in ("it does not fit into the device's memory", "RuntimeError: no compiler"):
        figures = bench.measured(rows, tmp_path, {}, torch.device("cpu"), float("inf"))
        assert figures["stream-a"] == {"not measured": why, "failed": True}
        assert figures["training"]["mfu"] == 0.5, "the others go on"
    assert {path.name for path in tmp_path.iterdir()} == {"ceilings.json", "training.json"}
    bench.print_table(figures)
    assert "not measured: RuntimeError: no compiler" in capsys.readouterr().err


def test_the_headline_of_a_gpu_is_of_the_compiled_rows_with_decoding() -> None:
    """In the order in which they are measured: eager is the baseline, and comes last."""

    def row(fps: float, predicted: float, **more: float) -> dict:
        return {"few4": {"fps": fps}, SHOWN: {"fps": fps - 1}, "few4_vs_predicted": predicted, **more}

    figures = {
        "stream-192x336": row(100, 0.0),
        "stream-192x336-multi50": row(90, 0.9),
        "stream-480x768": row(40, 0.0) | {SHOWN: {"fps": 35}},
        "stream-704x1280": {"not measured": "it does not fit", "failed": True},
        "stream-192x336-eager": row(50, 0.5, cached_vs_flop_ratio=0.7),
        "training-flex": {"mfu": 0.45},
        "training-dense": {"mfu": 0.25},
    }
    assert bench.headline(figures) == {
        "fps_192x336": 99,
        "fps_480x768": 35,
        "codec": "included",
        "cached_vs_flop_ratio": 0.7,
        "few4_vs_predicted": 0.9,
        "mfu": 0.45,
    }


def test_every_way_on_a_gpu_is_measured_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is then its own; and what is decoded beside the next chunk is not waited for after each."""
    alive: list[str] = []
    seen: list[tuple[str, tuple[str, ...]]] = []

    def way(name: str, chunks: int) -> Way:
        def make():
            alive.append(name)
            return lambda: seen.append((name, tuple(alive)))

        return Way(make, chunks)

    monkeypatch.setattr(_speed, "forget", lambda device: alive.clear())
    monkeypatch.setattr(_speed, "memory", lambda device: len(alive))
    monkeypatch.setattr(_speed, "seconds", lambda work, device: float(work() is None))
    ways = {"few4": way("few4", 1), SHOWN: way(SHOWN, 4)}
    times = times_of(ways, Amount(rounds=2, latency=3), torch.device("cuda"))
    assert times.held == {"few4": 1, SHOWN: 1}
    assert [name for name, _ in seen] == ["few4"] * (3 + 3) + [SHOWN] * (3 * 4 + 3)
    assert all(running == (name,) for name, running in seen)
    times = times_of(ways, Amount(rounds=2, latency=3), torch.device("cpu"))
    assert times.held == {"few4": 2, SHOWN: 2}, "on a CPU in turn: a ratio is of the same minutes"


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="--device='cuda': PyTorch sees no GPU here"):
        bench.main(["--device", "cuda"])
    with pytest.raises(ValueError, match="--device='gpu': not a device; choose cpu or cuda"):
        bench.main(["--device", "gpu"])


def test_the_command_line_names_the_benchmarks_when_one_is_unknown() -> None:
    result = CliRunner().invoke(app, ["bench", "no-such"])
    assert result.exit_code == 1
    assert "choose from" in result.stderr
    told = CliRunner().invoke(app, ["bench", "--help"]).stdout
    for name in ("model", "step", "ablation", "history"):
        assert name in result.stderr
        assert name in told
