"""The wheel holds the tree, the pins satisfy the ranges, and an uninstalled checkout starts."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("model", "datasets", "workers", "orchestration", "benchmarks")
SUFFIXES = {".py", ".pyi", ".j2", ".html", ".json", ".typed"}


def package_files(root: Path) -> set[str]:
    """What an installed package needs: code, stubs, templates, reference curves and the marker of types, relative to the root."""
    found = [*root.glob("*"), *(path for folder in FOLDERS for path in (root / folder).rglob("*"))]
    return {path.relative_to(root).as_posix() for path in found if path.is_file() and path.suffix in SUFFIXES}


def pins() -> dict[str, str]:
    """constraints.txt as name -> version."""
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    parts = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in parts}


def test_no_example_writes_into_the_source() -> None:
    """In a checkout `datasets/` is code; what an example makes there would be packed and linted, and what it makes elsewhere committed."""
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "orchestration" / "main.py"]
    folders = {x for path in texts for x in re.findall(r"--(?:out|data) ([a-z]+)/", path.read_text())}
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert {"prepared", "runs"} <= folders <= ignored


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tree, built by the installed setuptools: no network, and the checkout stays clean."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in package_files(ROOT) | {"pyproject.toml", "README.md", "LICENSE"}:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"
    result = subprocess.run([sys.executable, "-c", build], cwd=tree, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    [path] = out.glob("*.whl")
    return path


def test_wheel_holds_the_tree_and_one_name(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == {f"mutual_forcing/{name}" for name in package_files(ROOT)}


def test_wheel_imports_and_leaves_the_name_datasets_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    # -S: without the environment, in which the checkout itself is installed.
    code = (
        "import importlib.util, mutual_forcing, mutual_forcing.datasets as ours\n"
        "assert importlib.util.find_spec('datasets') is None\n"
        "print(list(ours.__path__)[0])"
    )
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()) == tmp_path / "mutual_forcing" / "datasets"


def test_every_requirement_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins()
    extras = project["optional-dependencies"]
    own = {f"mutual-forcing[{name}]" for name in extras}
    not_tested = {"mutual-forcing[dev]", "mutual-forcing[direct]", "mutual-forcing[audit]"}
    assert own & set(extras["dev"]) == own - not_tested, "the tests run what the extras bring"
    for line in [*project["dependencies"], *(line for lines in extras.values() for line in lines if line not in own)]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), line


def test_pins_name_no_build_and_no_place() -> None:
    # A local label such as +cpu would force that build on every machine.
    assert [version for version in pins().values() if not re.fullmatch(r"[0-9][0-9a-z.]*", version)] == []


def run_bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the checkout with the standard library alone, from elsewhere."""
    return subprocess.run([sys.executable, "-S", str(ROOT), *arguments], cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"), [((), "pip install"), (("train", "tiny"), "pip install"), (("bench", "no-such"), "choose from")]
)
def test_bare_checkout_refuses_in_one_line(arguments: tuple[str, ...], words: str) -> None:
    result = run_bare(*arguments)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert words in line


def test_bare_checkout_runs_a_benchmark(tmp_path: Path) -> None:
    for name in ("__init__.py", "__main__.py"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for folder, name, text in [
        ("model", "answer.py", "ANSWER = 42"),
        ("benchmarks", "answer.py", "from ..model.answer import ANSWER\ndef main(arguments):\n    print(ANSWER, *arguments)\n    return 3"),
        ("benchmarks", "refusal.py", "def main(arguments):\n    raise ValueError('--device: choose another')"),
    ]:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "__init__.py").touch()
        (tmp_path / folder / name).write_text(text)
    command = [sys.executable, "-S", str(tmp_path), "bench"]
    result = subprocess.run([*command, "answer", "--quick"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.split()) == (3, ["42", "--quick"])
    result = subprocess.run([*command, "refusal"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "mutual-forcing: --device: choose another\n")


def test_processes_that_a_bare_checkout_spawns_find_the_package(tmp_path: Path) -> None:
    for name in ("__init__.py", "__main__.py"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "answer.py").write_text(
        "from concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing import get_context\n"
        "def answer():\n    return 42\n"
        "def main(arguments):\n    with ProcessPoolExecutor(1, get_context('spawn')) as pool:\n        return pool.submit(answer).result()"
    )
    result = subprocess.run([sys.executable, "-S", str(tmp_path), "bench", "answer"], capture_output=True, text=True, check=False)
    assert result.returncode == 42, result.stderr


OWN_NEEDS = ("ray", "deepspeed", "mlflow", "pyarrow", "s3fs", "safetensors", "pydantic", "yaml", "typer", "rich", "psutil", "PIL", "jinja2")
MEDIA_NEEDS = ("ffmpeg", "imageio_ffmpeg")
PRETRAINED_NEEDS = ("diffusers", "transformers", "tokenizers", "huggingface_hub")


OF_THE_SYSTEM = {"train", "rollouts", "data", "clock", "scale"}  # what they measure is Ray, DeepSpeed or ffmpeg around the maths


def test_every_benchmark_needs_pytorch_alone() -> None:
    """matplotlib, which draws, is imported where something is drawn."""
    names = sorted({p.stem for p in (ROOT / "benchmarks").glob("*.py") if not p.stem.startswith("_")} - OF_THE_SYSTEM)
    assert "model" in names
    hidden = f"import sys; sys.modules.update(dict.fromkeys({(*OWN_NEEDS, *MEDIA_NEEDS, *PRETRAINED_NEEDS, 'matplotlib')!r}))"
    command = [sys.executable, "-c", f"{hidden}; import {', '.join(f'mutual_forcing.benchmarks.{name}' for name in names)}"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# A build backend without requirements, so that `make` has a project to install and needs no package index for it.
BACKEND = """
import zipfile
def build_editable(folder, *_):
    name = "mutual_forcing-0"
    with zipfile.ZipFile(f"{folder}/{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\\nName: mutual-forcing\\nVersion: 0\\nProvides-Extra: dev\\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    return f"{name}-py3-none-any.whl"
build_wheel = build_editable
"""


@pytest.fixture
def bare_project(tmp_path: Path) -> Path:
    """The Makefile and the pins, around a project that holds nothing."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("Makefile", "constraints.txt"):
        shutil.copyfile(ROOT / name, project / name)
    (project / "backend.py").write_text(BACKEND)
    (project / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        "[project]\nname = 'mutual-forcing'\nversion = '0'\noptional-dependencies = { dev = [] }\n"
    )
    return project


@pytest.fixture
def torch_index(tmp_path: Path) -> Iterator[str]:
    """A package index with one small wheel that calls itself torch; gives its address."""
    folder, name = tmp_path / "index" / "torch", f"torch-{pins()['torch']}+cpu"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {pins()['torch']}+cpu\n")
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    (folder / "index.html").write_text(f"<!DOCTYPE html><a href='{name}-py3-none-any.whl'>{name}-py3-none-any.whl</a>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def set_up(project: Path, index: str) -> tuple[list[str], str]:
    """Run `make setup`: the torch that it installed, and what it said."""
    hidden = ("MAKEFLAGS", "MAKELEVEL")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | {"no_proxy": "127.0.0.1"}
    command = ["make", "setup", f"PYTHON={sys.executable}", f"TORCH_CPU_INDEX={index}"]
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    found = [p.name for p in (project / ".venv").glob("lib/python*/site-packages/torch-*.dist-info")]
    return found, result.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.path.exists("/dev/nvidiactl") or sys.platform != "linux", reason="only Linux without a GPU takes the CPU build")
def test_make_takes_torch_without_cuda_where_there_is_no_gpu(bare_project: Path, torch_index: str) -> None:
    found, said = set_up(bare_project, torch_index)
    assert found == [f"torch-{pins()['torch']}+cpu.dist-info"]
    assert f"taking torch from {torch_index}" in said


@pytest.mark.slow
@pytest.mark.skipif(os.path.exists("/dev/nvidiactl") or sys.platform != "linux", reason="only Linux without a GPU takes the CPU build")
def test_make_goes_on_where_the_index_does_not_answer_or_has_no_such_torch(bare_project: Path, torch_index: str) -> None:
    start = time.monotonic()
    pinned = bare_project / "constraints.txt"
    for index, wanted, word in (("", "", ""), ("http://192.0.2.1/whl/cpu", "", ""), (torch_index, "torch==0.0.1", "It is not there")):
        if wanted:
            pinned.write_text(re.sub(r"(?m)^torch==.*$", wanted, pinned.read_text()))
        (bare_project / ".venv" / ".ready").unlink(missing_ok=True)
        found, said = set_up(bare_project, index)
        assert found == []
        assert word in said
    assert time.monotonic() - start < 120
