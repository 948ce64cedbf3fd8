"""The import order is a contract: orchestration -> workers -> datasets -> model, downward only, read from the syntax tree."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "mutual_forcing"
LAYERS = ("model", "datasets", "workers", "orchestration")
FOLDERS = (*LAYERS, "benchmarks")
# The mathematics must run on a bare machine that has PyTorch alone.
MODEL_MAY_IMPORT = {*sys.stdlib_module_names, "torch", "numpy"}
# Pretrained networks need more, and only when one is opened: inside a function.
MODEL_MAY_IMPORT_LATE = {"safetensors", "diffusers", "transformers", "tokenizers"}
MODEL_MUST_NOT = ("os", "torch.distributed")
# Each of these libraries has one door: one file knows its traps, and can be replaced.
ONE_FILE_EACH = ("deepspeed", "mlflow", "s3fs")


def source_files(root: Path) -> list[Path]:
    """The package's Python files, relative to `root`."""
    found = [*root.glob("*.py"), *(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))]
    return sorted(path.relative_to(root) for path in found)


def imported_modules(root: Path, file: Path) -> Iterator[tuple[int, str, bool]]:
    """All imports of `file`: (line number, absolute dotted name, whether it is inside a function)."""
    # `a/b.py` and `a/__init__.py` both count relative imports from `a`.
    here = [PACKAGE, *file.parent.parts]
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    late = {inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, node in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from .. import datasets` names a folder as well as `from ..datasets import media` does.
            yield from ((node.lineno, f"{module}.{alias.name}", node in late) for alias in node.names)


def violation(file: Path, name: str, late: bool) -> str | None:
    """Why `file` may not import `name`, inside a function if `late`; or None."""
    top, _, rest = name.partition(".")
    here = file.parts[0]
    if here == "model" and any(name == other or name.startswith(f"{other}.") for other in MODEL_MUST_NOT):
        return f"must know nothing of its process and its ranks, and imports {name!r}"
    if top in FOLDERS:
        return f"imports {top!r} without its package; write a relative import"
    if top != PACKAGE:
        if here != "model" or top in MODEL_MAY_IMPORT or (late and top in MODEL_MAY_IMPORT_LATE):
            return None
        where = ", unless inside a function" if top in MODEL_MAY_IMPORT_LATE else ""
        return f"may import the standard library, torch and numpy only, not {top!r}{where}"
    target = rest.partition(".")[0]
    if here in LAYERS and target in LAYERS and LAYERS.index(target) > LAYERS.index(here):
        return f"imports upward, from {target!r}"
    if target == "benchmarks" and here in LAYERS[:-1]:
        return "imports a benchmark"
    return None


def violations(root: Path) -> list[str]:
    """All breaches of the contract below `root`, one line each."""
    found: list[str] = []
    doors: dict[str, set[Path]] = {name: set() for name in ONE_FILE_EACH}
    for file in source_files(root):
        if file.name == "utils.py":
            found.append(f"{file}: name the job that it has")
        for line, name, late in imported_modules(root, file):
            if reason := violation(file, name, late):
                found.append(f"{file}:{line}: {reason}")
            if (top := name.partition(".")[0]) in doors:
                doors[top].add(file)
    found += [f"{name} is imported in {len(files)} files: {sorted(map(str, files))}" for name, files in doors.items() if len(files) > 1]
    return found


def circle_of_rooms(root: Path, layer: str) -> list[str]:
    """Rooms of a layer, and its modules that stand in none, that import each other in a circle; empty where they have an order."""
    below: dict[str, set[str]] = {}
    for file in source_files(root):
        if file.parts[0] == layer:
            here = file.parts[1].removesuffix(".py")
            names = (name.split(".") for _, name, _ in imported_modules(root, file) if name.startswith(f"{PACKAGE}.{layer}."))
            below.setdefault(here, set()).update({parts[2] for parts in names} - {here})
    try:
        graphlib.TopologicalSorter(below).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_the_tree_keeps_the_contract() -> None:
    assert len(source_files(ROOT)) > len(FOLDERS)
    assert violations(ROOT) == []


def test_rooms_of_datasets_have_an_order() -> None:
    assert len(list((ROOT / "datasets").glob("*/__init__.py"))) > 10
    assert circle_of_rooms(ROOT, "datasets") == []


def test_rooms_in_a_circle_are_found(tmp_path: Path) -> None:
    for room, source in (("a", "from ..b.two import x"), ("b", "def f():\n    from ..c import x"), ("c", "")):
        (tmp_path / "datasets" / room).mkdir(parents=True)
        (tmp_path / "datasets" / room / "one.py").write_text(source)
    assert circle_of_rooms(tmp_path, "datasets") == []
    (tmp_path / "datasets" / "c" / "one.py").write_text("from ..a.one import y")
    assert set(circle_of_rooms(tmp_path, "datasets")) == {"a", "b", "c"}


def test_folders_that_must_not_hide_other_packages_have_no_init() -> None:
    # With it, a checkout on the path would answer to `import datasets`, which is Hugging Face's name.
    assert not (ROOT / "datasets" / "__init__.py").exists()
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    ("file", "source", "words"),
    [
        ("model/a.py", "import ray", "not 'ray'"),
        ("model/a.py", "from os import environ", "nothing of its process"),
        ("model/codecs/a.py", "import torch.distributed as dist", "nothing of its process"),
        ("model/codecs/a.py", "def f():\n    from einops import rearrange", "not 'einops'"),
        ("model/codecs/a.py", "import diffusers", "not 'diffusers', unless inside a function"),
        ("model/codecs/a.py", "class A:\n    from safetensors import safe_open", "unless inside a function"),
        ("model/codecs/a.py", "from ...datasets.media import probe", "upward, from 'datasets'"),
        ("model/a.py", "from .. import workers", "upward, from 'workers'"),
        ("datasets/a.py", "from ..workers import engine", "upward, from 'workers'"),
        ("datasets/a.py", "import mutual_forcing.orchestration.main", "upward, from 'orchestration'"),
        ("workers/a.py", "from mutual_forcing.orchestration import main", "upward, from 'orchestration'"),
        ("workers/a.py", "from ..benchmarks import model", "a benchmark"),
        ("workers/a.py", "import datasets", "'datasets' without its package"),
        ("workers/utils.py", "", "the job"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, file: str, source: str, words: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source)
    [found] = violations(tmp_path)
    assert file in found
    assert words in found


def test_two_doors_to_one_library_are_found(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "a.py").write_text("import deepspeed.ops")
    assert violations(tmp_path) == []
    (tmp_path / "workers" / "b.py").write_text("from deepspeed import initialize")
    [found] = violations(tmp_path)
    assert found.startswith("deepspeed is imported in 2 files")


def test_what_pretrained_networks_need_is_imported_late(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.py").write_text("def f():\n    with g():\n        from diffusers import AutoencoderKLWan")
    assert violations(tmp_path) == []


def test_imports_downward_are_free(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "orchestration").mkdir()
    (tmp_path / "model" / "a.py").write_text("import math\nimport torch\nfrom numpy import pi\nfrom .b import c")
    (tmp_path / "orchestration" / "a.py").write_text("import ray\nfrom ..model.a import x\nfrom ..benchmarks import model")
    (tmp_path / "__main__.py").write_text("from mutual_forcing.orchestration import main")
    assert violations(tmp_path) == []
