"""What all tests share: few threads, no telemetry, reproducible random examples, and one Ray cluster a session."""

import os
import secrets

# Before torch and Ray are imported anywhere: several processes share a small machine, and a test run tells nobody that it ran.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray would otherwise write a token of its own into the home directory.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A busy machine must not fail a test by its slowness, and a failure must come back when it is run again.
hypothesis.settings.register_profile("reproducible", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("reproducible")

CLUSTER_CPUS = 4


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder with a short name: Ray puts sockets below it, whose paths the system limits to 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="mf-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster(short_tmp: Path) -> Iterator[str]:
    """A local Ray cluster of `CLUSTER_CPUS` logical cores, shared by all tests of a session; gives its address."""
    import ray  # not needed by most tests, and slow to import

    ray.init(
        address="local",
        num_cpus=CLUSTER_CPUS,
        num_gpus=0,
        object_store_memory=512 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(short_tmp),
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
