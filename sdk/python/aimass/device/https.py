"""HTTPS to the cloud with nothing but the standard library: pinned root, kept connections, bounded answers.

Knows nothing of identities and tokens (see :mod:`aimass.device.cloud_http`). Redirects are not followed and proxies of
the environment are not used: the address was pinned when the device was enrolled.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aimass.device.problems import error_from_problem
from aimass.errors import AimassError, ConfigError, ConnectError, DownloadError, FrameTooLargeError, RemoteError

_CHUNK_BYTES = 128 * 1024  # few system calls a megabyte, and still a quick answer to "stop"
_MAX_IDLE = 2
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_NETWORK = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Body:
    """The content of a download.

    Attributes:
        start_bytes: position of the first byte in the whole; 0 when the server ignored the range.
        total_bytes: size of the whole as the server says, or None.
        chunks: the bytes, to be read once; a broken transfer raises ``DownloadError``.
    """

    start_bytes: int
    total_bytes: int | None
    chunks: Iterator[bytes]


class HttpsClient:
    """A client of one server. Safe to use from several threads.

    Args:
        base_url: ``https://host[:port]``.
        root_pem: the only root that is trusted; None trusts anybody, which is right only for fetching the root that a
            digest then proves.
        timeout_s: for connecting and for each wait for bytes. 15 s passes a slow mobile network's pauses.
        max_response_bytes: the largest answer to :meth:`request`; a fleet page or a certificate chain is far below.
    """

    def __init__(
        self,
        base_url: str,
        root_pem: bytes | None,
        *,
        timeout_s: float = 15.0,
        max_response_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigError(f"{base_url!r} is not an https address", hint="give https://HOST:PORT")
        self._host, self._port = parts.hostname, parts.port or 443
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._max_response_bytes = max_response_bytes
        self._context = tls_context(root_pem)
        self._idle: list[http.client.HTTPSConnection] = []
        self._lock = threading.Lock()

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str | None = None
    ) -> dict[str, Any]:
        """Send JSON, get a JSON object.

        Raises:
            ConnectError: no connection, or it broke.
            FrameTooLargeError: the answer is above the limit.
            RemoteError: the answer is not a JSON object.
            AimassError: what the cloud's problem document says.
        """
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if payload is not None else {}
        with self._exchange(method, path, payload, headers, token) as response:
            data = self._read_all(response)
            if not 200 <= response.status < 300:
                raise error_from_problem(response.status, data)
        try:
            value = json.loads(data) if data else {}
        except (ValueError, RecursionError) as exc:
            raise RemoteError(f"{path}: the cloud's answer is not JSON", retryable=True) from exc
        if not isinstance(value, dict):
            raise RemoteError(f"{path}: the cloud's answer is not a JSON object", retryable=True)
        return value

    @contextlib.contextmanager
    def stream(self, path: str, *, offset_bytes: int = 0, token: str | None = None) -> Iterator[Body]:
        """Open a download from a position on. Leaving early drops the connection.

        Raises:
            DownloadError: the range is beyond the end (``restart`` is true), or the transfer broke.
            AimassError: as :meth:`request`.
        """
        headers = {"Accept-Encoding": "identity"}
        if offset_bytes:
            headers["Range"] = f"bytes={offset_bytes}-"
        with self._exchange("GET", path, None, headers, token) as response:
            if response.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise DownloadError(f"{path}: nothing there from byte {offset_bytes} on", restart=True)
            if response.status not in (http.client.OK, http.client.PARTIAL_CONTENT):
                raise error_from_problem(response.status, self._read_all(response))
            start, total = _span(response)
            yield Body(start, total, _chunks(response, path))

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextlib.contextmanager
    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], token: str | None
    ) -> Iterator[http.client.HTTPResponse]:
        all_headers = {"Accept": "application/json", **headers}
        if token is not None:
            all_headers["Authorization"] = f"Bearer {token}"
        connection, response = self._send(method, self._prefix + path, body, all_headers)
        reusable = False
        try:
            yield response
            reusable = response.isclosed() and not response.will_close
        finally:
            response.close()
            self._give_back(connection, reusable)

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            kept = connection is not None
            if connection is None:
                connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=self._timeout_s, context=self._context
                )
            try:
                connection.request(method, path, body=body, headers=dict(headers))
                return connection, connection.getresponse()
            except _NETWORK as exc:
                connection.close()
                # A kept connection may have been closed by the server meanwhile: that says nothing about the server.
                # Our calls may all be repeated, so a fresh connection is tried before anybody hears of it.
                if not kept:
                    raise _connect_error(self._host, self._port, exc) from exc

    def _give_back(self, connection: http.client.HTTPSConnection, reusable: bool) -> None:
        with self._lock:
            if reusable and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _read_all(self, response: http.client.HTTPResponse) -> bytes:
        try:
            data = response.read(self._max_response_bytes + 1)
            if len(data) <= self._max_response_bytes:
                data += response.read()  # the end mark; without it the connection could not be kept
        except _NETWORK as exc:
            raise _connect_error(self._host, self._port, exc) from exc
        if len(data) > self._max_response_bytes:
            raise FrameTooLargeError(
                f"the cloud's answer is above {self._max_response_bytes} bytes", limit_bytes=self._max_response_bytes
            )
        return data


def tls_context(root_pem: bytes | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, the pinned root only, host name checked; None checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if root_pem is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=root_pem.decode("ascii"))
    return context


def _connect_error(host: str, port: int, exc: Exception) -> AimassError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return ConnectError(
            f"the certificate of {host}:{port} is not accepted: {exc.verify_message}",
            hint="check this machine's clock, the host name, and that this is the cloud it was enrolled with",
        )
    return ConnectError(f"no answer from {host}:{port}: {exc}", hint="check address, port and network")


def _span(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    if response.status == http.client.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise DownloadError("the cloud's partial answer does not say which part it is")
        return int(match[1]), int(match[2])
    return 0, response.length


def _chunks(response: http.client.HTTPResponse, path: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except _NETWORK as exc:
            raise DownloadError(f"{path}: the transfer broke off: {exc}") from exc
        if not chunk:
            return
        yield chunk
