"""Waiting for something to become true, with a deadline: no test sleeps for luck."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], what: str = "", timeout_s: float = 10.0) -> None:
    """Return as soon as the condition holds.

    Raises:
        AssertionError: it did not within the time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {what or condition} after {timeout_s} s"
        time.sleep(0.002)
