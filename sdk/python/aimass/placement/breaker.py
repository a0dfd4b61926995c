"""When to stop asking a link that does not answer.

Two failures in a row open the breaker: nothing is sent. After a pause one request is let through as a probe; if it
comes back the breaker closes, else the pause doubles. A probe that is never reported counts as nothing: after another
pause the next request is a probe again.
"""

from __future__ import annotations

import threading


class CircuitBreaker:
    """Two failures open it; probes after 0.5 s, doubling to 8 s (``research/split-computing.md`` 2.6).

    Args:
        failures: how many in a row open it.
        first_pause_s: from opening to the first probe.
        max_pause_s: the longest pause between probes.
    """

    def __init__(self, failures: int = 2, first_pause_s: float = 0.5, max_pause_s: float = 8.0) -> None:
        self._limit = failures
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s
        self._lock = threading.Lock()
        self._failures = 0
        self._pause_s = first_pause_s
        self._probe_at = 0.0
        self._probing = False

    @property
    def state(self) -> str:
        """``closed`` (requests flow), ``open`` (none), ``half_open`` (a probe is on its way)."""
        if self._failures < self._limit:
            return "closed"
        return "half_open" if self._probing else "open"

    def allow(self, now: float) -> bool:
        """Whether a request may be sent now. While open, a yes makes that request the probe."""
        if self._failures < self._limit:  # no lock: at worst one request more goes out while another thread opens it
            return True
        with self._lock:
            if now < self._probe_at:
                return False
            self._probing = True
            self._probe_at = now + self._pause_s
            return True

    def success(self, now: float) -> None:
        """Something came back: the link works."""
        del now  # part of the signature: the rule is a function of events and time
        if not self._failures:
            return
        with self._lock:
            self._failures = 0
            self._pause_s = self._first_pause_s
            self._probing = False

    def failure(self, now: float) -> None:
        """Nothing came back in time, or the link refused."""
        with self._lock:
            self._failures += 1
            if self._failures < self._limit:
                return
            if self._probing:
                self._pause_s = min(self._pause_s * 2, self._max_pause_s)
                self._probing = False
            elif self._failures > self._limit:
                return  # sent before it opened; says nothing about the link now
            self._probe_at = now + self._pause_s
