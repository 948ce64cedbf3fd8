"""What a server gives to those who watch: how much, for how long, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass

MAX_MOVES = 64
MAX_GUIDANCE = 20.0
MAX_PICTURE = 4 << 20  # bytes
MAX_CAPTION = 1000  # letters
MAX_TEXT = 20_000  # letters of a transcript with times, and twice as many bytes of its JSON
MAX_WORDS = 4000


@dataclass(frozen=True)
class Limits:
    """viewers: streams at once in one process that has the model; per_address: of them for one client's address; batch: clips that one
    evaluation of the network is of; seconds: of film a stream.

    ahead_s: film that is made and not yet fetched; then a clip waits. gone_s: without any request a stream ends; away_s: without
    anybody who fetches. gather_s: how long the first of a batch waits for others; patience_s: how long a clip may hold up others of its
    batch. spoken_s: words may be appended up to so much after what is being made.
    """

    viewers: int = 8
    per_address: int = 4
    batch: int = 8
    seconds: float = 600.0
    ahead_s: float = 2.0
    gone_s: float = 10.0
    away_s: float = 120.0
    gather_s: float = 0.1
    patience_s: float = 1.0
    spoken_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("viewers", "per_address", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}={getattr(self, name)}: must be at least 1")
        for name in ("seconds", "ahead_s", "gone_s", "away_s"):
            if not 0 < getattr(self, name) < float("inf"):
                option = name.removesuffix("_s").replace("_", "-")
                raise ValueError(f"--{option}={getattr(self, name)}: must be a number of seconds above 0")


class Refused(Exception):
    """A request that is not served: an HTTP status, one line that says why, and after how many seconds it may be tried again."""

    def __init__(self, status: int, reason: str, retry_s: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_s = status, reason, retry_s

    def __reduce__(self) -> tuple[type[Refused], tuple[int, str, int | None]]:
        return Refused, (self.status, self.reason, self.retry_s)  # crosses process borders whole
