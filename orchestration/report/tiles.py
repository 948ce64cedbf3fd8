"""The report's first screen: five questions, each answered in words, with the figure that the answer rests on.

Pure functions of figures: `report.py` reads them from the run, the tests give known ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .evaluation import Evaluated
from .sections import MIN_CLIPS, Mode, StageTime, SyncRow
from .words import between, duration, number, signed, significant

LITTLE = 0.05  # a loss that fell by less, on the same clips and noise, has hardly moved

State = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Tile:
    """question; verdict: the answer in words; figure: what it rests on, empty where there is none; detail: what the figure is; section:
    where on the page it comes from; state: `open` where nothing was shown, either way; aside: a second question, and its answer;
    command: what would answer it.
    """

    question: str
    verdict: str
    figure: str
    detail: str
    section: str
    state: State
    aside: tuple[str, str] | None = None
    command: str = ""


@dataclass(frozen=True)
class Normal:
    """Whether losses are what the recipe shows: `Yes`, `No` or a dash, and why."""

    answer: str
    detail: str


@dataclass(frozen=True)
class Ends:
    """A stage's loss before and after it; title: what it is, where it is not the plain total."""

    stage: str
    before: float
    after: float
    title: str = ""

    @property
    def fell(self) -> bool:
        return self.after < self.before

    @property
    def little(self) -> bool:
        """Whether it fell by next to nothing, or not at all."""
        return not self.before - self.after >= LITTLE * abs(self.before)

    @property
    def figures(self) -> str:
        """With as many digits as tell them apart, up to five."""
        digits = next((n for n in (3, 4) if significant(self.before, n) != significant(self.after, n)), 5)
        return f"{significant(self.before, digits)} → {significant(self.after, digits)}"

    @property
    def words(self) -> str:
        return f"{self.stage}{self.title} {self.figures}"


MARKS = {"Yes": ":", "No": ","}  # what stands between an answer and its detail


def learned(ends: Sequence[Ends], normal: Normal | None) -> Tile:
    """Did the loss fall, on the same clips with the same noise where the run measured that, and is it what the recipe shows? The figure is
    that of the last stage that decides the answer.
    """
    question = "Did it learn?"
    aside = None if normal is None else ("Is my loss normal?", f"{normal.answer}{MARKS.get(normal.answer, '')} {normal.detail}")
    if not ends:
        return Tile(question, "Not known", "", "no stage logged a loss before and after it", "learning", "open", aside)
    fallen = sum(end.fell for end in ends)
    detail = f"{fallen} of {len(ends)} stages end at a lower loss than they began: {', '.join(end.words for end in ends)}"
    decides = [end for end in ends if not end.fell] or [end for end in ends if not end.little] or ends
    figure = decides[-1].words
    state: State = "bad" if normal is not None and normal.answer == "No" else "good"
    if fallen == 0:
        return Tile(question, "No", figure, detail, "learning", "bad", aside)
    if fallen < len(ends):
        return Tile(question, "In part", figure, detail, "learning", "bad", aside)
    if all(end.little for end in ends):
        return Tile(question, "Hardly", figure, detail, "learning", "bad" if state == "bad" else "open", aside)
    return Tile(question, "Yes", figure, detail, "learning", state, aside)


def in_sync(rows: Sequence[SyncRow], why: str, evaluated: Evaluated | None = None) -> Tile:
    """Does the mouth follow the voice? Of the first generated row, FEW, not of the best one, so that the figure is not chosen by its size.

    Args:
        rows: where the measure of the drawn characters holds; else none, and `why`.
        evaluated: tells it where they are none, from its own measure.
    """
    question = "Is it in sync?"
    row = next((row for row in rows if row.title != "Real"), None)
    if row is None:
        return _sync_of(evaluated) or Tile(question, "Does not apply" if why else "Not measured", "", why or NOT_MADE, "sync", "open")
    real = "".join(f"; real clips: gap {number(other.gap.value)}" for other in rows if other.title == "Real")
    told = "the mouth follows the voice" if row.verdict == "yes" else row.verdict
    detail = (
        f"{row.title}: own pairs correlate {number(row.matched)}, shuffled {number(row.shuffled)}; gap {between(row.gap)}, {told}{real}"
    )
    if row.count < MIN_CLIPS:
        return Tile(question, "Too few clips", signed(row.gap.value), detail, "sync", "open")
    if row.verdict == "yes":
        return Tile(question, "Yes", signed(row.gap.value), detail, "sync", "good")
    verdict, state = ("No", "bad") if row.gap.high < 0 else ("Not shown", "open")
    return Tile(question, verdict, signed(row.gap.value), detail, "sync", state)


NOT_MADE = "mouth against voice is not measured here (see Sync)"


def _sync_of(evaluated: Evaluated | None) -> Tile | None:
    row = None if evaluated is None else evaluated.row("sync_gap")
    if evaluated is None or row is None or row.windows[0] is None:
        return None
    gap = row.windows[0]
    real = "" if row.real is None else f"; real clips: gap {number(row.real.value)}"
    detail = f"gap to other clips' voices, {evaluated.windows[0]}, {between(gap)}, {evaluated.clips} clips{real}"
    if not math.isfinite(gap.low) or evaluated.clips < MIN_CLIPS:
        return Tile("Is it in sync?", "Too few clips", signed(gap.value), detail, "evaluation", "open")
    verdict, state = ("Yes", "good") if gap.low > 0 else ("No", "bad") if gap.high < 0 else ("Not shown", "open")
    return Tile("Is it in sync?", verdict, signed(gap.value), detail, "evaluation", state)


def drifts(evaluated: Evaluated | None, command: str, broken: str = "") -> Tile:
    """Are later windows of a long clip worse? The clips of a report are as long as those of training, and cannot tell.

    Args:
        command: what would measure it.
        broken: why an evaluation that is there cannot be read.
    """
    question = "Does it drift?"
    if evaluated is None:
        if broken:
            return Tile(question, "Not known", "", broken, "evaluation", "open")
        detail = "clips as long as those of training cannot tell; measure it:"
        return Tile(question, "Not measured", "", detail, "reproduce", "open", command=command)
    if evaluated.change is None:
        only = "it has one window" if len(evaluated.windows) < 2 else "it has no figure of drift"
        return Tile(question, "Not measured", "", f"{evaluated.file}: {only}; evaluate with --windows 0-5,5-15,15-25", "evaluation", "open")
    change = evaluated.change
    apart = change.apart
    detail = f"{change.title}, {change.last} minus {change.first} {between(apart)}, {evaluated.clips} clips"
    if not math.isfinite(apart.low) or evaluated.clips < MIN_CLIPS:
        return Tile(question, "Too few clips", signed(apart.value), detail, "evaluation", "open")
    verdict, state = ("Yes", "bad") if apart.low > 0 else ("No", "good") if apart.high < 0 else ("Not shown", "open")
    return Tile(question, verdict, signed(apart.value), detail, "evaluation", state)


def fast(modes: Sequence[Mode], fps: float | None, stages: Sequence[StageTime]) -> Tile:
    """How fast clips are made, against how fast they play, and how fast training takes them."""
    question = "How fast is it?"
    timed = [mode for mode in modes if mode.frames_per_s is not None]
    trained = f"training: {significant(stages[-1].samples_per_s)} clips/s ({stages[-1].stage})" if stages else ""
    if not timed:
        return Tile(question, "Not measured", "", trained or "nothing was generated, and no stage has ended", "time", "open")
    first, *others = timed
    assert first.frames_per_s is not None
    detail = f"{first.title}, {first.effort}, all held-out clips in one batch" + "".join(f"; {m.title}: {m.detail}" for m in others)
    detail += f"; {trained}" if trained else ""
    if fps is None:
        return Tile(question, "Measured", first.rate, detail, "time", "open")
    quicker = first.frames_per_s >= fps
    verdict = "Faster than it plays" if quicker else "Slower than it plays"
    return Tile(question, verdict, first.rate, f"{detail}; clips play at {fps:g} frames/s", "time", "good" if quicker else "open")


def cost(
    seconds: float | None,
    cores: float | None,
    gpus: Sequence[str],
    compute: str,
    stages: Sequence[StageTime],
    modes: Sequence[Mode],
    chunk_s: float | None,
) -> Tile:
    """What it took: time by the clock, the machine's hours, and evaluations of the network for a second of what it makes."""
    question = "What did it cost?"
    if seconds is None:
        return Tile(question, "Not known", "", "run.json holds no total time", "time", "open")
    hours = f"{significant(len(gpus) * seconds / 3600)} GPU hours" if gpus else ""
    if not gpus and cores is not None:
        hours = f"{significant(cores * seconds / 3600)} core hours"
    trained = f"; {duration(sum(stage.seconds for stage in stages))} of it in training steps" if stages else ""
    counted = [mode for mode in modes if mode.evaluations is not None]
    seconds_of = "" if chunk_s is None else f" of {chunk_s:g} s"
    evaluations = ", ".join(f"{mode.evaluations:g} with {mode.title}" for mode in counted)
    spent = f"; network evaluations a chunk{seconds_of}: {evaluations} (a guided step is two)" if counted else ""
    return Tile(question, duration(seconds), hours, f"on {compute}{trained}{spent}", "time", "open")
