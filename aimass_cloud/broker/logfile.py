"""What a child process says, kept in a file of bounded size."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

TAIL_LINES = 200


class BoundedLog:
    """Appends lines to a file; above ``max_bytes`` the file becomes ``.1`` and a new one begins.

    Never raises: a full disk must not stop the reader, or the child would block on its pipe. The last lines are also
    kept in memory, for error messages.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lock = threading.Lock()
        self._failing = False

    def feed(self, lines: Iterable[bytes]) -> None:
        """Takes lines until there are no more."""
        for line in lines:
            with self._lock:
                self._tail.append(line.decode(errors="replace").rstrip())
                self._append(line)

    def tail(self, lines: int) -> list[str]:
        """The last lines, oldest first."""
        with self._lock:
            return list(self._tail)[-lines:]

    def _append(self, line: bytes) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(line)
                size = file.tell()
            if size > self._max_bytes:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._failing = False
        except OSError as exc:
            if not self._failing:
                log.warning("cannot write %s: %s", self._path, exc)
            self._failing = True

    def clear(self) -> None:
        """Forgets the lines in memory; the file stays."""
        with self._lock:
            self._tail.clear()
