"""A cloud's notice that it takes this machine back, passed on to Ray.

    python -m mutual_forcing.orchestration.nodes.spot_notice --cloud aws --address HEAD:6379     beside Ray
    python -m mutual_forcing.orchestration.nodes.spot_notice --now 110                      as a pod's preStop

    metadata service of the machine --asked every 5 s--> seconds left --drain--> Ray: nothing new comes here; ranks save, go on elsewhere

Ray's launcher starts spot machines and does not look for their notice, so `cluster.yaml` runs this beside Ray. The services: AWS's
`spot/instance-action` (version 2: a session token first), Google Cloud's `instance/preempted` (30 s, which it does not say).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

EVERY = 5.0  # seconds between two looks, as AWS recommends
ANSWER = 2.0  # seconds that the service may take
LONGEST = 2**16  # bytes of an answer
GCP_SECONDS = 30.0
OPENER = build_opener(ProxyHandler({}))  # the service is on the machine: a proxy would ask for its own
Look = Callable[[str], float | None]
"""Address of a metadata service -> seconds until the machine goes; None: nobody has said that it will."""


def look_aws(service: str) -> float | None:
    """Raises OSError where the service does not answer, ValueError where the answer is none."""
    token = _ask(Request(f"{service}/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT"))
    headers = {"X-aws-ec2-metadata-token": token.decode("ascii")}
    try:
        answer = json.loads(_ask(Request(f"{service}/latest/meta-data/spot/instance-action", headers=headers)))
    except HTTPError as error:
        if error.code == 404:  # what it answers until there is something to say
            return None
        raise
    if not isinstance(answer, dict) or not isinstance(answer.get("time"), str):
        raise ValueError(f"instance-action={answer!r}: names no time")
    return max(0.0, datetime.fromisoformat(answer["time"]).timestamp() - time.time())


def look_gcp(service: str) -> float | None:
    """Raises OSError where the service does not answer."""
    answer = _ask(Request(f"{service}/computeMetadata/v1/instance/preempted", headers={"Metadata-Flavor": "Google"}))
    return GCP_SECONDS if answer.strip() == b"TRUE" else None


CLOUDS: dict[str, tuple[Look, str]] = {
    "aws": (look_aws, "http://169.254.169.254"),
    "gcp": (look_gcp, "http://metadata.google.internal"),
}
"""How a cloud is asked, and where."""


def watch(look: Look, service: str, drain: Callable[[float], None], say: Callable[[str], None], every: float = EVERY) -> None:
    """Returns when Ray has been told. A service or a head that is away is told once, and asked again."""
    told = ""
    while True:
        try:
            left = look(service)
            if left is not None:
                drain(left)
                say(f"this machine is taken back in {left:.0f} s; Ray has been told")
                return
            told = ""
        except (OSError, HTTPException, ValueError, RuntimeError) as error:  # URLError is an OSError
            reason = error.reason if isinstance(error, URLError) else error
            if str(reason) != told:
                told = str(reason)
                say(f"cannot ask {service!r}, or tell Ray ({told}); it is tried again every {every:g} s")
        time.sleep(every)


def drain_node(address: str, node_id: str, left: float) -> None:
    """Have Ray give a node nothing new, and tell what works there that it goes in `left` seconds.

    Raises:
        RuntimeError: Ray refuses, or its head cannot be reached.
    """
    from ray.exceptions import RayError

    try:
        accepted, why = _drain(address, node_id, left, "DRAIN_NODE_REASON_PREEMPTION", "the cloud takes it back")
    except RayError as error:
        raise RuntimeError(f"{address}: {error}") from error
    if not accepted:
        raise RuntimeError(f"Ray refuses to drain this node: {why}")


def end_idle(address: str, node_id: str, left: float) -> bool:
    """Have Ray end a node on which nothing runs; whether nothing does. Ray refuses while a worker has work, or the node holds objects.

    Raises:
        RuntimeError: its head cannot be reached.
    """
    from ray.exceptions import RayError

    try:
        return _drain(address, node_id, left, "DRAIN_NODE_REASON_IDLE_TERMINATION", "its pod ends, and nothing runs there")[0]
    except RayError as error:
        raise RuntimeError(f"{address}: {error}") from error


def _drain(address: str, node_id: str, left: float, why: str, words: str) -> tuple[bool, str]:
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]  compiled
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # pyright: ignore[reportAttributeAccessIssue]  made at run time

    client = GcsClient(address=address)
    reason = DrainNodeReason.Value(why)
    until = math.ceil((time.time() + left) * 1000)
    return client.drain_node(node_id or _node_of_this_machine(client), reason, words, until)


def _node_of_this_machine(client: object) -> str:
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # pyright: ignore[reportAttributeAccessIssue]  made at run time
    from ray.util import get_node_ip_address

    here = get_node_ip_address()
    nodes = client.get_all_node_info(timeout=ANSWER * 5)  # type: ignore[attr-defined]
    mine = [i.hex() for i, node in nodes.items() if node.state == GcsNodeInfo.ALIVE and node.node_manager_address == here]
    if len(mine) != 1:
        raise RuntimeError(f"{len(mine)} living nodes of Ray have the address {here}; name one with --node-id")
    return mine[0]


def _ask(request: Request) -> bytes:
    with OPENER.open(request, timeout=ANSWER) as answer:
        return answer.read(LONGEST)


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Tell Ray when the cloud takes this machine back.")
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument("--cloud", choices=sorted(CLOUDS), help="wait for the notice of this cloud")
    when.add_argument(
        "--now", type=float, metavar="SECONDS", help="tell Ray at once that so many are left, and stay so long if anything runs"
    )
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="of Ray's head, HOST:PORT (default: RAY_ADDRESS)")
    parser.add_argument("--node-id", default="", help="of the node to drain (default: the only one with this machine's address)")
    parser.add_argument("--service", default="", help="address of the metadata service (default: the cloud's)")
    chosen = parser.parse_args(arguments)
    if not chosen.address:
        parser.error("--address: give that of Ray's head, or set RAY_ADDRESS")
    if chosen.now is not None:
        return _now(chosen.address, chosen.node_id, chosen.now)
    look, service = CLOUDS[chosen.cloud]
    drain: Callable[[float], None] = lambda left: drain_node(chosen.address, chosen.node_id, left)  # noqa: E731
    watch(look, chosen.service or service, drain, lambda text: print(f"spot notice: {text}", flush=True))
    return 0


def _now(address: str, node_id: str, left: float) -> int:
    try:
        if end_idle(address, node_id, left):  # a pod that the autoscaler takes away costs nothing more
            return 0
        drain_node(address, node_id, left)
    except RuntimeError as error:
        print(f"spot notice: cannot tell Ray ({error})", file=sys.stderr)
        return 1
    time.sleep(left)  # the pod is ended when this has ended, or when nothing runs in it any more
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
