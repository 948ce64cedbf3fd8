"""The command `serve` as it is installed: it ends with Ctrl-C and leaves nothing, and a replica that dies is started again."""

from __future__ import annotations

import json
import os
import re
import signal
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_material import Running, command
from run_material import untrained_run
from serving_material import until


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    untrained_run(folder)
    return folder


def port_of(running: Running, seconds: float = 120) -> int:
    running.until(lambda: "Serving" in running.said().out, seconds)
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", running.said().out)
    assert found
    return int(found[1])


def ask(port: int, method: str, path: str, body: object = None, token: str | None = None) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, json.loads(data) if data[:1] in (b"{", b"[") else data


@pytest.mark.parametrize("stop", ["SIGTERM", pytest.param("Ctrl-C", marks=pytest.mark.slow)])
def test_a_server_ends_when_it_is_told_and_leaves_no_process(run: Path, stop: str) -> None:
    with Running("serve", str(run), "--port", "0", "--replicas", "0", "--threads", "1") as running:
        port = port_of(running)
        _, begun = ask(port, "POST", "/v1/streams", {"seconds": 300})
        assert until(lambda: ask(port, "GET", f"/v1/streams/{begun['stream']}")[1]["state"] == "playing")
        assert len(running.processes()) == 2, "it and an ffmpeg"
        running.interrupt() if stop == "Ctrl-C" else running.terminate()
        said = running.wait(30)
        assert (said.code, said.errors) == (130 if stop == "Ctrl-C" else 143, ["stopped: all streams have ended"])
        assert "Traceback" not in said.error
        assert [line[:8] for line in said.out.splitlines()] == ["Serving "], said.out
        assert running.left_behind(5) == set()


def test_a_server_that_cannot_begin_says_why(run: Path, tmp_path: Path) -> None:
    for folder, words, told in (
        (run, ["--host", "0.0.0.0"], "--host=0.0.0.0: others can reach it; give --token"),
        (tmp_path, ["--port", "0"], "holds neither a run nor exported weights"),
    ):
        said = command("serve", str(folder), "--replicas", "0", *words)
        assert said.code == 1
        [line] = said.errors
        assert told in line


@pytest.mark.slow
def test_a_gpu_is_asked_of_the_cluster(run: Path) -> None:
    """Of one that has GPUs and this machine has none: it is Ray that counts them."""
    said = command("serve", str(run), "--port", "0", "--replicas", "1", "--device", "cuda")
    assert (said.code, said.errors) == (1, ["error: --device=cuda: the cluster has no GPU; choose auto or cpu"])


@pytest.mark.slow
def test_a_replica_ends_without_a_word_on_stdout(run: Path) -> None:
    with Running("serve", str(run), "--port", "0", "--replicas", "1", "--threads", "1") as running:
        port = port_of(running, 240)
        assert ask(port, "POST", "/v1/streams", {"seconds": 300})[0] == 201
        running.interrupt()
        said = running.wait(120)
        assert (said.code, said.errors) == (130, ["stopped: all streams have ended"])
        assert [line[:8] for line in said.out.splitlines()] == ["Serving "], said.out
        assert running.left_behind(20) == set()


@pytest.mark.slow
def test_replicas_share_viewers_and_one_that_dies_is_started_again(run: Path) -> None:
    environment = {"MUTUAL_FORCING_TOKEN": (token := "a-token-that-is-long-enough")}
    with Running("serve", str(run), "--port", "0", "--replicas", "2", "--threads", "1", environment=environment) as running:
        port = port_of(running, 240)
        assert token not in running.said().out + running.said().error
        assert ask(port, "GET", "/v1/about")[0] == 401
        names = [ask(port, "POST", "/v1/streams", {"seconds": 300}, token)[1]["stream"] for _ in range(2)]
        assert sorted(name[:2] for name in names) == ["0-", "1-"], "the freer one is taken"
        assert ask(port, "GET", "/v1/about", token=token)[1]["places"] == 16
        kept, lost = sorted(names)
        status, words = ask(port, "POST", f"/v1/streams/{kept}/words", {"text": "hello"}, token)
        assert (status, words["words"][0][0]) == (200, "hello")
        assert ask(port, "POST", "/v1/streams", {"seconds": 1e6}, token) == (
            422,
            {"error": "seconds: 1e+06; this server makes streams of at most 600 s"},
        )
        status, data = ask(port, "GET", f"/v1/streams/{kept}/pieces/0?wait=10", token=token)
        assert (status, data[4:8]) == (200, b"ftyp")
        [replica] = [pid for pid in running.processes() if "ServeReplica:mutual-forcing-1:" in " ".join(psutil.Process(pid).cmdline())]
        os.kill(replica, signal.SIGKILL)

        def status_of(name: str) -> int:
            return ask(port, "GET", f"/v1/streams/{name}", token=token)[0]

        assert until(lambda: status_of(kept) == 200 and status_of(lost) in (404, 503), 60)
        assert until(lambda: status_of(kept) == 200 and status_of(lost) == 404, 120), "the new one knows nothing of it"
        assert status_of(kept) == 200, "the other one goes on"
        assert until(lambda: ask(port, "POST", "/v1/streams", {"seconds": 1}, token)[1].get("stream", "")[:2] == "1-", 60)
        running.interrupt()
        said = running.wait(120)
        assert (said.code, said.errors) == (130, ["stopped: all streams have ended"])
        assert [line[:8] for line in said.out.splitlines()][:2] == ["Serving ", "The page"]
        assert "Controller" not in said.out, "Ray tells of the replica that was killed, and of nothing that ends as it should"
        assert running.left_behind(20) == set()
