"""Nothing is sent to MLflow's makers, unless the user wants it."""

from __future__ import annotations

import os
import subprocess
import sys

# MLflow's own answer, first as we leave it and then without us: were it the same, the test would test nothing.
ASK = """
import os
from mutual_forcing.orchestration import tracking
from mlflow.telemetry import get_telemetry_client
from mlflow.telemetry.utils import is_telemetry_disabled
print(is_telemetry_disabled(), get_telemetry_client())
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "false"
print(is_telemetry_disabled())
"""
# Of a user, who sits at no continuous integration: there MLflow is silent by itself.
KEPT = ("PATH", "HOME", "OMP_NUM_THREADS")


def test_mlflow_itself_says_that_its_telemetry_is_off() -> None:
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True None", "False"]
