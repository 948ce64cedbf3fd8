"""How exactly pictures and sound lie on the clock: clips with a time code, over containers, codecs, offsets, rates, gaps and cuts.

    _clock_clips (a file, and when all in it is due) -> open_film, from any place -> what is shown and heard when -> errors in ms

Pictures are decoded at 1000 frames a second, so that their error can be told to half a millisecond. Matroska and FLV round every
timestamp to a millisecond: sound that drifts can be told to half of it alone, so half of it is allowed besides.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..datasets.ffmpeg.ffmpeg_child import MediaError
from ..datasets.ffmpeg.film import open_film
from ..datasets.ffmpeg.film_command import DecodeConfig
from ..datasets.ffmpeg.probe import Probe, probe
from ._clock_clips import BITS, FORMATS, RATE, VARIANTS, Due, Format, Variant, click, due_in, make_clip, read_numbers

CONFIG = DecodeConfig(fps=1000, width=64, height=32, sample_rate=RATE)
WANTED_MS = 1.0
SECONDS = 3.0
CUTS = (0.0, 0.377, 1.013)  # where decoding begins; two are on no frame of anything
LONG_SECONDS, LONG_CUTS = 48.0, (35.377, 41.013)  # entered by the index, where there is one
LONG_FORMATS = ("mp4 h264+aac", "mkv h264+opus", "webm vp9+opus", "ts h264+aac")
SEARCH_S = 0.03  # around the place where a click is due
TO_THE_END_S = 0.15
QUICK_FORMATS, QUICK_VARIANTS, QUICK_CUTS = ("mp4 h264+aac", "mkv h264+opus", "avi mpeg4+mp3", "ts h264+aac"), 2, (0.0, 1.013)


@dataclass(frozen=True)
class Row:
    """The largest errors of one clip decoded from `cut_s` on, and of how many pictures and clicks; `not_made`: why there are none."""

    form: str
    variant: str
    cut_s: float
    picture_ms: float = float("nan")
    sound_ms: float = float("nan")
    pictures: int = 0
    clicks: int = 0
    wanted_ms: float = WANTED_MS
    not_made: str = ""

    @property
    def good(self) -> bool:
        exact = all(error <= self.wanted_ms for error in (self.picture_ms, self.sound_ms))
        return bool(self.not_made) or (exact and min(self.pictures, self.clicks) > 0)


def clock_rows(forms: Sequence[Format], variants: Sequence[Variant], cuts: Sequence[float], seconds: float, folder: Path) -> Iterator[Row]:
    """A row for every clip and cut, as they are measured."""
    for form in forms:
        for variant in variants:
            path = folder / f"clip.{form.suffix}"
            if reason := form.cannot_hold(variant):
                yield Row(form.name, variant.name, 0.0, not_made=reason)
                continue
            try:
                make_clip(path, form, variant, seconds)
            except MediaError as error:
                yield Row(form.name, variant.name, 0.0, not_made=f"{error.reason} ({error.said})")
                continue
            found, due = probe(path), due_in(path, form, variant, seconds)
            for cut_s in cuts:
                wanted_ms = WANTED_MS + (form.unit_ms / 2 if variant.stretch != 1 else 0)
                yield Row(form.name, variant.name, cut_s, *errors_ms(path, found, due, cut_s), wanted_ms)


def errors_ms(path: Path, found: Probe, due: Due, cut_s: float) -> tuple[float, float, int, int]:
    """The largest error of pictures and of clicks, in ms, and how many there were."""
    with open_film(path, found, CONFIG, cut_s) as film:
        cuts = []
        while cut := film.read(film.first + sum(c.count for c in cuts), 1000):
            cuts.append(cut)
        film.verdict()
    assert found.video_start_s is not None
    frames = np.concatenate([cut.frames for cut in cuts if cut.frames is not None])
    audio = np.concatenate([cut.audio for cut in cuts if cut.audio is not None])
    begin_s = film.first / CONFIG.fps
    zero_s = due.pictures[0] if found.container != "avi" else found.video_start_s
    shown = _picture_errors(read_numbers(frames), [time - zero_s for time in due.pictures], begin_s)
    heard = _click_errors(audio, [time - zero_s for time in due.clicks], begin_s)
    worst = [1000 * max(errors) if errors else float("nan") for errors in (shown, heard)]
    return worst[0], worst[1], len(shown), len(heard)


def _picture_errors(numbers: np.ndarray, due: list[float], begin_s: float) -> list[float]:
    """Seconds between when each picture is due and when it is first shown; of those that are shown before the cut there is none."""
    if (numbers < 0).any():
        return [float("inf")]
    changes = np.flatnonzero(np.diff(numbers)) + 1
    last = int(np.searchsorted(due, begin_s, "right")) - 1  # shown when the cut begins, or its neighbour where it is just now due
    known = [k for k in (last - 1, last, last + 1) if 0 <= k < len(due) and k % 2**BITS == numbers[0]]
    if not known:
        return [float("inf")]
    index, errors = known[0], []
    for n in changes:
        index += int((numbers[n] - numbers[n - 1]) % 2**BITS)
        errors.append(abs(begin_s + n / CONFIG.fps - due[index]) if index < len(due) else float("inf"))
    return errors


def _click_errors(audio: np.ndarray, due: list[float], begin_s: float) -> list[float]:
    """Seconds between when each click is due and where it is found nearby, to a fraction of a sample."""
    one, search, errors = click(RATE), round(SEARCH_S * RATE), []
    end_s = begin_s + len(audio) / RATE
    for time in due:
        if not max(begin_s, 0.0) + TO_THE_END_S / 3 < time < end_s - TO_THE_END_S:
            continue
        middle = round((time - begin_s) * RATE)
        match = np.correlate(audio[middle - search : middle + search + len(one)], one, "valid")
        peak = int(np.clip(np.argmax(match), 1, len(match) - 2))
        before, there, after = match[peak - 1 : peak + 2]
        bend = before - 2 * there + after
        offset = peak + (0.5 * (before - after) / bend if bend else 0.0) - search
        strong = there > 0.2 * float(one @ one)
        errors.append(abs(float(middle + offset) / RATE + begin_s - time) if strong else float("inf"))
    return errors


def print_table(rows: Sequence[Row]) -> None:
    print(f"{'container and codecs':<20}{'variant':<20}{'from s':>8}{'pictures':>10}{'error ms':>10}{'clicks':>8}{'error ms':>10}")
    for row in rows:
        if row.not_made:
            print(f"{row.form:<20}{row.variant:<20}  not made: {row.not_made}")
        else:
            print(
                f"{row.form:<20}{row.variant:<20}{row.cut_s:>8.3f}{row.pictures:>10}{row.picture_ms:>10.2f}{row.clicks:>8}{row.sound_ms:>10.2f}"
                + "  <-" * (not row.good)
            )


def main(arguments: list[str]) -> int:
    """See the module docstring; prints one JSON object as the last line with --json. The status is 1 where an error exceeds 1 ms."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench clock", description="How exactly pictures and sound lie on the clock.")
    parser.add_argument("--quick", action="store_true", help="some containers and variants: ten seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            forms = [form for form in FORMATS if form.name in QUICK_FORMATS]
            rows = list(clock_rows(forms, VARIANTS[:QUICK_VARIANTS], QUICK_CUTS, SECONDS, Path(folder)))
        else:
            rows = list(clock_rows(FORMATS, VARIANTS, CUTS, SECONDS, Path(folder)))
            long = [form for form in FORMATS if form.name in LONG_FORMATS]
            rows += clock_rows(long, [VARIANTS[0], VARIANTS[1], VARIANTS[-1]], LONG_CUTS, LONG_SECONDS, Path(folder))
    print_table(rows)
    made = [row for row in rows if not row.not_made]
    if options.json:
        worst = {kind: max(getattr(row, kind) for row in made) for kind in ("picture_ms", "sound_ms")}
        print(
            json.dumps(
                {
                    "name": "clock",
                    **worst,
                    "clips": len(made),
                    "rows": [{k: None if x != x else x for k, x in asdict(row).items()} for row in rows],
                }
            )
        )
    return int(not all(row.good for row in rows))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
