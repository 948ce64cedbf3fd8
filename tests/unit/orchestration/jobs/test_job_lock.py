"""The locked versions against what is installed somewhere."""

from __future__ import annotations

import pytest

from mutual_forcing.orchestration.jobs.lock import differing, installed, locked, needed


def test_what_a_run_imports_is_needed_and_what_tests_import_is_not() -> None:
    found = needed()
    assert {"torch", "deepspeed", "mlflow", "pyarrow", "s3fs", "aiobotocore", "jinja2", "ray"} <= found.keys()
    assert not {"pytest", "ruff", "pyright", "sphinx", "transformers"} & found.keys()
    assert all(locked()[name] == version for name, version in found.items())


def test_what_is_installed_here_is_the_lock() -> None:
    assert differing(needed(), installed(needed())) == {}


@pytest.mark.parametrize(
    ("there", "other"),
    [
        ({"torch": "2.13.0+cpu"}, {}),
        ({"torch": "2.13.0+cu130"}, {}),
        ({"torch": "2.12.0"}, {"torch": "2.12.0"}),
        ({}, {"torch": "none"}),
        ({"torch": "not a version"}, {"torch": "not a version"}),
    ],
)
def test_builds_of_one_version_are_one(there: dict[str, str], other: dict[str, str]) -> None:
    assert differing({"torch": "2.13.0"}, there) == other


def test_what_is_not_there_has_no_version() -> None:
    assert installed(["no-such-package-anywhere"]) == {}
