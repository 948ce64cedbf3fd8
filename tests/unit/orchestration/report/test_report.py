"""The report of small run folders: complete, half-finished and hostile ones."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mutual_forcing.datasets.drawn.sync import SyncSummary
from mutual_forcing.datasets.ffmpeg.media import write_media
from mutual_forcing.datasets.views.contact_sheet import SheetClip, contact_sheet
from mutual_forcing.orchestration.generation.samples import _sync
from mutual_forcing.orchestration.report.page import build_report, duration, number, significant
from mutual_forcing.orchestration.report.plots import age_chart, loss_chart, smooth, sync_chart
from mutual_forcing.orchestration.run_reader import Series

STAGES = ("faces-first", "everything")  # names of nobody's recipe
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """The page's elements with their attributes and its visible text; fails on an element that is closed in the wrong order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.bodies: dict[str, str] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.bodies[self.open[-1]] = data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def metric_lines(stage: str, steps: int) -> list[str]:
    lines = []
    for step in range(steps):
        metrics = {"loss": 2.0 - step / steps, "loss/fm_video": 1.0 - 0.5 * step / steps, "step_s": 0.5, "rollout_wait_s": 0.0}
        if stage == STAGES[-1]:
            metrics |= {
                "dmd": 0.1 + step,
                "loss/dmd_audio": 0.3,
                "loss/fake_fresh": 1.2,
                **({"share/fm": 0.1, "share/fake": 0.5 + 0.2 * (step > 0)} if step in (0, 5) else {}),
                "skipped": float(step == 4),
                "age/0": 1.0,
                "age/2": 3.0,
                "rollout_wait_s": 0.1,
                # Another attempt began at step 4: its counters begin again.
                **{f"pool/{name}": x for name, x in {"actors": 2, "wanted": 3, "busy": 0.75, "late": 0, "dropped": 0}.items()},
                "pool/replaced": float([1, 1, 2, 2, 1, 1][min(step, 5)]),
            }
        if step in (0, steps - 1):
            metrics |= {"probe/loss": 1.5 - step / (2 * steps), "probe/fm_audio": 0.5}
        lines.append(json.dumps({"stage": stage, "step": step, "time": 0.0, "metrics": metrics}))
    return lines


def sync_figures(matched: float, low: float) -> dict[str, Any]:
    """As a run writes them: reader and writer cannot disagree about a name."""
    gap = matched - 0.3
    return _sync(SyncSummary(12, matched, 0.1, 0.3, 0.1, gap, low, gap + 0.05, -0.042, 0.01))


def samples_record() -> dict[str, Any]:
    clip = {"id": "held-out-0", "caption": "a calm speaker", "words": [{"word": "ma", "start": 0.1, "end": 0.4}]}
    clip |= {"real": "real-000.mp4", "generated": {"few4": "few4-000.mp4", "multi": "multi-000.mp4"}}
    generation = {"few4": {"evaluations_per_chunk": 4, "frames_per_s": 31.25}}
    return {
        "proxy_valid": True,
        "clips": [clip],
        "sync": {"real": sync_figures(0.7, 0.35), "few4": sync_figures(0.5, -0.01)},
        "generation": generation,
    }


def evaluation_record(last: float = 0.3) -> dict[str, Any]:
    """As `evaluate` writes it, one figure alone."""

    def figure(value: float, reach: float = 0.0) -> dict[str, Any]:
        ends = {"low": round(value - reach, 6), "high": round(value + reach, 6)} if reach else {"low": None, "high": None}
        return {"value": value, **ends, "clips": 3}

    name = "frechet_random_joint"
    return {
        "version": 1,
        "created": "2026-11-24T10:00:00+00:00",
        "command": "mutual-forcing evaluate runs/tiny-1",
        "prompts": list("abcdefgh"),
        "metrics": [{"name": name, "unit": "", "higher_is_better": False}, {"name": "sync_gap", "unit": ""}],
        "real": {name: figure(0.1), "sync_gap": {"value": None, "why": "no face was found", "clips": 0}},
        "runs": [
            {
                "name": "tiny-1",
                "run": "runs/tiny-1",
                "windows": {"0-5 s": {name: figure(0.2, 0.05)}, "15-25 s": {name: figure(0.5, 0.1)}},
                "last_window_minus_first": {name: figure(last, 0.2)},
            }
        ],
    }


def run_record() -> dict[str, Any]:
    return {
        "name": "tiny-1",
        "recipe": "tiny",
        "created": "2026-11-23T09:12:00+00:00",
        "git_commit": "0123456789abcdef",
        "config": {
            "seed": 7,
            "data": {"timeline": {"fps": 24, "chunk_frames": 12}},
            "stages": [{"name": name, "objective": kind} for name, kind in zip(STAGES, ("flow", "mutual"), strict=True)],
        },
        "versions": {"torch": "2.13.0"},
        "machine": {"cores": 2, "memory_gb": 24.0, "gpus": [], "system": "Linux"},
        "commands": ["mutual-forcing train tiny"],
        "stages": [{"name": "joint", "steps": 20, "seconds": 10.0, "samples": 80}],
        "mlflow": {"tracking_uri": "sqlite:///mlflow.db", "run_id": "abc"},
        "total_seconds": 95.0,
    }


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A real, short clip and a real contact sheet: made once, copied into every run folder."""
    folder = tmp_path_factory.mktemp("media")
    frames = np.broadcast_to(np.arange(0, 240, 20, dtype=np.uint8)[:, None, None, None], (12, 16, 16, 3)).copy()
    audio = np.sin(np.arange(8000) / 5).astype(np.float32)
    write_media(folder / "clip.mp4", frames, 24, audio, 16000)
    contact_sheet([SheetClip("clip", frames, audio, 24, 16000)], folder / "sheet.png")
    return {name: (folder / name).read_bytes() for name in ("clip.mp4", "sheet.png")}


@pytest.fixture
def run_dir(tmp_path: Path, media: dict[str, bytes]) -> Path:
    for folder in ("metrics", "samples", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run.json").write_text(json.dumps(run_record()))
    (tmp_path / "samples/samples.json").write_text(json.dumps(samples_record()))
    for name in ("real-000", "few4-000", "multi-000"):
        (tmp_path / f"samples/{name}.mp4").write_bytes(media["clip.mp4"])
    for folder in ("samples", "data"):
        (tmp_path / folder / "contact.png").write_bytes(media["sheet.png"])
    manifest = {"codec_quality": {"video_psnr_db": 33.3, "audio_snr_db": 18.8}, "clips": 64, "hours": 0.1}
    (tmp_path / "data/manifest.json").write_text(json.dumps(manifest))
    sources = [{"path": "a.mp4", "status": "used", "clips": 2, "seconds": 10.4}]
    sources.append({"path": "b.mp4", "status": "refused", "reason": "it has no pictures"})
    (tmp_path / "data/sources.jsonl").write_text("\n".join(map(json.dumps, sources)) + "\n")
    for stage in STAGES:
        (tmp_path / f"metrics/{stage}.jsonl").write_text("\n".join(metric_lines(stage, 20)) + "\n")
    return tmp_path


def page_of(run_dir: Path) -> Page:
    return Page(build_report(run_dir).read_text(encoding="utf-8"))


def test_a_complete_run_has_no_gaps_and_every_figure_comes_from_the_data(run_dir: Path) -> None:
    page = page_of(run_dir)
    assert "Not available" not in page.words
    for expected in (
        "trained from scratch in 1 min 35 s on 2 CPU cores, without a GPU",
        "4 evaluations a chunk, 31.2 frames/s",
        "a calm speaker",
        "Did it learn? Yes everything 1.50 → 1.02 2 of 2 stages end at a lower loss than they began: "
        "faces-first 1.50 → 1.02, everything 1.50 → 1.02",
        "Is it in sync? Not shown +0.20 FEW 4: own pairs correlate 0.50, shuffled 0.30; gap [−0.01, 0.25], not shown: the interval reaches "
        "zero; real clips: gap 0.40",
        "Does it drift? Not measured clips as long as those of training cannot tell; measure it: "
        f"mutual-forcing evaluate {run_dir} --out {run_dir}/evaluation",
        "How fast is it? Faster than it plays 31.2 frames/s FEW 4, 4 evaluations a chunk, all held-out clips in one batch; training: "
        "8.00 clips/s (joint); clips play at 24 frames/s",
        "What did it cost? 1 min 35 s 0.0528 core hours on 2 CPU cores, without a GPU; 10 s of it in training steps; network evaluations "
        "a chunk of 0.5 s: 4 with FEW 4 (a guided step is two)",
        "Real 0.70 0.30 0.40 [0.35, 0.45] yes −42 ms 12",
        "FEW 4 0.50 0.30 0.20 [−0.01, 0.25] not shown: the interval reaches zero −42 ms 12",
        "80 rollouts, mean age 1.50, oldest 2. Training waited for rollouts in 20 % of its time.",
        "Actors: 2, at work in 75 % of their time; 3 would keep the training busy. Replaced: 3; requests that were late: 0;",
        "picture 33.3 dB PSNR, sound 18.8 dB SNR",
        "Of 2 sources, 1 were used and 1 refused.",
        "it has no pictures",
        "mutual-forcing train tiny",
        "23 November 2026, 09:12 UTC",
    ):
        assert expected in page.words
    assert page.words.index("b.mp4") < page.words.index("a.mp4"), "refused sources come first"


@pytest.mark.parametrize(("dirty", "shown"), [(True, True), (False, False), (None, False)])
def test_uncommitted_changes_stand_beside_the_commit(run_dir: Path, dirty: bool | None, shown: bool) -> None:
    (run_dir / "run.json").write_text(json.dumps(run_record() | {"git_dirty": dirty}))
    assert ("commit 0123456789ab with uncommitted changes" in page_of(run_dir).words) == shown


def test_every_figure_of_the_first_screen_leads_to_the_command_that_made_it(run_dir: Path) -> None:
    (run_dir / "evaluation").mkdir()
    (run_dir / "evaluation/evaluation.json").write_text(json.dumps(evaluation_record()))
    page = page_of(run_dir)
    html = (run_dir / "report.html").read_text()
    figures = re.findall(r'<p class="figure"><a href="#([^"]+)" title="([^"]*)">([^<]+)</a>', html)
    train, evaluate = ("made", "mutual-forcing train tiny"), ("made-evaluation", "mutual-forcing evaluate runs/tiny-1")
    assert [(place, command) for place, command, _ in figures] == [train, train, evaluate, train, train]
    for place, command in (train, evaluate):
        assert re.search(rf'<div id="{place}">.*?<pre>{command}\s*</pre>', html, re.DOTALL)
    targets = {str(attributes["id"]) for _, attributes in page.elements if attributes.get("id")}
    assert {str(link["href"])[1:] for link in page.all("a")} <= targets
    assert (
        "Does it drift? Yes +0.30 Fréchet distance of picture and sound to real clips, 15-25 s minus 0-5 s [0.10, 0.50], 8 clips"
        in page.words
    )
    assert "frechet random joint 0.100 0.200 [0.150, 0.250] 0.500 [0.400, 0.600]" in page.words


def test_a_broken_evaluation_is_named_and_an_older_one_is_passed_over(run_dir: Path) -> None:
    folder = run_dir / "evaluation"
    folder.mkdir()
    (folder / "evaluation.json").write_text("{")
    words = page_of(run_dir).words
    assert "Does it drift? Not known evaluation/evaluation.json" in words
    assert "Not available. evaluation/evaluation.json" in words
    for name, created, last in (("old", "2026-01-01", -0.9), ("new", "2026-02-01", 0.3)):
        (folder / name).mkdir()
        (folder / name / "evaluation.json").write_text(json.dumps(evaluation_record(last) | {"created": created}))
    assert "Does it drift? Yes +0.30" in page_of(run_dir).words


def test_an_interval_over_too_few_clips_decides_nothing(run_dir: Path) -> None:
    samples = samples_record()
    samples["sync"]["few4"] |= {"n": 2, "gap_ci": [0.2, 0.2]}
    (run_dir / "samples/samples.json").write_text(json.dumps(samples))
    words = page_of(run_dir).words
    assert "FEW 4 0.50 0.30 0.20 (too few clips for an interval) too few clips to say (below 8)" in words
    assert "the mouth follows the voice" not in words


def test_the_clips_on_the_page_are_the_files_of_the_run(run_dir: Path, media: dict[str, bytes]) -> None:
    videos = page_of(run_dir).all("video")
    assert [video["aria-label"] for video in videos] == ["Real, held-out-0", "FEW 4, held-out-0", "MULTI, held-out-0"]
    for video in videos:
        head, payload = str(video["src"]).split(",")
        assert head == "data:video/mp4;base64"
        assert base64.b64decode(payload) == media["clip.mp4"]
        assert base64.b64decode(str(video["poster"]).split(",")[1]).startswith(b"\x89PNG")


def test_first_and_last_tenth_are_the_means_that_the_legend_prints(run_dir: Path) -> None:
    # 20 values from 2.0 in steps of 0.05: first two 2.0 and 1.95, last two 1.1 and 1.05.
    assert "total 1.98 1.08 −46 %" in page_of(run_dir).words


def test_the_same_clips_before_and_after_a_stage_answer_whether_it_learnt(run_dir: Path) -> None:
    words = page_of(run_dir).words
    assert "same clips, same noise before after change total 1.500 1.025 −32 % flow matching, audio 0.5000 0.5000 +0 %" in words
    assert "stages end at a lower loss than they began: " in words
    assert f"{STAGES[-1]} 1.50 → 1.02" in words


def test_a_sick_signal_is_an_alert_with_its_step_and_a_remedy(run_dir: Path) -> None:
    assert "Alert. step 4: skipped=1 (healthy: 0): a loss or a gradient was not finite" in page_of(run_dir).words


def test_the_stages_are_those_of_the_runs_configuration(run_dir: Path) -> None:
    words = page_of(run_dir).words
    assert "faces-first flow matching" in words
    assert words.index("faces-first flow matching") < words.index("everything dual mode: flow matching, ShortCut and DMD")
    record = run_record()
    del record["config"]["stages"]
    (run_dir / "run.json").write_text(json.dumps(record))
    assert "Not available. run.json: config has no 'stages'" in page_of(run_dir).words


def test_the_direction_of_dmd_stands_apart_from_the_losses(run_dir: Path) -> None:
    page = page_of(run_dir)
    charts = [str(svg.get("aria-label", "")) for svg in page.all("svg")]
    assert [label for label in charts if "DMD" in label] == ["Size of DMD's direction against step, stage everything"]
    # 20 values from 0.1 in steps of 1: first two 0.1 and 1.1, last two 18.1 and 19.1.
    assert "DMD, weighted 0.600 18.6 × 31" in page.words
    assert "fake score, unseen samples 1.20 1.20 +0 %" in page.words
    assert "steps skipped because a gradient was not finite: 1" in page.words
    assert "total, with DMD" not in page.words
    assert page.words.count("Time of a step: flow matching 10 %, fake score 60 %.") == 1, (
        "means over the metered steps of the one such stage"
    )


def test_a_run_of_an_older_release_says_that_its_total_holds_dmd(run_dir: Path) -> None:
    spool = run_dir / f"metrics/{STAGES[-1]}.jsonl"
    spool.write_text(spool.read_text().replace('"dmd": ', '"other": '))
    words = page_of(run_dir).words
    assert "total, with DMD 1.98 1.08 −46 %" in words
    assert "DMD, audio 0.300 0.300 +0 %" in words


def test_the_page_asks_for_nothing_outside_itself(run_dir: Path) -> None:
    page = page_of(run_dir)
    for _, attributes in page.elements:
        for name in ("src", "href", "poster", "action", "data", "srcset"):
            assert str(attributes.get(name, "#")).startswith(("data:", "#"))
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    policy = next(str(meta["content"]) for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.bodies[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(r"url\(|@import", page.bodies["style"])


def test_a_real_corpus_is_told_that_the_sync_measure_does_not_hold(run_dir: Path) -> None:
    (run_dir / "samples/samples.json").write_text(json.dumps(samples_record() | {"proxy_valid": False}))
    page = page_of(run_dir)
    assert "on real faces it says nothing, so it is not reported" in page.words
    assert "Is it in sync? Does not apply the measure reads the mouths of the synthetic characters" in page.words
    for figure in ("own pairs correlate", "0.70 0.30", "FEW 4 0.50"):
        assert figure not in page.words, "an invalid figure must be printed nowhere"


PARTS = ["samples/samples.json", "data/manifest.json", "data/sources.jsonl", "samples/few4-000.mp4", "data/contact.png"]


@pytest.mark.parametrize("name", [*PARTS, *(f"metrics/{stage}.jsonl" for stage in STAGES)])
@pytest.mark.parametrize("damage", ["removed", "truncated", "wrong"])
def test_a_missing_or_broken_part_is_named_and_the_rest_is_shown(run_dir: Path, name: str, damage: str) -> None:
    path = run_dir / name
    if damage == "removed":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    else:
        path.write_text('{"step": "x", "clips": 3, "source": null, "sync": [], "metrics": 4}')
    page = page_of(run_dir)
    if name.endswith((".json", ".mp4")) or damage == "removed":
        assert "Not available" in page.words
        assert name.split("/")[1] in page.words
    assert "mutual-forcing train tiny" in page.words


def test_only_run_json_is_needed_and_a_stranger_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.json.*give the folder"):
        build_report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        build_report(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert page_of(tmp_path).words.count("Not available.") == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run.json"]


def test_hostile_texts_stay_texts(run_dir: Path) -> None:
    evil = "</script></style><script>alert(1)</script><img src=x onerror=alert(1)>\"' {{ 7*7 }}"
    record = run_record() | {"name": evil, "recipe": evil, "commands": [evil], "config": {evil: evil}, "versions": {evil: evil}}
    (run_dir / "run.json").write_text(json.dumps(record | {"created": evil, "mlflow": {evil: evil}}))
    samples = samples_record()
    samples["clips"][0] |= {"id": evil, "caption": evil, "words": [{"word": evil, "start": 0, "end": 1}]}
    samples["sync"][evil] = samples["sync"]["real"]
    samples["clips"][0]["generated"][evil] = evil
    (run_dir / "samples/samples.json").write_text(json.dumps(samples))
    (run_dir / "data/sources.jsonl").write_text(json.dumps({"path": evil, "status": evil, "reason": evil + "\ud800"}))
    page = page_of(run_dir)
    assert len(page.all("script")) == 1
    assert all(str(image["src"]).startswith("data:") for image in page.all("img"))
    assert "onerror=alert(1)>\"' {{ 7*7 }}" in page.words


def test_files_outside_the_run_are_never_embedded(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.mp4"
    secret.write_bytes(b"top secret bytes")
    (run_dir / "samples/link.mp4").symlink_to(secret)
    samples = samples_record()
    samples["clips"][0] |= {"real": str(secret), "generated": {"few4": f"../../{secret.name}", "multi": "link.mp4"}}
    (run_dir / "samples/samples.json").write_text(json.dumps(samples))
    page = page_of(run_dir)
    assert page.all("video") == []
    assert page.words.count("leads out of the run folder") == 2
    assert "secret.mp4 is not there" in page.words, "an absolute name is read inside the samples folder"


def test_a_resumed_run_counts_each_step_once_and_says_what_it_skipped(run_dir: Path) -> None:
    lines = metric_lines(STAGES[-1], 20)
    torn = [*lines[:12], lines[12][:30] + lines[10], *lines[10:]]  # killed while writing step 12, resumed from step 10
    bad = json.dumps({"stage": STAGES[-1], "step": 20, "time": 0.0, "metrics": {"loss": float("nan")}})
    (run_dir / f"metrics/{STAGES[-1]}.jsonl").write_text("\n".join([*torn, bad]))
    words = page_of(run_dir).words
    assert "80 rollouts, mean age 1.50" in words
    assert "values that are not finite numbers: 1; torn lines skipped: 1" in words


def test_smoothing_keeps_constants_length_and_the_range() -> None:
    values = np.random.default_rng(0).normal(size=137)
    assert smooth(np.full(50, 3.5)) == pytest.approx(np.full(50, 3.5))
    assert smooth(values).shape == values.shape
    assert values.min() <= smooth(values).min() <= smooth(values).max() <= values.max()
    assert smooth(values)[60] == pytest.approx(values[54:67].mean())


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-1.0, -3.0, 2.0], [1e-9, 1e9], [5.0] * 3, [1e300, 1e-300]])
def test_every_loss_draws_inside_its_frame(values: list[float]) -> None:
    series = Series(np.arange(len(values), dtype=float), np.array(values))
    svg = loss_chart([("total", series)], "a chart")
    points = [float(part) for line in re.findall(r'points="([^"]+)"', svg) for pair in line.split() for part in pair.split(",")]
    assert points
    assert all(0 <= x <= 420 for x in points[::2])
    assert all(0 <= y <= 230 for y in points[1::2])


def test_age_bars_have_the_heights_of_their_shares() -> None:
    heights = [float(height) for height in re.findall(r'class="bar"[^>]*height="([^"]+)"', age_chart({0: 1, 1: 0, 4: 3}, "ages"))]
    assert len(heights) == 2
    assert heights[1] / heights[0] == pytest.approx(3, abs=0.02)


def test_sync_dots_lie_in_the_order_of_their_values() -> None:
    nan = float("nan")
    svg = sync_chart([("real", 0.7, 0.3), ("few", nan, -0.1)], "")
    places = [float(x) for x in re.findall(r'<circle[^>]*cx="([^"]+)"', svg)]
    assert len(places) == 3
    assert places[2] < places[0] < places[1]
    assert svg.count('class="gap"') == 1
    assert "nan" not in svg


def test_figures_read_well() -> None:
    assert [duration(s) for s in (0.25, 42, 59.7, 582, 11100, float("inf"))] == [
        "0.2 s",
        "42 s",
        "1 min 00 s",
        "9 min 42 s",
        "3 h 05 min",
        "unknown",
    ]
    assert [number(-0.5), number(None), number(float("nan")), significant(1.6), significant(100.2)] == ["−0.50", "–", "–", "1.60", "100"]
