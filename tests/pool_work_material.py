"""Work for the actors of a pool that needs no network: squares, and whatever can go wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Squares:
    """Payloads: an array to square; a word of trouble; or ("wait", path), which waits for a file. Results tell the actor and the batch."""

    def __call__(self, payloads: list[Any]) -> list[Any]:
        return [self._one(payload, len(payloads)) for payload in payloads]

    def _one(self, payload: Any, together: int) -> Any:
        if isinstance(payload, np.ndarray | np.number):
            return np.square(payload)
        match payload:
            case "die":
                os._exit(1)
            case ("die once", path):
                if not Path(path).exists():
                    Path(path).touch()
                    os._exit(1)
                return "alive"
            case "wrong":
                return ValueError("this one is wrong")
            case "broken":
                raise RuntimeError("the GPU fell off")
            case ("wait", path):
                while not Path(path).exists():
                    time.sleep(0.02)
        return (os.getpid(), together)


def refuse() -> Callable[[list[Any]], list[Any]]:
    raise ValueError("folder='/nowhere' does not exist")
