"""Waiting for a condition with a deadline, never for luck."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, timeout_s: float, what: str, every_s: float = 0.05) -> None:
    """Look until the condition holds (is truthy).

    Raises:
        TimeoutError: it did not hold in time; the message names ``what``.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(every_s)
