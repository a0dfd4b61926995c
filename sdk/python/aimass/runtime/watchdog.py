"""What must happen at a time, whatever else goes on: one thread that calls back when an alarm is due.

Deadlines of queued requests, fallbacks that are armed, answers of the cloud that do not come. Callbacks run on the
watchdog's thread and must be quick; what they raise is logged, because the other alarms must ring all the same.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Alarm:
    """Something due at a time. ``cancel`` may be called at any time, and again."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback

    @property
    def is_live(self) -> bool:
        """Neither rung nor cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        """Do not ring. What the callback holds is let go at once, though the alarm's entry waits for its time."""
        self._callback = None

    def ring(self) -> None:
        """Call back, if still live."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Watchdog:
    """Rings alarms at their time.

    Args:
        clock: seconds; alarms are given in its time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()  # alarms of the same time are never compared with one another
        self._sweep_at = 256
        self._thread: threading.Thread | None = None
        self._closed = False

    def at(self, when: float, callback: Callable[[], object]) -> Alarm:
        """Call back at ``when``; when that is past, at once. After ``close`` everything is past."""
        alarm = Alarm(callback)
        with self._changed:
            is_closed = self._closed
            if not is_closed:
                self._add(when, alarm)
        if is_closed:
            alarm.ring()
        return alarm

    def _add(self, when: float, alarm: Alarm) -> None:
        if len(self._due) >= self._sweep_at:
            self._sweep()
        heapq.heappush(self._due, (when, next(self._order), alarm))
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="aimass-watchdog", daemon=True)
            self._thread.start()
        elif self._due[0][2] is alarm:  # most alarms are later than the first one: no need to wake the thread
            self._changed.notify()

    def close(self) -> None:
        """Ring everything now, so that nobody waits for a time that will not come, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _sweep(self) -> None:
        """Most alarms are cancelled long before their time: drop those, each time the heap has doubled."""
        self._due = [entry for entry in self._due if entry[2].is_live]
        heapq.heapify(self._due)
        self._sweep_at = max(256, 2 * len(self._due))

    def _watch(self) -> None:
        while (alarm := self._next()) is not None:
            try:
                alarm.ring()
            except Exception:
                # A supervisor: one callback's fault must not silence all other deadlines.
                log.exception("an alarm's callback failed")

    def _next(self) -> Alarm | None:
        """Wait for the next alarm; None when closed and all have rung."""
        with self._changed:
            while not self._closed and (wait_s := self._wait_s()) != 0:
                self._changed.wait(wait_s)
            return heapq.heappop(self._due)[2] if self._due else None

    def _wait_s(self) -> float | None:
        """Seconds until the next alarm; 0 when one is due, None when there is none."""
        return max(0.0, self._due[0][0] - self._clock()) if self._due else None
