"""What a job ships: a wheel of the package's files, named by what it holds, that installs without asking for anything."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mutual_forcing.orchestration.jobs import wheel
from mutual_forcing.orchestration.jobs.wheel import build_wheel, package_files


def test_it_holds_the_package_and_nothing_else() -> None:
    names = set(package_files())
    assert {"mutual_forcing/__init__.py", "mutual_forcing/constraints.txt", "mutual_forcing/orchestration/jobs/entry.py"} <= names
    assert not [name for name in names if "/tests/" in name or "__pycache__" in name or name.endswith((".md", ".yaml"))]


def test_the_same_files_make_the_same_wheel_and_others_another_name(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("X = 1\n")
    files = {"mutual_forcing/__init__.py": tmp_path / "code.py"}
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    first, again = (build_wheel(folder, files) for folder in folders[:2])
    assert first.name == again.name
    assert first.read_bytes() == again.read_bytes()
    (tmp_path / "code.py").write_text("X = 2\n")
    assert build_wheel(folders[2], files).name != first.name, "Ray knows a wheel by its name, and would run the old code"


def test_pip_installs_it_alone(tmp_path: Path) -> None:
    built, there = build_wheel(tmp_path), tmp_path / "there"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--target", str(there), str(built)]
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        with zipfile.ZipFile(built) as archive:  # an environment without pip
            archive.extractall(there)
    else:
        subprocess.run(install, check=True, capture_output=True)
    code = "import mutual_forcing, mutual_forcing.orchestration.jobs.entry as e; print(mutual_forcing.__file__, e.WINDOW_S)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(there)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split()[0] == str(there / "mutual_forcing/__init__.py"), done.stderr


def test_a_folder_that_is_more_than_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film.json").write_bytes(bytes(2000))
    monkeypatch.setattr(wheel, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="more than code is"):
        build_wheel(tmp_path, {"mutual_forcing/film.json": tmp_path / "film.json"})
