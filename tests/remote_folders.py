"""A hub and an object store in this process: just enough of their HTTP for folders to be listed and read, and to fail on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class Server(ThreadingHTTPServer):
    """Serves the files below `root`. `asked`: paths of requests. `cut`: this many bytes of a file are sent, and the line goes dead.
    `stale`: objects of a bucket had so many bytes more when they were listed.
    """

    daemon_threads = True

    def __init__(self, root: Path, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.root = root
        self.asked: list[str] = []
        self.cut: int | None = None
        self.stale = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.server.asked.append(path)
        self.answer(path.lstrip("/"), {name: values[0] for name, values in parse_qs(url.query).items()})

    def answer(self, path: str, query: dict[str, str]) -> None:
        raise NotImplementedError

    def send(self, status: int, body: bytes, kind: str, cut: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
            if cut is not None:
                self.close_connection = True

    def send_file(self, file: Path) -> None:
        body = file.read_bytes()
        self.send(200, body, "application/octet-stream", self.server.cut, ETag=f'"{md5(body).hexdigest()}"')


class Hub(Handler):
    """Of https://huggingface.co: a repository's commit, the list of a folder, a file."""

    def answer(self, path: str, query: dict[str, str]) -> None:
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            name, verb, commit, inside = "/".join(parts[2:4]), parts[4], parts[5], "/".join(parts[6:])
            folder = self.server.root / name / commit
            if not folder.is_dir():
                known = (self.server.root / name).is_dir()
                self.send(404, b"{}", "application/json", X_Error_Code="RevisionNotFound" if known else "RepoNotFound")
            elif verb == "revision":
                self.json({"id": name, "sha": commit, "siblings": []})
            elif (folder / inside).is_dir():
                self.json([self.entry(file, folder) for file in sorted((folder / inside).iterdir())])
            else:
                self.send(404, b"{}", "application/json", X_Error_Code="EntryNotFound")
        else:  # OWNER/NAME/resolve/COMMIT/FILE
            self.send_file(self.server.root / "/".join([*parts[:2], *parts[3:]]))

    def json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), "application/json")

    def entry(self, file: Path, folder: Path) -> dict[str, object]:
        name = file.relative_to(folder).as_posix()
        if file.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40}
        return {"type": "file", "path": name, "size": file.stat().st_size, "oid": md5(file.read_bytes()).hexdigest()}


class Bucket(Handler):
    """Of S3: the list of a prefix with its delimiter, an object."""

    def answer(self, path: str, query: dict[str, str]) -> None:
        bucket, _, key = path.partition("/")
        root = self.server.root / bucket
        if not root.is_dir():
            self.error("NoSuchBucket")
        elif query.get("list-type") == "2":
            self.listing(root, query.get("prefix", ""))
        elif (root / key).is_file():
            self.send_file(root / key)
        else:
            self.error("NoSuchKey")

    def error(self, code: str) -> None:
        self.send(404, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(), "application/xml")

    def listing(self, root: Path, prefix: str) -> None:
        files, folders = [], set()
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            key = file.relative_to(root).as_posix()
            if key.startswith(prefix):
                rest = key.removeprefix(prefix)
                if "/" in rest:
                    folders.add(prefix + rest.split("/")[0] + "/")
                else:
                    body = file.read_bytes()
                    tag, size = md5(body).hexdigest(), len(body) + self.server.stale
                    files.append(
                        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;{tag}&quot;</ETag>"
                        "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
                    )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in sorted(folders))
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(files)}{prefixes}</ListBucketResult>"
        self.send(200, body.encode(), "application/xml")


@contextmanager
def serving(root: Path, handler: type[Handler]) -> Iterator[Server]:
    """A server of the files below `root`, on a free port of this machine, until the block ends."""
    server = Server(root, handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
