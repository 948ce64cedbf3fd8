"""The metadata service of a cloud's machine, on this one."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "session-of-the-machine"


class MetadataService:
    """AWS's answers need a session token, Google's a header; `take_back` makes both tell of it. broken: what AWS's answers then."""

    def __init__(self) -> None:
        self.end: float | None = None
        self.broken: bytes | None = None
        self.asked = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                wanted = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"] is not None
                self._answer(200 if wanted else 400, TOKEN.encode())

            def do_GET(self) -> None:
                owner.asked += 1
                if self.path == "/latest/meta-data/spot/instance-action":
                    self._answer(*(owner.aws() if self.headers["X-aws-ec2-metadata-token"] == TOKEN else (401, b"")))
                elif self.path == "/computeMetadata/v1/instance/preempted":
                    known = self.headers["Metadata-Flavor"] == "Google"
                    self._answer(*((200, b"FALSE" if owner.end is None else b"TRUE") if known else (403, b"")))
                else:
                    self._answer(404, b"")

            def _answer(self, code: int, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> MetadataService:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def take_back(self, seconds: float) -> None:
        self.end = time.time() + seconds

    def aws(self) -> tuple[int, bytes]:
        if self.broken is not None:
            return 200, self.broken
        if self.end is None:
            return 404, b"<html>Not Found</html>"
        when = datetime.fromtimestamp(self.end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return 200, json.dumps({"action": "terminate", "time": when}).encode()
