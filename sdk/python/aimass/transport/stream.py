"""The socket under the MQTT client: TLS, no Nagle, few system calls, safe to write from one thread and read in another.

Why paho is not left alone with an `ssl.SSLSocket`:

* Nagle's algorithm with delayed acknowledgements costs 44 ms a message unless both ends switch it off.
* paho reads a packet's first bytes one by one, and an `SSLSocket` gives or takes one TLS record (16 KiB) per call while
  paho copies the unsent rest for each: together quadratic in the message size.
* One OpenSSL object must not be used by two threads at once (Python 3.11 does not protect it), and we write on the
  caller's thread: a hand-off to the network thread would cost more than the write.
* A write error must surface where the link is served, on the network thread, and not in whoever was publishing.
"""

from __future__ import annotations

import socket
import ssl
import threading

from aimass.errors import ConfigError, ConnectError
from aimass.transport.base import TlsFiles

READ_AHEAD_BYTES = 16 * 1024
"""Read into our buffer at once: one TLS record. Larger remainders go straight to the packet."""
READ_PIECE_BYTES = 256 * 1024
"""Bound of one read, so that a slow link does not make us clear megabytes for each record that trickles in."""


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """A client context for mutual TLS, from the files as they are now.

    Raises:
        ConfigError: a file is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=files.ca)
        context.load_cert_chain(certfile=files.cert, keyfile=files.key)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        raise ConfigError(f"the certificate files of this identity cannot be used: {exc}", ca=str(files.ca)) from exc
    return context


class TlsStream:
    """A connected TLS socket, non-blocking once opened. Has what paho asks of a socket."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._buffer = memoryview(bytearray(READ_AHEAD_BYTES))
        self._ahead = self._buffer[:0]
        self._write_error: OSError | None = None
        self.error: OSError | None = None

    @classmethod
    def connect(cls, host: str, port: int, context: ssl.SSLContext, timeout_s: float) -> TlsStream:
        """Connect and shake hands, blocking for at most `timeout_s` for each of the two.

        Raises:
            ConnectError: cannot be reached, or one side refused the other's certificate.
        """
        try:
            raw = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as exc:
            raise ConnectError(f"cannot reach the broker at {host}:{port}: {exc}", host=host, port=port) from exc
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
        except OSError as exc:
            raw.close()
            raise ConnectError(f"the connection to {host}:{port} broke: {exc}", host=host, port=port) from exc
        try:
            tls.do_handshake()
        except OSError as exc:
            tls.close()
            raise ConnectError(f"no TLS with the broker at {host}:{port}: {exc}", host=host, port=port) from exc
        tls.setblocking(False)
        return cls(tls)

    def fileno(self) -> int:
        """For the selector."""
        return self._tls.fileno()

    def setblocking(self, flag: bool) -> None:
        """Only non-blocking is meant; paho asks for it once more."""
        self._tls.setblocking(flag)

    def close(self) -> None:
        """Close the connection, without TLS's own goodbye."""
        with self._lock:
            self._tls.close()

    def pending(self) -> int:
        """Bytes that can be read although the selector would not say so."""
        if len(self._ahead):
            return len(self._ahead)
        with self._lock:
            return self._tls.pending() if self._tls.fileno() >= 0 else 0

    def recv(self, max_bytes: int) -> bytes | memoryview:
        """Up to `max_bytes`; empty at the end of the connection.

        Raises:
            BlockingIOError: nothing there now.
            OSError: the connection broke, while reading or at an earlier write.
        """
        if not len(self._ahead):
            if max_bytes >= len(self._buffer):
                return self._read(memoryview(bytearray(min(max_bytes, READ_PIECE_BYTES))), fill=True)
            self._ahead = self._read(self._buffer, fill=False)
        piece = self._ahead[:max_bytes]
        self._ahead = self._ahead[max_bytes:]
        return piece

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Write as much as the kernel takes now; never blocks.

        Raises:
            BlockingIOError: nothing could be written. A broken connection looks the same here; the reader is told.
        """
        view = memoryview(data)
        sent = 0
        try:
            while sent < len(view) and self._write_error is None:
                with self._lock:
                    sent += self._tls.send(view[sent:])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as exc:
            # The reader goes on: the peer's alert, which says why, may be waiting there.
            self._write_error = exc
        if not sent and view.nbytes:
            raise BlockingIOError
        return sent

    def _read(self, view: memoryview, *, fill: bool) -> memoryview:
        """One TLS record, or with `fill` as many as are there and fit."""
        got = 0
        try:
            while got < len(view):
                with self._lock:
                    count = self._tls.recv_into(view[got:])
                got += count
                if count == 0 or not fill:
                    break
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
            if not got:
                raise (self._write_error or BlockingIOError()) from exc
        except OSError as exc:
            self.error = exc
            if not got:
                raise
        return view[:got]
