"""How long a prefix takes to be listed: a server that speaks enough of S3 for it, and answers after a while as one far away does."""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

ANSWER_S = 0.1  # as another region does
BUCKET, PREFIX = "bench", "media/"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}


def listing_seconds(count: int) -> tuple[float, float]:
    """Of `count` objects in one flat prefix: page by page, and by ranges of keys."""
    keys = [f"{PREFIX}{number:08d}.mp4" for number in range(count)]
    with _server(keys):
        from ..datasets.intake.prefixes import Bucket

        bucket = Bucket(BUCKET)
        next(bucket.pages(PREFIX))  # the client is made with the first request
        spent = []
        for listed in (
            lambda: (found.key for page, _ in bucket.pages(PREFIX) for found in page),
            lambda: (f.key for f in bucket.below(PREFIX)),
        ):
            began = time.perf_counter()
            assert list(listed()) == keys
            spent.append(time.perf_counter() - began)
    return spent[0], spent[1]


@contextmanager
def _server(keys: list[str]) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(keys))
    Thread(target=server.serve_forever, daemon=True).start()
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.shutdown()


def _handler(keys: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            first = bisect_right(keys, asked.get("continuation-token") or asked.get("start-after", ""))
            page = keys[first : first + int(asked["max-keys"])]
            answer = _xml(page, first + len(page) < len(keys)).encode()
            time.sleep(ANSWER_S)
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _xml(keys: Iterable[str], more: bool) -> str:
    found = list(keys)
    objects = "".join(f"<Contents><Key>{key}</Key><Size>1000</Size><ETag>&quot;0&quot;</ETag></Contents>" for key in found)
    token = f"<NextContinuationToken>{found[-1]}</NextContinuationToken>" if more else ""
    return f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{objects}</ListBucketResult>"
