"""Secrets that must be seen nowhere: canary values for the environment of a command, and a search for them in files and in processes."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canary/of+aws+4f1c0a7de2",
    "MLFLOW_TRACKING_PASSWORD": "canary-of-mlflow-9b2e61d0c8",
    "MLFLOW_TRACKING_TOKEN": "canary-of-a-bearer-71ac3e5f04",
    "HF_TOKEN": "hf_canaryofthehub5d08b6e9a1",
    "RAY_AUTH_TOKEN": "ca9a4e0f" * 8,
}
PASSWORD = "canary-of-an-address-c3d7f20b96"  # of a user in an address
OVERLAP = 200  # bytes: a value may lie across two readings of a file


def forms_of(secret: str) -> set[bytes]:
    """How a secret may be written: as it is, percent-encoded, and in base64 from each of the three places where it may begin."""
    found = {secret, quote(secret, safe=""), quote(secret)}
    for before in ("", "x", "xx"):
        whole = (before + secret).encode()
        text = base64.b64encode(whole[: len(whole) // 3 * 3]).decode()
        found |= {text[4 * bool(before) :], text[4 * bool(before) :].replace("+", "-").replace("/", "_")}
    return {form.encode() for form in found}


FORMS = {name: forms_of(value) for name, value in {**CANARIES, "address": PASSWORD}.items()}


def leaked(content: bytes) -> list[str]:
    """Names of the canaries that are in it."""
    return [name for name, forms in FORMS.items() if any(form in content for form in forms)]


def leaks(folders: Iterable[Path]) -> list[str]:
    """Every file below these folders that holds a canary."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files, "there is something to search"
    return [f"{path}: {name}" for path in files for name in leaked(path.read_bytes())]


class Watch:
    """A context that looks at what is gone afterwards: command lines of processes, and the files of Ray's sessions below a folder."""

    def __init__(self, processes: Callable[[], Iterable[int]], sessions: Path) -> None:
        self.found: set[str] = set()
        self.seen: set[str] = set()  # whose command lines and which files were looked at
        self._processes, self._sessions = processes, sessions
        self._read: dict[Path, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _work(self) -> None:
        while not self._over.wait(1.0):
            self._look()

    def _look(self) -> None:
        for where, content in (*self._command_lines(), *self._logs()):
            self.seen.add(where)
            self.found |= {f"{where}: {name}" for name in leaked(content)}

    def _command_lines(self) -> Iterator[tuple[str, bytes]]:
        for pid in self._processes():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue  # it has ended
            yield f"process {words[:60].decode(errors='replace')}", words

    def _logs(self) -> Iterator[tuple[str, bytes]]:
        for folder, _, names in os.walk(self._sessions):
            for path in (Path(folder, name) for name in names if name.endswith((".log", ".out", ".err", ".json", ".txt"))):
                try:
                    with path.open("rb") as file:
                        file.seek(max(0, self._read.get(path, 0) - OVERLAP))
                        content = file.read()
                        self._read[path] = file.tell()
                except OSError:
                    continue  # it is gone, as its session is
                yield f"log {path.name}", content
