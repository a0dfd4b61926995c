"""MQTT 5 by hand, for what no honest client does: other people's names and trees, TLS tickets kept too long."""

from __future__ import annotations

import socket
import ssl
import struct

TIMEOUT_S = 5.0


def connect_packet(client_id: str, will: tuple[str, bytes] | None = None) -> bytes:
    """A CONNECT with clean start; a will is QoS 1, not retained, without delay."""
    flags = 0x02 | (0x04 | 0x08 if will else 0)
    body = _text("MQTT") + bytes([5, flags]) + struct.pack("!H", 60) + b"\0" + _text(client_id)
    if will:
        body += b"\0" + _text(will[0]) + struct.pack("!H", len(will[1])) + will[1]
    assert len(body) < 128
    return bytes([0x10, len(body)]) + body


def _text(text: str) -> bytes:
    return struct.pack("!H", len(text.encode())) + text.encode()


class Knock:
    """One connection that sends CONNECT and looks at the first answer.

    ``accepted`` says whether the broker took it; ``error`` why TLS or the connection ended otherwise.
    """

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext | None,
        client_id: str = "x",
        *,
        will: tuple[str, bytes] | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.accepted = False
        self.resumed = False
        self.session: ssl.SSLSession | None = None
        self.error: OSError | None = None
        self._socket: socket.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        try:
            if context is not None:
                self._socket = context.wrap_socket(self._socket, server_hostname="127.0.0.1", session=session)
            self._socket.sendall(connect_packet(client_id, will))
            answer = self._socket.recv(64)
            self.accepted = len(answer) >= 4 and answer[0] == 0x20 and answer[3] == 0
        except OSError as exc:
            self.error = exc
        if isinstance(self._socket, ssl.SSLSocket):
            self.session, self.resumed = self._socket.session, bool(self._socket.session_reused)

    def hang_up(self) -> None:
        """Ends the connection without a word: the broker sends the will."""
        self._socket.close()

    def __enter__(self) -> Knock:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
