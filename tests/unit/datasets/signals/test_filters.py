"""Each rule refuses what it names, says by how much, and can be turned off."""

import numpy as np
import pytest

from mutual_forcing.datasets.signals.filters import FilterConfig, refuse_reason, refuse_right, refuse_source, rule_of, still_share


def pictures(count: int = 50, luma: int = 100) -> np.ndarray:
    """A square of noise that is another in every picture."""
    frames = np.full((count, 8, 8, 3), luma, np.uint8)
    frames[:, :4, :4] = np.random.default_rng(0).integers(0, 2 * luma + 1, (count, 4, 4, 3), dtype=np.uint8)
    return frames


def sound(level: float = 0.1) -> np.ndarray:
    return level * np.sin(np.arange(2000, dtype=np.float32))


def test_a_good_clip_is_taken() -> None:
    assert refuse_reason(pictures(), sound(), FilterConfig()) is None


@pytest.mark.parametrize(("level", "refused"), [(-50.0, False), (-59.9, False), (-60.1, True), (-90.0, True)])
def test_silence_is_measured_in_decibels(level: float, refused: bool) -> None:
    audio = np.full(1000, 10 ** (level / 20), np.float32)
    reason = refuse_reason(pictures(), audio, FilterConfig())
    assert (reason is not None and reason.startswith("silent: ")) == refused
    assert refuse_reason(pictures(), audio, FilterConfig(min_rms_db=-300.0)) is None
    assert refuse_reason(pictures(), np.zeros_like(audio), FilterConfig()) is not None


@pytest.mark.parametrize(("luma", "refused"), [(0, True), (5, True), (6, False), (120, False)])
def test_black_is_measured_in_brightness(luma: int, refused: bool) -> None:
    frames = np.full((50, 8, 8, 3), luma, np.uint8)
    reason = refuse_reason(frames, sound(), FilterConfig(max_still=1))
    assert (reason is not None and reason.startswith("black: ")) == refused
    assert refuse_reason(frames, sound(), FilterConfig(max_still=1, min_luma=0)) is None


@pytest.mark.parametrize(("moving", "refused"), [(0, True), (1, False), (49, False)])
def test_a_frozen_picture_is_refused_unless_a_part_of_it_moves(moving: int, refused: bool) -> None:
    """Of 49 changes of picture; with one of them 97.96 % are none, where 98 % may be."""
    frames = np.repeat(pictures(1), 50, axis=0)
    frames[: moving + 1] = pictures(moving + 1)
    frames[moving + 1 :] = frames[moving]
    frames[-1, 0, 0, 0] ^= 1  # an encoder's noise
    reason = refuse_reason(frames, sound(), FilterConfig())
    assert (reason is not None and reason.startswith("frozen: ")) == refused
    assert refuse_reason(frames, sound(), FilterConfig(max_still=1)) is None


def test_a_picture_alone_is_not_frozen() -> None:
    assert still_share(pictures(1)) == 0.0


@pytest.mark.parametrize(("share", "refused"), [(0.0, False), (0.019, False), (0.021, True), (1.0, True)])
def test_clipped_sound_is_refused(share: float, refused: bool) -> None:
    audio = sound()
    audio[: round(share * len(audio))] = np.where(np.arange(round(share * len(audio))) % 2, 1.0, -1.0)
    reason = refuse_reason(pictures(), audio, FilterConfig())
    assert (reason is not None and reason.startswith(f"clipped sound: {100 * share:.1f} %")) == refused
    assert refuse_reason(pictures(), audio, FilterConfig(max_clipped=1)) is None


def test_a_small_source_is_refused_where_that_is_asked_for() -> None:
    assert refuse_source(32, 2000, FilterConfig()) is None
    assert refuse_source(480, 640, FilterConfig(min_side=480)) is None
    assert (
        refuse_source(640, 479, FilterConfig(min_side=480)) == "low resolution: 640 x 479 pixels, at least 480 on the shorter side wanted"
    )


@pytest.mark.parametrize("bad", [{"max_still": 1.1}, {"max_clipped": -0.1}, {"min_side": -1}])
def test_impossible_bounds_are_refused(bad: dict) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=rf"data\.filters\.{name}=.*: must be"):
        FilterConfig(**bad)


@pytest.mark.parametrize(
    ("reason", "rule"),
    [
        ("silent: -80 dB, at least -60 dB wanted", "silent"),
        ("same content as other: 3.mp4", "same content"),
        ("damaged: in 17 places over 30 frames", "damaged"),
        ("no picture decodes from 12.5 s on", "no picture decodes from n s on"),
        ("not a media file (.txt)", "not a media file"),
        ("not a media file (.csv): a list is read when it is named itself", "not a media file"),
        ("row 3: not JSON (Expecting ',' delimiter: line 1 column 2 (char 1))", "row: not JSON"),
        ("row 4: path='/films/a: b.mp4': no such file", "row: no such file"),
        ('row 4: path="it\'s.mp4": no such file', "row: no such file"),
        ("row 5: path='../x.mp4': leads out of the folder of the list; give an absolute path", "row: leads out of the folder of the list"),
        ("row 7: no `path`", "row: no `path`"),
        ("row 8: path='http://h/x.mp4': a URL, which is not fetched; copy it here", "row: a URL, which is not fetched"),
        ("row 9: videoID=abc: no such .mp4 below the folder of the list", "row: no such .mp4 below the folder of the list"),
        ("row 12: 3 timestamps and 2 captions", "row: n timestamps and n captions"),
        ("row 2: spans[1]='x': need [start, end]", "row: need [start, end]"),
        ("sidecar g: h.json: not JSON (char 1); mend or remove it", "sidecar: not JSON"),
        (
            "sidecar i.json: transcript[0]: need 0 <= start <= end, not from 2.0 to 1.0 s",
            "sidecar: need n <= start <= end, not from n to n s",
        ),
        ("sidecar i.json: transcript[7]={'word': 'a: b'}: must look like {...}", "sidecar: must look like {...}"),
        ("sidecar b.txt: not UTF-8; write it again as UTF-8", "sidecar: not UTF-8"),
        ("sidecar i.json: two licences, 'a' and 'b'; remove one of them", "sidecar: two licences, ... and ..."),
        ("sidecar a.txt: gives a caption too: a.json does; remove one of them", "sidecar: gives a caption too"),
    ],
)
def test_reasons_are_counted_by_their_rule(reason: str, rule: str) -> None:
    assert rule_of(reason) == rule


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (["CC-BY-4.0"], None),
        (["cc-by-4.0 ", "CC0-1.0"], None),
        (["CC-BY-NC-4.0"], "licence: 'CC-BY-NC-4.0', one of CC-BY-4.0, CC0-1.0 wanted"),
        (["CC0-1.0", ""], "licence: none is told"),
        ([""], "licence: none is told"),
    ],
)
def test_a_source_must_be_under_a_licence_that_is_allowed(told: list[str], reason: str | None) -> None:
    assert refuse_right("licence", told, ("CC-BY-4.0", "CC0-1.0")) == reason
    assert refuse_right("licence", told, ()) is None
    with pytest.raises(ValueError, match=r"data\.filters\.licences=.*an empty name allows nothing; name licences as tags do"):
        FilterConfig(licences=("",))
    with pytest.raises(ValueError, match=r"data\.filters\.consents=.*an empty name allows nothing; name consents as tags do"):
        FilterConfig(consents=("training", " "))
