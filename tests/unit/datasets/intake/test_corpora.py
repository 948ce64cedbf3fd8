"""Corpora in their real layouts, made small: Panda-70M's CSV, Emilia's JSON lines, its folders and its tars."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.intake.corpora import seconds_of, translated
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.intake.source_text import text_of
from mutual_forcing.datasets.intake.sources import Source, Span

COLUMNS = ["videoID", "url", "timestamp", "caption", "matching_score", "desirable_filtering", "shot_boundary_detection"]
TIMES = [["0:00:31.364", "0:00:52.251"], ["0:01:02.500", "1:00:00.000"]]
CAPTIONS = ['A man\'s dog is "running".', "It is 5 o'clock, [they] say."]


def panda_row(video: str = "--Ja_1", **change: object) -> dict[str, object]:
    row = {
        "videoID": video,
        "url": f"https://www.youtube.com/watch?v={video}",
        "timestamp": TIMES,
        "caption": CAPTIONS,
        "matching_score": [0.4814, 0.39],
        "desirable_filtering": ["desirable", "0_low_desirable_score"],
        "shot_boundary_detection": [[["0:00:00.000", "0:00:20.000"]], [["0:00:00.000", "0:00:10.000"]]],
    }
    return row | change


def write_panda(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: str(value) for name, value in row.items()} for row in rows)
    return path


def test_panda_names_pieces_of_videos_below_its_folder(tmp_path):
    for name in ("videos/0/--Ja_1.mp4", "videos/0/--Ja_1.jpg", "videos/1/x0123456789.webm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    gone, other = panda_row("gone"), panda_row("x0123456789", timestamp=TIMES[:1], caption=CAPTIONS[:1])
    other |= {"matching_score": [0.5], "desirable_filtering": ["desirable"]}
    found = sources_of([str(write_panda(tmp_path / "panda70m_training_2m.csv", [panda_row(), gone, other]))])
    assert [source.name for source in found] == ["panda70m_training_2m.csv#3", "videos/0/--Ja_1.mp4", "videos/1/x0123456789.webm"]
    assert found[0].refused == "row 3: videoID=gone: no such .mp4 below the folder of the list"
    assert found[1].spans == (
        Span(31.364, 52.251, CAPTIONS[0], (), (("matching_score", "0.4814"), ("desirable_filtering", "desirable"))),
        Span(62.5, 3600.0, CAPTIONS[1], (), (("matching_score", "0.39"), ("desirable_filtering", "0_low_desirable_score"))),
    )
    assert found[1].tags == (("url", "https://www.youtube.com/watch?v=--Ja_1"),)
    assert found[2].spans[0].caption == CAPTIONS[0]


BAD_PANDA = [
    ({"videoID": "../../etc/passwd"}, "no name of a video"),
    ({"videoID": "x" * 100}, "no name of a video"),
    ({"timestamp": "[]"}, "0 timestamps and 2 captions"),
    ({"timestamp": "[['0:00:31.364', '0:00:52.251'], ['0:01']]"}, "timestamp: no list as Panda-70M has it"),
    ({"timestamp": "__import__('os').getcwd()"}, "no list as Panda-70M has it"),
    ({"timestamp": "[[" + "['0:01', '0:02']" * 50_000}, "no list as Panda-70M has it"),
    ({"timestamp": "[" * 100_000 + "]" * 100_000}, "no list as Panda-70M has it"),
    ({"timestamp": [["0:00:31.364", "0:00:11.251"], ["0:01:02.500", "0:01:03.000"]]}, "need start < end"),
    ({"timestamp": [["soon", "0:00:11.251"], ["0:01:02.500", "0:01:03.000"]]}, "no time"),
    ({"caption": "['a', b'b']"}, "no list as Panda-70M has it"),
    ({"caption": "['a' 'b']"}, "no list as Panda-70M has it"),
    ({"caption": r"['a', '\N{BULLET}']"}, "no list as Panda-70M has it"),
    ({"caption": r"['a', '\ud800']"}, "surrogate"),
    ({"caption": "['a', '" + "\\\\" * 200_000}, "no list as Panda-70M has it"),
    ({"matching_score": "[0.5]"}, "2 timestamps and 1 of matching_score"),
    ({"matching_score": "[0.5, 1e]"}, "neither text nor a number"),
]


@pytest.mark.parametrize(("change", "why"), BAD_PANDA, ids=[f"{i} {why[:20]}" for i, (_, why) in enumerate(BAD_PANDA)])
def test_a_row_that_panda_does_not_write_is_refused(tmp_path, change, why):
    (tmp_path / "--Ja_1.mp4").write_bytes(b"x")
    (source,) = sources_of([str(write_panda(tmp_path / "l.csv", [panda_row(**change)]))])
    assert source.refused.startswith("row 2: ")
    assert why in source.refused


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=5))
def test_captions_come_back_as_python_wrote_them(captions: list[str]) -> None:
    times = [[f"0:00:{i:02d}.000", f"0:00:{i:02d}.500"] for i in range(len(captions))]
    row = translated({"videoID": "v", "timestamp": str(times), "caption": str(captions)}, lambda stem: f"{stem}.mp4")
    assert row["path"] == "v.mp4"
    assert [span["caption"] for span in row["spans"]] == captions


@given(st.integers(0, 10_000_000))
def test_a_time_is_read_in_all_its_forms(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    clock = f"{milliseconds // 3_600_000}:{milliseconds // 60_000 % 60:02d}:{milliseconds // 1000 % 60:02d}.{milliseconds % 1000:03d}"
    assert seconds_of(clock, "start") == pytest.approx(seconds, abs=1e-9)
    assert seconds_of(seconds, "start") == seconds_of(str(seconds), "start") == seconds


def about(number: int) -> dict[str, object]:
    key = f"EN_B00000_S00000_W{number:06d}"
    return {
        "id": key,
        "wav": f"EN_B00000/EN_B00000_S00000/mp3/{key}.mp3",
        "text": " You can help my mother.",
        "duration": 6.264,
        "speaker": "EN_B00000_S00000",
        "language": "en",
        "dnsmos": 3.2927,
    }


TAGS = (("speaker", "EN_B00000_S00000"), ("language", "en"), ("dnsmos", "3.2927"))


def same_in_all_forms(source: Source) -> None:
    text = text_of(source)
    assert (text.caption, text.words, text.spoken, text.tags) == ("", (), "You can help my mother.", TAGS)
    words = text.over(6.264).words
    assert [word for word, _, _ in words] == ["You", "can", "help", "my", "mother."]
    assert (words[0][1], words[-1][2]) == (0.0, pytest.approx(6.264))


def test_emilia_as_json_lines(tmp_path):
    rows = [about(i) for i in range(3)]
    for row in rows[:2]:
        (tmp_path / str(row["wav"])).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / str(row["wav"])).write_bytes(b"x")
    (tmp_path / "EN_B00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = sources_of([str(tmp_path / "EN_B00000.jsonl")])
    assert [source.name for source in found] == ["EN_B00000.jsonl#3", *(str(row["wav"]) for row in rows[:2])]
    assert "no such file" in found[0].refused
    for source in found[1:]:
        same_in_all_forms(source)


def test_emilia_as_a_folder_and_as_a_tar(tmp_path):
    folder = tmp_path / "EN-B000000"
    folder.mkdir()
    with tarfile.open(tmp_path / "EN-B000000.tar", "w") as tar:
        for number in range(2):
            key = str(about(number)["id"])
            for name, content in ((f"{key}.json", json.dumps(about(number)).encode()), (f"{key}.mp3", b"sound %d" % number)):
                (folder / name).write_bytes(content)
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    for path in (folder, tmp_path / "EN-B000000.tar"):
        found = sources_of([str(path)])
        assert [source.name.rpartition("/")[2] for source in found] == [f"{about(number)['id']}.mp3" for number in range(2)]
        for source in found:
            same_in_all_forms(source)
