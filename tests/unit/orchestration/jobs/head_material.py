"""The jobs API of a head as far as Ray's own client asks it, over HTTP: jobs that tests name, and answers that fail when they say so."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import ray
from ray.job_submission import JobSubmissionClient

from mutual_forcing.orchestration.jobs.cluster import ADDRESS, Cluster
from mutual_forcing.orchestration.jobs.spec import JobSpec

Answer = tuple[int, bytes]


class Head:
    """A context. jobs: records as Ray gives them, by name; logs: what each has printed; asked: every request so far, in order;
    broken: takes a request and gives the answer in place of the head's, or None.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        self.asked: list[str] = []
        self.broken: Callable[[str], Answer | None] = lambda _: None

    def job(self, name: str, status: str, spec: JobSpec | None = None, **more: Any) -> None:
        """A job that is there."""
        metadata = {} if spec is None else spec.metadata({})
        self.jobs[name] = {"type": "SUBMISSION", "submission_id": name, "status": status, "entrypoint": "", "metadata": metadata, **more}

    def __enter__(self) -> Cluster:
        head = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                request = f"{self.command} {self.path}"
                head.asked.append(request)
                status, body = head.broken(request) or head.answer(request)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{self._server.server_port}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ADDRESS, address)  # Ray's client would rather take what another test has left there
            return Cluster(address, JobSubmissionClient(address))

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: str) -> Answer:
        """What a head that is well says."""
        place = request.partition(" ")[2].strip("/").split("/")
        if place == ["api", "version"]:
            return 200, json.dumps({"version": "4", "ray_version": ray.__version__, "ray_commit": ""}).encode()
        if place == ["api", "jobs"]:
            return 200, json.dumps(list(self.jobs.values())).encode()
        if place[:2] == ["api", "jobs"] and place[2] in self.jobs:
            if place[3:] == ["logs"]:
                return 200, json.dumps({"logs": self.logs.get(place[2], "")}).encode()
            if not place[3:]:
                return 200, json.dumps(self.jobs[place[2]]).encode()
        return 404, b"does not exist"
