"""What the terminal prints of anyone's text: every letter of it, and nothing that steers the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from dataset_material import make_dataset
from rich.console import Console
from test_cli import say

from mutual_forcing.datasets.format.account import SourceLine
from mutual_forcing.orchestration import command
from mutual_forcing.orchestration.data import commands as data_commands
from mutual_forcing.orchestration.data.verbs import Told
from mutual_forcing.orchestration.progress import Terminal, plain_console, printable

NAMES = ["Talk [abc].mp4", "a[/b].mp4", "[red]x[/red].mp4", ":smile:.mp4", "[link=http://x]y.mp4"]


def dataset(folder: Path, names: list[str]) -> Told:
    """A dataset whose sources are all refused."""
    quality = {"video_psnr_db": 30.0, "audio_snr_db": 20.0}
    manifest = replace(make_dataset(folder), codec_quality=quality)
    return Told(manifest, tuple(SourceLine(n, "refused", "probe", f"no film: {n}") for n in names), "contact.png")


def test_names_in_the_table_of_sources_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    data_commands.show(dataset(tmp_path, [*NAMES, "steer\x1b]0;title\x07.mp4"]), as_json=False)
    said = capsys.readouterr().out
    for name in NAMES:
        assert said.count(name) == 2, "as the source and in the reason"
    assert "\x1b]0;" not in said
    assert r"steer\x1b]0;title\x07.mp4" in said


def test_the_record_of_a_verb_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    command.print_record({"file": "/tmp/a[/b].mp4", "caption": "[bold]loud[/bold] :smile:"}, as_json=False)
    said = capsys.readouterr().out
    assert "/tmp/a[/b].mp4" in said
    assert "[bold]loud[/bold] :smile:" in said


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_and_warnings_print_any_text(terminal: bool) -> None:
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=120, color_system=None)
    with Terminal(console) as shown:
        shown.progress("train a[/b]", 1, 2)
        shown.progress("train a[/b]", 2, 2)
        shown.warn("Talk [abc].mp4 is odd\x1b[2J")
    assert "train a[/b]" in said.getvalue()
    assert "warning: Talk [abc].mp4 is odd\\x1b[2J" in said.getvalue()


def test_errors_print_any_text() -> None:
    said = say("train", "a[/b]")
    assert said.code == 1
    assert "recipe 'a[/b]'" in said.error


def test_plain_consoles_know_no_markup() -> None:
    assert printable("größe 猫\t\u2028") == r"größe 猫\t\u2028"
    console = plain_console()
    with console.capture() as captured:
        console.print("[bold]:smile: 12 'x'")
    assert captured.get() == "[bold]:smile: 12 'x'\n"
