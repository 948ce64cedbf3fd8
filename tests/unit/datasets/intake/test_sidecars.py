"""Text beside media: every form read, a bad one refused by name, words cut onto the clip's clock."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.intake.sidecars import MAX_SIDECAR_BYTES, Sidecar, cut_words, merged, parse_sidecar, read_sidecar, tags_of


def test_a_sidecar_that_cannot_be_read_is_refused_by_name(tmp_path):
    (tmp_path / "a.json").symlink_to("/proc/self/mem")  # a file whose first byte nobody may read
    with pytest.raises(ValueError, match=r"sidecar a\.json: cannot be read \(Input/output error\); change its permissions"):
        read_sidecar(tmp_path / "a.mp4")


def test_a_sidecar_is_read(tmp_path):
    media = tmp_path / "a.b.mp4"
    assert read_sidecar(media) == Sidecar()
    transcript = [{"word": "größe", "start": 0, "end": 0.5}, {"word": "猫", "start": 0.5, "end": 0.5}]
    (tmp_path / "a.b.json").write_text(json.dumps({"caption": "A cat.", "transcript": transcript, "other": 1}))
    assert read_sidecar(media) == Sidecar("A cat.", (("größe", 0.0, 0.5), ("猫", 0.5, 0.5)), tags=(("other", "1"),))
    (tmp_path / "a.b.json").write_text("{}")
    assert read_sidecar(media) == Sidecar()
    assert read_sidecar(tmp_path / "a.b.json") == Sidecar()


def test_the_sidecar_of_the_documentation_is_one():
    text = (Path(__file__).parents[4] / "docs" / "data.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    sidecar = parse_sidecar(json.loads(example), "talk.json")
    assert sidecar.caption
    assert sidecar.words[0] == ("good", 0.31, 0.52)


def word(**change: object) -> str:
    return json.dumps({"transcript": [{"word": "a", "start": 0.1, "end": 0.2, **change}]})


BAD_SIDECARS = [
    ("", "not JSON"),
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ('{"transcript": [{"word": "a", "start": ' + "9" * 5000 + ', "end": 1}]}', "not JSON"),
    ('{"transcript": [{"word": "a", "start": ' + "9" * 400 + ', "end": 1}]}', r"transcript\[0\]"),
    ('["hello"]', r"transcript\[0\]='hello': must look like"),
    ("3", "must look like"),
    ('{"caption": 3}', "must look like"),
    ('{"transcript": "hello"}', "must look like"),
    ('{"transcript": ["hello"]}', r"transcript\[0\]='hello': must look like"),
    ('{"transcript": [{"word": "a"}]}', r"transcript\[0\]"),
    (word(start="soon"), "must look like"),
    (word(start=None), "must look like"),
    (word(start=float("nan")), "0 <= start <= end"),
    (word(end=float("inf")), "0 <= start <= end"),
    (word(start=-0.1), "0 <= start <= end"),
    (word(start=0.3), "0 <= start <= end"),
    (word(word="\ud83d"), "surrogate"),
    ('{"caption": "\\ud800"}', "surrogate"),
    ('{"caption": "' + "x" * MAX_SIDECAR_BYTES + '"}', "larger than"),
]


@pytest.mark.parametrize(("text", "reason"), BAD_SIDECARS, ids=[f"{i} {reason[:14]}" for i, (_, reason) in enumerate(BAD_SIDECARS)])
def test_a_bad_sidecar_is_refused_by_name(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=reason) as refused:
        read_sidecar(tmp_path / "a.mp4")
    assert str(refused.value).startswith("sidecar a.json: ")
    assert len(str(refused.value)) < 400


def test_a_sidecar_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"caption": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"sidecar a\.json: not JSON"):
        read_sidecar(tmp_path / "a.mp4")


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 40)), max_size=12), st.integers(0, 8), st.integers(1, 100))
def test_every_word_lands_in_each_clip_in_which_it_sounds(spans, first, length):
    """On a grid of 1/64 s, which floating point holds exactly, so that the algebra can be exact."""
    words = tuple((f"w{i}", start / 64, (start + long) / 64) for i, (start, long) in enumerate(spans))
    start, seconds = first * length / 64, length / 64
    cut = {name: (s, e) for name, s, e in cut_words(words, start, seconds)}
    for name, s, e in words:
        assert (name in cut) == (max(s, start) < min(e, start + seconds) or (s == e and start < s < start + seconds))
        if name in cut:
            assert cut[name] == (s - start, e - start)


SRT = """1
00:00:01,000 --> 00:00:03,000
Hello <i>big</i>
world

2
00:00:00,250 --> 00:00:00,750
So
"""
VTT = """WEBVTT

00:01.000 --> 00:03.000 align:start
Hello big world

NOTE nobody says this

00:00.250 --> 00:00.750
So
"""
SAID = (("So", 0.25, 0.75), ("Hello", 1.0, 1.75), ("big", 1.75, 2.25), ("world", 2.25, 3.0))


@pytest.mark.parametrize(("name", "text"), [("a.srt", SRT), ("a.vtt", VTT), ("a.srt", "\ufeff" + SRT.replace("\n", "\r\n"))])
def test_words_of_a_cue_share_its_time_by_their_letters(tmp_path: Path, name: str, text: str) -> None:
    """Six, four and six of sixteen, each with the gap after it; cues in the order in which they sound."""
    (tmp_path / name).write_text(text, newline="")
    assert read_sidecar(tmp_path / "a.mp4") == Sidecar("", SAID)


def test_a_caption_and_subtitles_are_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A cat\n sings.\n")
    (tmp_path / "a.srt").write_text(SRT)
    assert read_sidecar(tmp_path / "a.mp4") == Sidecar("A cat sings.", SAID)
    (tmp_path / "a.json").write_text('{"transcript": []}')
    assert read_sidecar(tmp_path / "a.mp4") == Sidecar("A cat sings.", SAID), "an empty transcript says nothing"


@pytest.mark.parametrize(
    ("other", "what"),
    [("a.vtt", "transcript"), ("a.json", "transcript"), ("a.txt", "caption")],
)
def test_of_two_texts_none_is_taken(tmp_path: Path, other: str, what: str) -> None:
    files = {
        "a.vtt": VTT.replace("So", "No"),
        "a.json": json.dumps({"transcript": [{"word": "a", "start": 0, "end": 1}]}),
        "a.txt": "A dog.",
    }
    (tmp_path / "a.srt").write_text(SRT)
    if what == "caption":
        (tmp_path / "a.json").write_text('{"caption": "A cat."}')
    (tmp_path / other).write_text(files[other])
    with pytest.raises(ValueError, match=rf"sidecar a\.(srt|vtt|txt): gives a {what} too: a\.(json|srt) does; remove one of them"):
        read_sidecar(tmp_path / "a.mp4")


def test_two_files_that_say_the_same_are_one_text(tmp_path: Path) -> None:
    """As Panda-70M's own tool leaves them: the caption in .txt, and once more in .json with what else is known."""
    (tmp_path / "a.txt").write_text("A dog is\n running.\n")
    (tmp_path / "a.json").write_text('{"caption": "A dog is running.", "matching_score": 0.48, "key": "0000000_00000"}')
    for suffix, text in ((".srt", SRT), (".vtt", VTT)):
        (tmp_path / f"a{suffix}").write_text(text)
    assert read_sidecar(tmp_path / "a.mp4") == Sidecar(
        "A dog is running.", SAID, tags=(("matching_score", "0.48"), ("key", "0000000_00000"))
    )


def test_what_emilia_has_beside_a_sound_is_spoken_and_tagged(tmp_path: Path) -> None:
    about = {
        "id": "EN_B00000_S00000_W000000",
        "wav": "EN_B00000/EN_B00000_S00000/mp3/EN_B00000_S00000_W000000.mp3",
        "text": " Good  morning, all.",
        "duration": 4.5,
        "speaker": "EN_B00000_S00000",
        "language": "en",
        "dnsmos": 3.2927,
    }
    (tmp_path / "a.json").write_text(json.dumps(about))
    tags = (("speaker", "EN_B00000_S00000"), ("language", "en"), ("dnsmos", "3.2927"))
    found = read_sidecar(tmp_path / "a.mp3")
    assert found == Sidecar(spoken="Good morning, all.", tags=tags)
    assert found.over(4.75) == Sidecar("", (("Good", 0.0, 1.25), ("morning,", 1.25, 3.5), ("all.", 3.5, 4.75)), tags=tags)
    with pytest.raises(ValueError, match=r"words without times for 61 s; at most 60 s: give words with start and end"):
        found.over(61.0)
    yodas = {"_id": "EN_x_W000001", "phone_count": 7, **{k: about[k] for k in ("text", "speaker", "language", "dnsmos", "duration")}}
    assert parse_sidecar(yodas, "a.json") == Sidecar(spoken="Good morning, all.", tags=(("phone_count", "7"), *tags))


def test_fields_become_tags_within_bounds() -> None:
    fields = {
        "License": "CC-BY-4.0",
        "speaker": "anna",
        "take": 3,
        "clean": True,
        "none": None,
        "void": "",
        "nested": [1],
        "long": "x" * 513,
    }
    assert tags_of(fields, "row 1") == (("licence", "CC-BY-4.0"), ("speaker", "anna"), ("take", "3"), ("clean", "true"))
    for bad, why in (
        ({"licence": "a", "license": "b"}, "two licences, 'a' and 'b'"),
        ({f"f{i}": i for i in range(65)}, "65 fields would become tags, at most 64"),
        ({"a": "\ud800"}, "field 'a' is not UTF-8"),
    ):
        with pytest.raises(ValueError, match=f"row 1: {why}"):
            tags_of(bad, "row 1")


@pytest.mark.parametrize("right", ["licence", "consent"])
def test_two_licences_or_consents_of_one_file_are_refused(right: str) -> None:
    parts = [("the list", Sidecar(tags=((right, "CC0"), ("take", "1")))), ("a.json", Sidecar(tags=((right, "CC0"), ("take", "2"))))]
    assert merged(parts).tags == ((right, "CC0"), ("take", "1")), "the first has the word"
    with pytest.raises(ValueError, match=rf"sidecar a\.json: gives a {right} too: the list does"):
        merged([parts[0], ("a.json", Sidecar(tags=((right, "CC-BY"),)))])


@pytest.mark.parametrize("text", ["no cue at all", "1\n00:00:02,000 --> 00:00:01,000\nbackwards\n"])
def test_bad_subtitles_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.srt").write_text(text)
    with pytest.raises(ValueError, match=r"sidecar a\.srt: "):
        read_sidecar(tmp_path / "a.mp4")


def test_text_of_other_bytes_is_refused(tmp_path: Path) -> None:
    for name in ("a.txt", "a.srt"):
        (tmp_path / name).write_bytes(b"caf\xe9")
        with pytest.raises(ValueError, match=rf"sidecar {re.escape(name)}: not UTF-8; write it again as UTF-8"):
            read_sidecar(tmp_path / "a.mp4")
        (tmp_path / name).unlink()


WHISPERX = {
    "segments": [
        {
            "start": 0.5,
            "end": 4.0,
            "text": " In 1984 we met.",
            "words": [
                {"word": "In", "start": 0.5, "end": 0.75, "score": 0.9},
                {"word": "1984"},
                {"word": "we", "start": 2.0, "end": 2.25, "score": 0.8},
                {"word": "met.", "start": 2.25, "end": 3.0, "score": 0.8},
                {"word": "42"},
            ],
        },
        {"start": 5.0, "end": 6.0, "text": "ab cd"},
    ],
    "language": "en",
}


def test_what_whisperx_writes_is_a_transcript() -> None:
    """A numeral has no times of its own: it gets those that its neighbours leave. A segment without words shares out its own."""
    words = parse_sidecar(WHISPERX, "a.json").words
    assert words == (
        ("In", 0.5, 0.75),
        ("1984", 0.75, 2.0),
        ("we", 2.0, 2.25),
        ("met.", 2.25, 3.0),
        ("42", 3.0, 4.0),
        ("ab", 5.0, 5.5),
        ("cd", 5.5, 6.0),
    )
    alone = {"word_segments": [{"word": "so", "start": 0.1, "end": 0.4}]}
    assert parse_sidecar(alone, "a.json").words == (("so", 0.1, 0.4),)
    bare = [{"word": "so", "start": 0.1, "end": 0.4}]
    assert parse_sidecar(bare, "a.json").words == (("so", 0.1, 0.4),)


@pytest.mark.parametrize(
    "bad",
    [{"segments": 3}, {"segments": [3]}, {"segments": [{"text": "a"}]}, {"word_segments": "x"}, {"segments": [{"words": [{"word": "1"}]}]}],
)
def test_what_whisperx_does_not_write_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=r"sidecar a\.json: not what WhisperX writes"):
        parse_sidecar(bad, "a.json")


@given(st.binary(max_size=300), st.sampled_from([".json", ".txt", ".srt", ".vtt"]))
def test_any_bytes_are_text_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str) -> None:
    media = tmp_path_factory.mktemp("any") / "a.mp4"
    media.with_suffix(suffix).write_bytes(data)
    said = ""
    try:
        words = read_sidecar(media).words
    except ValueError as error:
        words, said = (), str(error)
    assert "\n" not in said
    assert not said or said.startswith(f"sidecar a{suffix}: ")
    assert all(0 <= start <= end for _, start, end in words)
