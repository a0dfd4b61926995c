"""When to renew a certificate."""

from __future__ import annotations

import random as _random
from collections.abc import Callable

EARLIEST, LATEST = 0.60, 0.75
"""Share of a life at which renewal begins; random in between, so that a fleet enrolled together renews apart."""


def renew_at_ms(issued_at_ms: int, not_after_ms: int, random: Callable[[], float] = _random.random) -> int:
    """Unix milliseconds at which to renew what is valid from ``issued_at_ms`` to ``not_after_ms``."""
    share = EARLIEST + (LATEST - EARLIEST) * random()
    return issued_at_ms + round((not_after_ms - issued_at_ms) * share)
