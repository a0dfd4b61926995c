"""HTTP over the agent's Unix socket: a small pool of kept-open connections, and every wait bounded.

The agent closes connections that were idle too long, so a connection is looked at before it is used again; should it
die in the same moment, a call that may be done twice is done again on a fresh one.
"""

from __future__ import annotations

import http.client
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimass.errors import ConnectError, DeadlineError, FrameTooLargeError

_BUSY_PAUSE_S = 0.005
_NOT_RUNNING = "start it with 'aimass-edge run', or name its socket: connect(socket_path=...)"


@dataclass(frozen=True, slots=True)
class Reply:
    """One complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, deadline: float, clock: Callable[[], float]) -> None:
        super().__init__("localhost")
        self._path, self._deadline, self._clock = path, deadline, clock

    def connect(self) -> None:
        """Connects within the deadline; a full backlog (the agent is stopped or swamped) is waited out."""
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(max(0.001, self._deadline - self._clock()))
                sock.connect(self._path)
            except BlockingIOError:
                sock.close()
                if self._clock() >= self._deadline:
                    raise TimeoutError from None
                time.sleep(_BUSY_PAUSE_S)
            except BaseException:
                sock.close()
                raise
            else:
                self.sock = sock
                return

    def limit(self, deadline: float, now: float) -> None:
        """Bounds every further read and write by what remains."""
        self._deadline = deadline
        if self.sock is not None:
            self.sock.settimeout(max(0.001, deadline - now))

    def is_usable(self) -> bool:
        """Nothing is readable on a healthy idle connection; a closed one reads as end-of-file."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poll.poll(0)


class UnixPool:
    """Connections to one socket, shared by all threads.

    Attributes:
        was_answered: an agent has answered here before; one that does not now is most likely being restarted.

    Args:
        path: the agent's socket.
        max_idle: connections kept open for the next call.
        max_answer_bytes: an answer longer than this is refused unread.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_idle: int = 8,
        max_answer_bytes: int = 256 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._max_idle, self._max_answer_bytes, self._clock = path, max_idle, max_answer_bytes, clock
        self._idle: list[_UnixConnection] = []
        self._lock = threading.Lock()
        self._closed = False
        self.was_answered = False
        self._pid = os.getpid()

    def request(
        self,
        method: str,
        path: str,
        *,
        parts: Sequence[Any] = (),
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> Reply:
        """One call and its answer; it may be done twice when the agent goes away in the middle.

        Args:
            method: the verb.
            path: percent-encoded path.
            parts: the body, in pieces that are sent one after the other without joining them.
            headers: besides Content-Length.
            timeout_s: for all of it, connecting too.

        Raises:
            ConnectError: no agent listens there, or it went away in the middle.
            DeadlineError: no answer within `timeout_s`.
        """
        deadline = self._clock() + timeout_s
        fields = {**(headers or {}), "Content-Length": str(sum(memoryview(one).nbytes for one in parts))}
        while True:
            connection, is_fresh = self._take(deadline)
            try:
                connection.limit(deadline, self._clock())
                if connection.sock is None:
                    connection.connect()
                reply = self._exchange(connection, deadline, method, path, parts, fields)
            except TimeoutError as exc:
                connection.close()
                raise DeadlineError(
                    f"the agent did not answer within {timeout_s * 1000:.0f} ms",
                    hint="give more time; 'aimass-edge status' tells whether the agent is alive",
                ) from exc
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                if is_fresh:
                    raise self._gone(exc) from exc
            except BaseException:
                connection.close()
                raise
            else:
                self.was_answered = True
                self._give_back(connection)
                return reply

    def close(self) -> None:
        """Closes what is idle; calls in progress end by themselves."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self, deadline: float) -> tuple[_UnixConnection, bool]:
        while True:
            with self._lock:
                if self._closed:
                    raise ConnectError("this client is closed", hint="make a new one", retryable=False)
                if self._pid != os.getpid():  # after a fork the connections belong to the parent
                    self._idle, self._pid = [], os.getpid()
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return _UnixConnection(str(self._path), deadline, self._clock), True
            if connection.is_usable():
                return connection, False
            connection.close()

    def _give_back(self, connection: _UnixConnection) -> None:
        with self._lock:
            if connection.sock is not None and not self._closed and len(self._idle) < self._max_idle:
                self._idle.append(connection)
                return
        connection.close()

    def _exchange(
        self,
        connection: _UnixConnection,
        deadline: float,
        method: str,
        path: str,
        parts: Sequence[Any],
        fields: Mapping[str, str],
    ) -> Reply:
        is_whole = True
        try:
            connection.request(method, path, body=iter(parts) if parts else None, headers=dict(fields))
        except (BrokenPipeError, ConnectionResetError):
            # The agent refused the body before reading all of it; its answer, if there is one, says why.
            is_whole = False
        connection.limit(deadline, self._clock())
        response = connection.getresponse()
        length = response.length or 0
        if length > self._max_answer_bytes:
            raise FrameTooLargeError(
                f"the answer has {length} bytes", size_bytes=length, limit_bytes=self._max_answer_bytes
            )
        connection.limit(deadline, self._clock())
        body = response.read()
        if not is_whole:
            connection.close()
        return Reply(response.status, {key.lower(): value for key, value in response.getheaders()}, body)

    def _gone(self, exc: BaseException) -> ConnectError:
        if isinstance(exc, FileNotFoundError | ConnectionRefusedError):
            return ConnectError(f"no agent listens on {self._path}", hint=_NOT_RUNNING)
        if isinstance(exc, PermissionError):
            return ConnectError(
                f"not allowed to open {self._path}", hint="join the group that owns the socket, then log in again"
            )
        return ConnectError(
            f"the agent on {self._path} went away during the call: {exc or type(exc).__name__}", hint=_NOT_RUNNING
        )
