"""`python . VERB ...`: the command line from a checkout that nobody has installed.

A bare GPU machine often has PyTorch and nothing else. There, registering the checkout under the package's name is all the
installation that `bench NAME` needs, because benchmarks of the model import the model alone; each offers
`main(arguments: list[str]) -> int`. Where the command line's own libraries are present, every verb works.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def register() -> None:
    """Make the checkout that holds this file importable as `mutual_forcing`."""
    # Python puts the checkout itself on the path; its folders would then shadow packages such as Hugging Face's `datasets`.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    spec = importlib.util.spec_from_file_location("mutual_forcing", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutual_forcing"] = module
    spec.loader.exec_module(module)


def bench_bare(arguments: list[str]) -> int:
    """Run one benchmark without the command line's libraries; returns the exit code, raises `SystemExit` with the remedy."""
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_"))
    if arguments[:1] != ["bench"]:
        raise SystemExit("mutual-forcing: typer is not installed, so only `bench NAME` works here; remedy: python -m pip install .")
    if len(arguments) < 2 or arguments[1] not in names:
        raise SystemExit(
            f"mutual-forcing: no benchmark named {' '.join(arguments[1:2]) or '(none given)'}; choose from: {', '.join(names)}"
        )
    try:
        return importlib.import_module(f"mutual_forcing.benchmarks.{arguments[1]}").main(arguments[2:])
    except ValueError as error:
        raise SystemExit(f"mutual-forcing: {error}") from error


def main() -> None:
    """Hand over to the command line, or to one benchmark where the command line's libraries are missing."""
    if importlib.util.find_spec("typer") is None:
        raise SystemExit(bench_bare(sys.argv[1:]))
    importlib.import_module("mutual_forcing.orchestration.main").app_entry()


# Outside the guard below, so that spawned processes, which import this file again, find the package too.
if __package__ != "mutual_forcing":
    __spec__ = None  # with a folder's spec, spawned processes would not import this file
    register()

if __name__ == "__main__":
    main()
