"""Lists: every row becomes a source or a reason, whatever its form; what a list may name ends at its folder or is written in full."""

import csv
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.intake import list_rows
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.intake.list_rows import rows_of
from mutual_forcing.datasets.intake.sources import Source, Span, source_from_json, source_to_json

WORDS = [{"word": "good", "start": 1.0, "end": 1.5}, {"word": "day", "start": 1.5, "end": 2.0}]
SAID = (("good", 1.0, 1.5), ("day", 1.5, 2.0))


def media(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def write_list(path: Path, rows: list[dict]) -> Path:
    """The same rows in the form that the suffix says; CSV has JSON in its cells, and every column in every row."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({column: [row.get(column) for row in rows] for column in columns}), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in row.items()} for row in rows)
    return path


def by_name(path: Path | str) -> dict[str, Source]:
    return {source.name: source for source in sources_of([str(path)])}


def refusal(path: Path) -> str:
    """Of the only row that is refused."""
    (reason,) = [source.refused for source in sources_of([str(path)]) if source.refused]
    return reason


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_list_gives_text_pieces_and_tags(tmp_path, suffix):
    media(tmp_path, "a.mp4", "sub/b, c.mp4", "d.wav", "e.mp4", "not named.mp4")
    rows = [
        {"path": "a.mp4", "caption": 'A cat,\n"sitting".', "transcript": WORDS, "license": "CC-BY-4.0", "take": 3},
        {"path": "./sub//b, c.mp4", "spans": [{"start": 4, "end": 5.5, "caption": "second"}, {"start": "0:00:01", "end": 2.5}]},
        {"path": str(tmp_path / "d.wav"), "transcript": "so it   is [laughs]"},
    ]
    if suffix == ".parquet":  # a column of Parquet has one type
        rows[1]["spans"] = [{"start": 4.0, "end": 5.5, "caption": "second"}, {"start": 1.0, "end": 2.5}]
        rows[2] = {"path": rows[2]["path"]}
    found = by_name(write_list(tmp_path / f"list{suffix}", rows))
    assert list(found) == ["a.mp4", "d.wav", "sub/b, c.mp4"]
    a, d, b = found.values()
    assert not any(source.refused for source in found.values())
    assert (a.caption, a.words, a.spoken) == ('A cat,\n"sitting".', SAID, "")
    assert dict(a.tags) == {"licence": "CC-BY-4.0", "take": "3"}
    assert b.spans == (Span(1.0, 2.5), Span(4.0, 5.5, "second"))
    assert d.path == str(tmp_path / "d.wav")
    assert d.spoken == ("" if suffix == ".parquet" else "so it is [laughs]")
    for source in found.values():
        assert source_from_json(source_to_json(source)) == source


def test_rows_of_one_file_are_its_pieces(tmp_path):
    media(tmp_path, "a.mp4")
    rows = [
        {"path": "a.mp4", "start": 2.0, "end": 4.0, "caption": "second", "transcript": WORDS, "speaker": "anna"},
        {"path": "./a.mp4", "start": 0.5, "end": 2.0, "caption": "first", "transcript": "ab cd", "speaker": "ben"},
    ]
    (source,) = by_name(write_list(tmp_path / "l.jsonl", rows)).values()
    first = Span(0.5, 2.0, "first", (("ab", 0.5, 1.25), ("cd", 1.25, 2.0)), (("speaker", "ben"),))
    assert source.spans == (first, Span(2.0, 4.0, "second", SAID, (("speaker", "anna"),)))
    assert (source.caption, source.words, source.tags) == ("", (), ())
    before = source.stamp
    rows[0]["caption"] = "another"
    (changed,) = by_name(write_list(tmp_path / "l.jsonl", rows)).values()
    assert changed.stamp != before, "text of a list is text of the source"
    for row, why in [
        ({"path": "a.mp4", "start": 0.5, "end": 2.0}, "row 3: names the piece from 0.5 to 2 s again"),
        ({"path": "a.mp4"}, "row 3: names the file of row 1 again; give its pieces with start and end"),
        ({"path": "a.mp4", "spans": [[7, 8]], "caption": "all"}, "row 3: says more about all of the file of row 1"),
    ]:
        assert refusal(write_list(tmp_path / "l.jsonl", [*rows, row])).startswith(why)


BAD_ROWS = [
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ('["a.mp4"]', "no JSON object"),
    ('{"caption": "x"}', "no `path`"),
    ('{"path": 3}', "path=3: no path as text"),
    ('{"path": "\\ud800"}', "no path as text"),
    ('{"path": "gone.mp4"}', "no such file"),
    ('{"path": "gone/x.mp4"}', "no such file"),
    ('{"path": "' + "x" * 5000 + '"}', "no such file"),
    ('{"path": "a\\u0000.mp4"}', "zero byte"),
    ('{"path": "."}', "leads out of the folder"),
    ('{"path": "../list/a.mp4"}', "leads out of the folder of the list; give an absolute path"),
    ('{"path": "sub/../../x"}', "leads out of the folder"),
    ('{"path": "https://host/a.mp4"}', "a URL, which is not fetched"),
    ('{"path": "concat:a.mp4|b.mp4"}', "no such file"),
    ('{"path": "notes.txt"}', "not a media file (.txt)"),
    ('{"path": "sub"}', "a folder, pipe or device"),
    ('{"path": "/dev/zero"}', "a folder, pipe or device"),
    ('{"path": "a.mp4", "caption": 3}', "caption='3': no text"),
    ('{"path": "a.mp4", "caption": "\\ud800"}', "surrogate"),
    ('{"path": "a.mp4", "transcript": [{"word": "a"}]}', "transcript[0]"),
    ('{"path": "a.mp4", "transcript": [{"word": "a", "start": 2, "end": 1}]}', "need 0 <= start <= end"),
    ('{"path": "a.mp4", "transcript": "[{\\"word\\": "}', "transcript='[{\"word\": ': not JSON"),
    ('{"path": "a.mp4", "start": 1}', "one of start and end alone"),
    ('{"path": "a.mp4", "start": 2, "end": 2}', "need start < end"),
    ('{"path": "a.mp4", "start": -1, "end": 2}', "need 0 <= seconds"),
    ('{"path": "a.mp4", "start": 0, "end": NaN}', "need 0 <= seconds"),
    ('{"path": "a.mp4", "start": 0, "end": true}', "no time; give seconds, or hours:minutes:seconds"),
    ('{"path": "a.mp4", "start": 0, "end": "1:2:3:4"}', "no time"),
    ('{"path": "a.mp4", "start": 0, "end": 90, "transcript": "so"}', "words without times for 90 s"),
    ('{"path": "a.mp4", "start": 0, "end": 1, "spans": [[1, 2]]}', "both start, end and spans"),
    ('{"path": "a.mp4", "spans": 3}', "no list of at most"),
    ('{"path": "a.mp4", "spans": [[1, 2], [3]]}', "spans[1]"),
    ('{"path": "a.mp4", "spans": [[1, 2], [1, 2]]}', "the same piece twice"),
    ('{"path": "a.mp4", "licence": "a", "license": "b"}', "two licences"),
    ('{"path": "a.mp4", ' + ", ".join(f'"f{i}": {i}' for i in range(65)) + "}", "65 fields would become tags"),
    ('{"path": "a.mp4", "x": "' + "y" * (4 << 20) + '"}', "longer than 4194304 bytes"),
]


@pytest.mark.parametrize(("row", "why"), BAD_ROWS, ids=[f"{i} {why[:20]}" for i, (_, why) in enumerate(BAD_ROWS)])
def test_a_bad_row_is_refused_by_number_and_the_next_is_read(tmp_path, row, why):
    folder = media(tmp_path / "list", "a.mp4", "good.mp4", "notes.txt", "sub/c.mp4")
    (folder / "l.jsonl").write_text(f"\n{row}\n" + '{"path": "good.mp4"}\n')
    found = by_name(folder / "l.jsonl")
    assert found.pop("good.mp4").refused == ""
    (bad,) = found.values()
    assert why in bad.refused
    assert len(bad.refused) < 400
    assert "\n" not in bad.refused
    assert bad.name in ("l.jsonl#2", "notes.txt", "sub", "zero")


def test_rows_of_csv_that_are_none_are_refused_by_number(tmp_path):
    media(tmp_path, "a.mp4", "z.mp4")
    rows = [b"path,caption", b"a.mp4,one,two", b"a.mp4,caf\xe9", b"", b'a.mp4,"x"y"', b"a.mp4," + b"y" * (4 << 20), b"z.mp4,last"]
    (tmp_path / "l.csv").write_bytes(b"\n".join(rows))
    found = by_name(tmp_path / "l.csv")
    assert found.pop("z.mp4").caption == "last"
    whys = {
        "l.csv#2": "has 3 cells, the list 2 columns",
        "l.csv#3": "not UTF-8",
        "l.csv#5": "no row of CSV",
        "l.csv#6": "more than 4194304",
    }
    assert {name: whys[name] in source.refused for name, source in found.items()} == dict.fromkeys(whys, True)


def test_a_quote_that_never_ends_costs_one_row_not_the_memory(tmp_path):
    media(tmp_path, "a.mp4")
    path = tmp_path / "l.csv"
    path.write_text('path,caption\na.mp4,first\nb.mp4,"open\n' + ("c.mp4," + "third " * 20 + "\n") * 20_000)
    tracemalloc.start()
    rows = sum(1 for _ in rows_of(path, "l.csv"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows > 10_000, "what follows is read again"
    assert peak < 10e6


def test_what_is_no_list_stops_the_job_in_one_line(tmp_path, monkeypatch):
    media(tmp_path, "a.mp4")
    for name, content, why in [
        ("l.csv", b"", "is empty; its first row names the columns"),
        ("l.csv", b"path,caption\n", r"has no column `path` \(it has no rows\)"),
        ("l.csv", b"file,caption\na.mp4,x\n", r"has no column `path` \(it has file, caption\); name the column of media files so"),
        ("l.csv", b"path,caption,caption\n", "two columns 'caption'; rename one"),
        ("l.csv", ",".join(f"c{i}" for i in range(300)).encode(), "300 columns, at most 256"),
        ("l.csv", b'"path"x,caption\n', "its first row is no row of CSV"),
        ("l.jsonl", b'{"file": "a.mp4"}\n' * 500, r"has no column `path` \(it has file\)"),
        ("l.parquet", b"PAR1 and then nothing", "damaged Parquet after row 0"),
        ("l.parquet", b"", "damaged Parquet"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=why) as refused:
            sources_of([str(tmp_path / name)])
        assert "\n" not in str(refused.value)
    write_list(tmp_path / "l.jsonl", [{"path": "a.mp4"}] * 4)
    monkeypatch.setattr(list_rows, "MAX_ROWS", 3)
    with pytest.raises(ValueError, match="more than 3 rows; split it"):
        sources_of([str(tmp_path / "l.jsonl")])
    monkeypatch.setattr(list_rows, "MAX_LIST_BYTES", 3)
    with pytest.raises(ValueError, match="bytes, at most 3 are read; split it"):
        sources_of([str(tmp_path / "l.jsonl")])


def test_large_cells_of_parquet_stop_the_list(tmp_path):
    """One text of 2 MB in 260 rows: a few kilobytes of file, and half a gigabyte when it is spread out."""
    path = tmp_path / "l.parquet"
    long, short = ([text] for text in ("x" * (2 << 20), "x"))
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 260, pa.int32()), pa.array(long))
    for caption in (once, once.dictionary_decode()):
        pq.write_table(pa.table({"path": ["a.mp4"] * 260, "caption": caption}), path, compression="zstd")
        assert path.stat().st_size < 1_000_000
        with pytest.raises(ValueError, match=r"rows 1 to 256 have \d+ bytes; shorten their cells"):
            sources_of([str(path)])
    media(tmp_path, "a.mp4")
    small = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(short))
    pq.write_table(pa.table({"path": ["a.mp4"], "caption": small}), path)
    assert by_name(path)["a.mp4"].caption == "x"
    within = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), small)
    pq.write_table(pa.table({"path": ["a.mp4"], "caption": within}), path)
    with pytest.raises(ValueError, match="column 'caption' has a dictionary within it; write it plainly"):
        sources_of([str(path)])


def test_links_below_a_list_lead_nowhere_else(tmp_path):
    folder, outside = media(tmp_path / "list", "in/a.mp4"), media(tmp_path / "outside", "b.mp4")
    (folder / "out").symlink_to(outside)
    (folder / "link.mp4").symlink_to(outside / "b.mp4")
    (folder / "fine.mp4").symlink_to(folder / "in/a.mp4")
    (folder / "same").symlink_to(folder / "in")
    rows = [{"path": path} for path in ("out/b.mp4", "link.mp4", "fine.mp4", "same/a.mp4", str(folder / "out/b.mp4"))]
    found = sources_of([str(write_list(folder / "l.jsonl", rows))])
    assert {s.name: s.refused for s in found if s.refused} == {
        "l.jsonl#1": f"row 1: path={str(folder / 'out/b.mp4')!r}: a link leads out of the folder of the list; give an absolute path",
        "link.mp4": "a link that leads out of the folder: copy the file here",
    }
    assert [s.name for s in found if not s.refused] == ["fine.mp4", "out/b.mp4", "same/a.mp4"], "a path in full is the user's own word"


def test_a_list_and_the_folder_that_it_is_in(tmp_path):
    """A file is listed once, with what the list says, whichever is named first; the list itself is no source."""
    media(tmp_path, "a.mp4", "b.mp4", "a.txt")
    path = write_list(tmp_path / "l.jsonl", [{"path": "a.mp4", "speaker": "anna"}])
    both = [sources_of([str(one) for one in inputs]) for inputs in ([path, tmp_path], [tmp_path, path])]
    assert both[0] == both[1]
    assert [(s.name, s.tags, len(s.beside), s.refused) for s in both[0]] == [
        ("a.mp4", (("speaker", "anna"),), 1, ""),
        ("b.mp4", (), 0, ""),
    ]
    (tmp_path / "above").mkdir()
    above = write_list(tmp_path / "above" / "l.jsonl", [{"path": str(tmp_path / "sub/c.mp4"), "caption": "A cat."}])
    media(tmp_path, "sub/c.mp4")
    (c,) = [s for s in sources_of([str(tmp_path), str(above)]) if s.caption]
    assert c.name == "sub/c.mp4", "the first input gave the name, the second the text"
    other = write_list(tmp_path / "other.jsonl", [{"path": "a.mp4", "speaker": "ben"}, {"path": "b.mp4"}])
    reasons = {s.name: s.refused for s in sources_of([str(path), str(other)])}
    assert reasons == {"a.mp4": "two lists name it, with text or pieces that differ: leave it in one of them", "b.mp4": ""}


def test_a_long_list_takes_memory_for_what_it_finds_not_for_what_it_says(tmp_path):
    media(tmp_path, "a.mp4")
    row = json.dumps({"path": "a.mp4", "note": "x" * 1000})
    (tmp_path / "l.jsonl").write_text(f"{row}\n" * 10_000)
    tracemalloc.start()
    rows = sum(1 for _ in rows_of(tmp_path / "l.jsonl", "l.jsonl"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 10_000
    assert peak < 1e6, "of a list of 10 MB"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=6) | st.sampled_from(["a.mp4", "[[1,2]]", "0:01"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["start", "end", "caption", "word", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
COLUMNS = st.sampled_from(["path", "caption", "transcript", "start", "end", "spans", "videoID", "timestamp", "wav", "text", "speaker", "x"])


@given(st.lists(st.dictionaries(COLUMNS, JSON, max_size=5), max_size=4))
def test_any_rows_become_sources_or_reasons(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    folder = media(tmp_path_factory.mktemp("any"), "a.mp4", "good.mp4")
    lines = [json.dumps(row) for row in [*rows, {"path": "good.mp4"}]]
    (folder / "l.jsonl").write_text("".join(f"{line}\n" for line in lines))
    found = by_name(folder / "l.jsonl")
    assert found["good.mp4"].refused == "" or any(row.get("path") == "good.mp4" for row in rows)
    for source in found.values():
        assert "\n" not in source.refused
        assert source.name in ("a.mp4", "good.mp4") or source.refused
        assert all(0 <= span.start_s < span.end_s for span in source.spans)
        assert source_from_json(source_to_json(source)) == source
    assert os.path.isfile(found["good.mp4"].path)
