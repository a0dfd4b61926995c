"""HTTP to the endpoint under test: every header under control, none added behind the case's back."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import urlsplit

from aimass.errors import ConnectError, InputError


class Failed(Exception):  # noqa: N818 - the outcome of a case, not an error of ours
    """The endpoint broke the rule of a case; the text says how."""


class Skipped(Exception):  # noqa: N818 - as above
    """The case cannot be tried here; the text says why."""


def expect(is_kept: bool, otherwise: str) -> None:
    """The case goes on, or fails with this sentence."""
    if not is_kept:
        raise Failed(otherwise)


@dataclass(frozen=True, slots=True)
class Reply:
    """One complete answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    duration_s: float

    def json(self) -> Any:
        """The body as JSON; `NaN` and `Infinity` are read."""
        try:
            return json.loads(self.body)
        except ValueError:
            self._wrong("is not JSON")

    def fields(self) -> dict[str, Any]:
        """The body as a JSON object."""
        value = self.json()
        if type(value) is not dict:
            self._wrong("is not a JSON object")
        return value

    def _wrong(self, how: str) -> NoReturn:
        raise Failed(f"the body of the {self.status} answer {how}: {self.body[:80]!r}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path, self._timeout_s = path, timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._path)


@dataclass(slots=True)
class Endpoint:
    """Where the server is.

    Attributes:
        url: `http://host:port`, with a path in front of `/v2` if there is one.
        uds: a Unix socket to go through in place of host and port.
        headers: sent with every request (credentials).
        timeout_s: for connecting, and for every read and write.
    """

    url: str
    uds: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 20.0
    _connection: http.client.HTTPConnection | None = None

    def connect(self) -> http.client.HTTPConnection:
        """A new connection, not yet open."""
        if self.uds:
            return _UnixConnection(self.uds, self.timeout_s)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"not a URL: {self.url[:200]!r}", hint="http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname, parts.port, timeout=self.timeout_s)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        is_chunked: bool = False,
    ) -> Reply:
        """One request on the kept-open connection, with no other headers than Host, length and those given.

        Args:
            method: the verb.
            path: percent-encoded.
            body: None sends neither body nor Content-Length.
            headers: the request's own.
            is_chunked: send the body in chunks, without Content-Length.

        Raises:
            Failed: no answer, or none that is HTTP.
            ConnectError: nobody listens there.
        """
        is_fresh = self._connection is None
        try:
            return self._exchange(method, path, body, headers or {}, is_chunked=is_chunked)
        except (OSError, http.client.HTTPException) as exc:
            self.close()
            if isinstance(exc, ConnectionRefusedError | FileNotFoundError | socket.gaierror):
                raise ConnectError(f"nobody answers at {self.uds or self.url}: {exc}") from exc
            if is_fresh or isinstance(exc, TimeoutError):
                raise Failed(f"no answer to {method} {path[:100]}: {exc or type(exc).__name__}") from exc
        # The server closed a connection it had kept open: its right, so once more on a fresh one.
        return self.call(method, path, body, headers, is_chunked=is_chunked)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """GET."""
        return self.call("GET", path, None, headers)

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """POST with a body."""
        return self.call("POST", path, body, headers)

    def close(self) -> None:
        """Closes the kept-open connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def path(self, path: str) -> str:
        """The path with the endpoint's own in front."""
        return urlsplit(self.url).path.rstrip("/") + path

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, is_chunked: bool
    ) -> Reply:
        connection = self._connection = self._connection or self.connect()
        started = time.perf_counter()
        connection.putrequest(method, self.path(path), skip_accept_encoding=True)
        for name, value in {**self.headers, **headers}.items():
            connection.putheader(name, value)
        if is_chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif body is not None and not any(one.lower() == "content-length" for one in headers):
            connection.putheader("Content-Length", str(len(body)))
        try:
            connection.endheaders()
            if is_chunked:
                half = len(body or b"") // 2
                for chunk in ((body or b"")[:half], (body or b"")[half:]):
                    connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b"")
                connection.send(b"0\r\n\r\n")
            elif body:
                connection.send(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was read; the answer says why
        response = connection.getresponse()
        answer = response.read()
        duration_s = time.perf_counter() - started
        fields = {name.lower(): value for name, value in response.getheaders()}
        if response.will_close:
            self.close()
        return Reply(response.status, fields, answer, duration_s)
