"""The terminal: consoles that print anyone's text as it is, and one line a stage of work with rate and ETA."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ..datasets.redaction import without_secrets


def plain_console(stderr: bool = False) -> Console:
    """A console without markup: `[abc]` and `:smile:` in a file name are part of the name."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def printable(text: str) -> str:
    """Text in one line whose control characters are spelled out: a file name must not steer the terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class Terminal:
    """A context that shows progress on a console; on a pipe it prints one line when a stage of work ends, and what it is told to say."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._done: set[str] = set()
        columns = (
            TextColumn("{task.description:<26}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def progress(self, stage: str, done: int, total: int) -> None:
        """Work on `stage` has advanced to `done` of `total`."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, rate="")
        task = self._tasks[stage]
        speed = next(t.speed for t in self._bars.tasks if t.id == task)
        self._bars.update(task, completed=done, total=total, rate=f"{speed:.2f}/s" if speed else "")
        if done >= total and stage not in self._done:
            self._done.add(stage)
            if not self._console.is_terminal:
                self._say(Text(f"{stage}: {done} of {total} done"))

    def say(self, parts: list[str]) -> None:
        """One line of as many of its parts as the terminal is wide; a pipe gets them all."""
        line = printable(parts[0])
        for part in parts[1:]:
            longer = f"{line}  {printable(part)}"
            if self._console.is_terminal and len(longer) > self._console.width:
                break
            line = longer
        self._say(Text(line))

    def warn(self, line: str) -> None:
        """One line of warning."""
        self._say(Text.assemble(("warning:", "yellow"), " ", printable(without_secrets(line))))

    def _say(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)
