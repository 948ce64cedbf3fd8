"""The wheel and the source distribution hold what they should, and what was installed from the wheel works outside the checkout."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version
from test_packaging import package_files

from mutual_forcing import __version__

ROOT = Path(__file__).resolve().parents[2]
BESIDE = {
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "MANIFEST.in",
    "Makefile",
    "constraints.txt",
    "cluster.yaml",
}
BUILD = "import sys; from setuptools import build_meta as b; out = sys.argv[1]; b.build_wheel(out); b.build_sdist(out)"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes, of a copy of the tree, by the installed setuptools: no network, and the checkout stays clean."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in package_files(ROOT) | BESIDE:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    for folder in ("deploy", "docs/tutorials"):
        shutil.copytree(ROOT / folder, tree / folder)
    done = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_the_source_distribution_holds_the_tree_and_what_builds_tests_and_deploys_it(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files(ROOT) | BESIDE <= names
    assert {"deploy/Dockerfile", "deploy/kuberay/raycluster.yaml", "docs/tutorials/cluster.md"} <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_both_say_version_and_licence(dist: Path) -> None:
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert wheel.name == f"mutual_forcing-{__version__}-py3-none-any.whl"
    assert source.name == f"mutual_forcing-{__version__}.tar.gz"
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith("/licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert "License-Expression: Apache-2.0\n" in archive.read(metadata).decode()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_what_is_installed_works_outside_the_checkout(dist: Path, tmp_path: Path, kind: str) -> None:
    """Dependencies are this environment's; the package itself is that of the wheel, or of the source distribution, alone."""
    (file,), home = dist.glob(kind), tmp_path / "venv"
    venv.create(home, with_pip=False)
    (site,) = (home / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("-packages")))
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-compile", "--no-build-isolation", "--ignore-installed", str(file)], check=True)
    assert_works(home, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_what_is_installed_with_all_that_it_needs_works(dist: Path, tmp_path: Path, kind: str) -> None:
    """A clean environment, as a user's: dependencies come from the index, with the pins, and torch's build for processors alone."""
    (file,), home = dist.glob(kind), tmp_path / "venv"
    venv.create(home, with_pip=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    torch = re.search(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert torch is not None
    subprocess.run([*pip, torch[0]], check=True)
    subprocess.run([*pip, str(file)], check=True)
    assert_works(home, tmp_path)


def assert_works(home: Path, outside: Path) -> None:
    """What the environment in `home` has of us is its own, and says what it is."""

    def say(*words: str) -> str:
        done = subprocess.run([home / "bin" / "mutual-forcing", *words], cwd=outside, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert say("--version") == f"mutual-forcing {__version__}\n", "without a commit: it is no checkout"
    assert json.loads(say("doctor", "--json"))
    code = "import mutual_forcing; print(mutual_forcing.__file__)"
    where = subprocess.run([home / "bin" / "python", "-c", code], cwd=outside, capture_output=True, text=True, check=True).stdout
    assert Path(where.strip()).is_relative_to(home)


def test_the_changelog_knows_the_version_and_begins_with_what_is_not_released() -> None:
    titles = re.findall(r"(?m)^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text())
    assert titles[0] == "Unreleased"
    assert titles[1] == __version__
    assert titles[1:] == sorted(titles[1:], key=Version, reverse=True)


def test_the_version_stands_in_one_place() -> None:
    stated = re.compile(r"(?m)^(version|release) *= *\"")
    assert not [path for path in (ROOT / "pyproject.toml", ROOT / "docs" / "conf.py") if stated.search(path.read_text())]
