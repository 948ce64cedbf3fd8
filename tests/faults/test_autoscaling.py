"""A cluster without machines, whose autoscaler brings them: for the workers of an elastic training, and for no more than those.

Ray's autoscaler with its provider for tests, and what asks it; no training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from autoscaled_material import AutoscaledMachines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# One worker a machine. First a start, then growth while others train; what is there is counted when nothing more has come for a while.
ASK = """
import json, logging, time
import ray
from mutual_forcing.orchestration.elastic.places import Places, Vacancy, room_for
ray.init(logging_level=logging.ERROR)
worker, said = {"CPU": 1.0, "trainer": 1.0}, []
def machines():
    return sum("trainer" in node["Resources"] for node in ray.nodes() if node["Alive"])
def at_rest():
    seen, since = machines(), time.monotonic()
    while time.monotonic() - since < 10.0:
        time.sleep(0.5)
        if machines() != seen:
            seen, since = machines(), time.monotonic()
    return seen
found = [machines(), room_for(worker, (1, 2), said.append, settle=300.0), at_rest()]
with Places(worker, (2,)) as training, Vacancy(worker, (2, 3), 2, 0.0, "fit-1") as room:
    end = time.monotonic() + 300
    while not (training.size() == 2 and room()) and time.monotonic() < end:
        time.sleep(0.5)
    found += [int(room()), at_rest()]
print(json.dumps([found, said]))
"""


def test_the_autoscaler_brings_the_machines_of_all_workers_and_no_more() -> None:
    with AutoscaledMachines(4, {"CPU": 1, "trainer": 1}) as machines:
        asked = subprocess.run(
            [sys.executable, "-c", ASK], env=os.environ | machines.environment, capture_output=True, text=True, timeout=800, check=False
        )
    assert asked.returncode == 0, asked.stderr
    found, said = json.loads(asked.stdout.splitlines()[-1])
    assert found == [0, 2, 2, 1, 3]
    assert all(text.endswith("training waits for machines") for text in said)
