"""A Ray cluster over its Jobs API: HTTP to the head's dashboard, with a token. Every answer that is no answer becomes one line."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

ADDRESS = "RAY_API_SERVER_ADDRESS"
ANSWER_S = 10.0
POLL_S = 1.0
AGENTS_S = 90.0
AWAY_S = 300.0  # a tunnel that is made again, a head that is busy
NO_AGENT = "No available agent"
AT_FAULT = "failed with status code 5"  # in Ray's words
RUNNING = ("PENDING", "RUNNING")
DEFAULT_TOKEN = Path("~/.ray/auth_token")
TUNNEL = "open a tunnel (`ssh -L 8265:127.0.0.1:8265 HEAD`, `ray dashboard cluster.yaml`) and use http://127.0.0.1:8265"


@dataclass(frozen=True)
class Seen:
    """A job as the cluster tells of it. status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; began, ended: seconds since 1970;
    exit_code: of its process, where that ended by itself.
    """

    job: str
    status: str
    message: str
    began: float | None
    ended: float | None
    metadata: dict[str, str]
    exit_code: int | None = None

    @property
    def is_over(self) -> bool:
        return self.status not in RUNNING


class Away(ValueError):
    """The cluster does not answer now, and may again."""


class Lines:
    """Text that comes in pieces, from its beginning again after each loss of the connection: every line is said once, when it is whole."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said, self._at, self._rest = say, 0, 0, ""

    def again(self) -> None:
        """It comes from its beginning."""
        self._at, self._rest = 0, ""

    def see(self, text: str) -> None:
        """The next piece."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._at += 1
            if self._at > self._said:
                self._say(line)
                self._said = self._at


class Cluster:
    """Raises ValueError from every method where the cluster does not answer, or says no: address, what it said, remedy."""

    def __init__(self, address: str, client: Any) -> None:
        self.address, self._client = address, client

    def submit(self, job: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> None:
        """Start a job under this name. The agents of a head that has just begun take a while to come up."""
        end = time.monotonic() + AGENTS_S
        with self._told(job):
            while True:
                try:
                    self._client.submit_job(submission_id=job, entrypoint=entrypoint, runtime_env=runtime_env, metadata=metadata)
                    return
                except RuntimeError as error:
                    if NO_AGENT not in str(error):
                        raise
                    if time.monotonic() > end:
                        raise ValueError(
                            f"--address {self.address!r}: no agent of the head takes jobs; look at dashboard_agent.log there "
                            "(another Ray may have its port: --dashboard-agent-listen-port)"
                        ) from error
                time.sleep(POLL_S)

    def look(self, job: str) -> Seen:
        """How a job is."""
        with self._told(job):
            return _seen(self._client.get_job_info(job))

    def all(self) -> list[Seen]:
        """Jobs that were submitted, oldest first."""
        with self._told(""):
            return sorted((_seen(info) for info in self._client.list_jobs() if info.submission_id), key=lambda seen: seen.began or 0.0)

    def stop(self, job: str) -> None:
        """Ask it to end; Ray sends SIGTERM, and SIGKILL after the time that its environment names."""
        with self._told(job):
            self._client.stop_job(job)

    def forget(self, job: str) -> None:
        """Take a job that is over from the list."""
        with self._told(job):
            self._client.delete_job(job)

    def logs(self, job: str) -> str:
        """All that it has printed."""
        with self._told(job):
            return self._client.get_job_logs(job)

    def follow(self, job: str, say: Callable[[str], None], warn: Callable[[str], None]) -> Seen:
        """Say every line that it prints, as it does, until it is over; a lost connection is made again, and no line is said twice.

        Raises:
            ValueError: the cluster says no, or has not answered for minutes.
        """
        from aiohttp import ClientError

        lines, since = Lines(say), None
        while True:
            with suppress(OSError, RuntimeError, ClientError):  # whatever it was: the look below tells whether the cluster answers
                asyncio.run(self._tail(job, lines))
            try:
                if (seen := self.look(job)).is_over:
                    lines.again()
                    lines.see(self.logs(job).rstrip("\n") + "\n")
                    return seen
                since = None
            except Away as error:
                if since is None:
                    since = time.monotonic()
                    warn(f"{self.address} does not answer; it is asked again for {AWAY_S / 60:.0f} minutes, and the job goes on")
                elif time.monotonic() - since > AWAY_S:
                    raise ValueError(f"{error}; it has not answered for {AWAY_S:.0f} s") from error
            time.sleep(POLL_S)

    async def _tail(self, job: str, lines: Lines) -> None:
        lines.again()
        async for text in self._client.tail_job_logs(job):
            lines.see(text)

    def wait(self, job: str, seconds: float) -> Seen:
        """Until it is over, at most so long."""
        end = time.monotonic() + seconds
        while not (seen := self.look(job)).is_over and time.monotonic() < end:
            time.sleep(POLL_S)
        return seen

    @contextmanager
    def _told(self, job: str) -> Iterator[None]:
        from ray.exceptions import AuthenticationError
        from requests import RequestException

        try:
            yield
        except AuthenticationError as error:
            raise ValueError(_refused(self.address)) from error
        except (RequestException, ConnectionError) as error:
            raise Away(
                f"--address {self.address!r}: the cluster does not answer any more ({_short(error)}); the job is not touched by that"
            ) from error
        except RuntimeError as error:
            if "does not exist" in str(error):
                raise ValueError(
                    f"job {job!r}: there is none of that name at {self.address}; `mutual-forcing status` lists them"
                ) from error
            kind = Away if AT_FAULT in str(error) else ValueError  # a proxy before a head that is gone, a head that is busy
            raise kind(f"job {job!r}: the cluster at {self.address} refuses it ({_short(error)})") from error


def connect(address: str | None, warn: Callable[[str], None]) -> Cluster:
    """The cluster at an address, or at that of RAY_API_SERVER_ADDRESS.

    Raises:
        ValueError: the address is none, nothing answers there, it refuses the token, or its Ray is of another version.
    """
    given = address or os.environ.get(ADDRESS, "")
    parts = _parts(given)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(
            f"--address {_safe(given)!r}: give the head's dashboard, such as http://127.0.0.1:8265 (or set {ADDRESS}); {TUNNEL}"
        )
    if parts.username or parts.password:
        raise ValueError(
            f"--address {_safe(given)!r}: it names a user; Ray asks for a token: set RAY_AUTH_TOKEN_PATH to the file that holds it"
        )
    os.environ[ADDRESS] = given  # Ray's client would rather take RAY_ADDRESS
    token = _use_token()
    there = _version(given, token)
    import ray

    if there != ray.__version__:
        raise ValueError(
            f"--address {given!r}: Ray {there} runs there, {ray.__version__} here, and jobs need the same; "
            f"pip install 'ray[default]=={there}' here, or start the cluster with ray=={ray.__version__}"
        )
    if token and parts.scheme == "http" and not _is_near(parts.hostname):
        warn(f"the token goes to {parts.hostname} unencrypted; {TUNNEL}")
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)  # they tell of every upload
    try:
        return Cluster(given, JobSubmissionClient(given))
    except Exception as error:  # bare ones too, whose words differ from release to release
        raise ValueError(
            f"--address {given!r}: the jobs API cannot be used ({_short(error)}); start Ray there with 'ray[default]'"
        ) from error


def _parts(address: str) -> SplitResult | None:
    """Of an address; None: it has none."""
    try:
        parts = urlsplit(address)
        return None if parts.port == 0 else parts  # asking for a port that is none raises
    except ValueError:
        return None


def _use_token() -> bool:
    """Have Ray send the user's token, if there is one; whether there is. Ray does so by itself only where RAY_AUTH_MODE says it."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", str(DEFAULT_TOKEN))).expanduser()
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return False
    if "RAY_AUTH_TOKEN_PATH" in os.environ and not path.is_file():
        raise ValueError(f"RAY_AUTH_TOKEN_PATH={str(path)!r}: there is no such file; give the one that holds the cluster's token")
    if not os.environ.get("RAY_AUTH_TOKEN") and not path.is_file():
        return False
    os.environ["RAY_AUTH_MODE"] = "token"
    from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]  compiled

    Config.initialize("")  # Ray may have been imported before the mode was known
    return True


def _version(address: str, token: bool) -> str:
    """Of the Ray that answers there; Ray's own client would wait for ever for one that does not."""
    import requests
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    try:
        answer = requests.get(
            f"{address.rstrip('/')}/api/version",
            headers=get_auth_headers_if_auth_enabled({}) if token else {},
            timeout=ANSWER_S,
            allow_redirects=False,  # a token goes nowhere else
        )
        if answer.status_code in (401, 403):
            raise ValueError(_refused(address))
        answer.raise_for_status()
        return str(answer.json()["ray_version"])[:40]
    except requests.ConnectionError as error:
        raise ValueError(
            f"--address {address!r}: nothing answers there; is the head up, and its dashboard on that port? {TUNNEL}"
        ) from error
    except (requests.RequestException, KeyError, TypeError) as error:
        raise ValueError(f"--address {address!r}: what answers is no Ray dashboard ({_short(error)}); {TUNNEL}") from error


def _refused(address: str) -> str:
    return (
        f"--address {address!r}: it refuses the token; set RAY_AUTH_TOKEN_PATH to the file with the cluster's token "
        f"(on its head: `ray get-auth-token`), or put it into {DEFAULT_TOKEN}"
    )


def _is_near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _safe(address: str) -> str:
    """Without what may be a password."""
    return f"...@{address.rpartition('@')[2]}" if "@" in address else address[:200]


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _seen(info: Any) -> Seen:
    began, ended = (None if at is None else at / 1000 for at in (info.start_time, info.end_time))
    status = str(getattr(info.status, "value", info.status))
    return Seen(info.submission_id, status, info.message or "", began, ended, info.metadata or {}, info.driver_exit_code)
