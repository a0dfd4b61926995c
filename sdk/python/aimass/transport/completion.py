"""One thing that will be known later, from any thread: done once, with a result or an error.

Lighter than `concurrent.futures.Future`: no condition variable is made unless somebody waits, because one of these is
made for each message on the hot path.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from aimass.errors import AimassError, DeadlineError

T = TypeVar("T")
log = logging.getLogger(__name__)


class Completion(Generic[T]):
    """Result or error of something in progress. Thread-safe; the first completion wins, later ones are ignored."""

    __slots__ = ("_callbacks", "_done", "_error", "_event", "_lock", "_result")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = False
        self._result: T | None = None
        self._error: AimassError | None = None
        self._event: threading.Event | None = None
        self._callbacks: list[Callable[[Self], None]] = []

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._done

    @property
    def result(self) -> T | None:
        """The result; None while it is not known, and when it failed."""
        return self._result

    @property
    def error(self) -> AimassError | None:
        """Why it failed; None while it is not known, and when it succeeded."""
        return self._error

    def add_done_callback(self, callback: Callable[[Self], None]) -> None:
        """Call back with this object when it is done: at once when it is already.

        The callback runs on the thread that completes (often a network thread): it must be quick. What it raises is
        logged.
        """
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        self._call(callback)

    def wait(self, timeout_s: float | None = None) -> T | None:
        """Block until it is done.

        Raises:
            DeadlineError: not done within `timeout_s`.
            AimassError: the error it failed with.
        """
        with self._lock:
            if not self._done and self._event is None:
                self._event = threading.Event()
            event = self._event
        if not self._done and event is not None and not event.wait(timeout_s):
            raise DeadlineError(f"not done within {timeout_s} s", timeout_s=timeout_s)
        if self._error is not None:
            raise self._error
        return self._result

    def complete(self, result: T | None = None, error: AimassError | None = None) -> bool:
        """Set the outcome and run the callbacks on this thread. Returns False when it was done before."""
        with self._lock:
            if self._done:
                return False
            self._result = result
            self._error = error
            self._done = True
            callbacks = self._callbacks
            self._callbacks = []
            event = self._event
        if event is not None:
            event.set()
        for callback in callbacks:
            self._call(callback)
        return True

    def _call(self, callback: Callable[[Any], None]) -> None:
        try:
            callback(self)
        except Exception:  # a caller's fault must not kill the network thread that completes
            log.exception("a done-callback failed")
