"""A bare MQTT v5 client for attacks: says what the broker answered, hides nothing, repairs nothing."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from aimass.transport.base import TlsFiles
from tests.fakes.waiting import until

NOT_AUTHORISED = 0x87


class RefusedByBrokerError(Exception):
    """The TLS or the MQTT handshake failed; the text says how."""


class Stranger:
    """One connection.

    Args:
        ca: the broker's root certificate.
        files: certificate and key to show; None shows none.
        client_id: what to claim in CONNECT.
    """

    def __init__(self, ca: str, files: TlsFiles | None, *, client_id: str = "") -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.ends: list[int] = []
        self.assigned = ""
        self._connected = threading.Event()
        self._answers: dict[int, int] = {}
        self._outcome = "no answer"
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        client.reconnect_on_failure = False  # type: ignore[attr-defined]
        client._reconnect_on_failure = False
        context = ssl.create_default_context(cafile=ca)
        if files is not None:
            context.load_cert_chain(files.cert, files.key)
        client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = lambda _c, _u, message: self.messages.append((message.topic, message.payload))
        client.on_subscribe = lambda _c, _u, mid, codes, _p: self._answers.__setitem__(mid, codes[0].value)
        client.on_publish = lambda _c, _u, mid, code, _p: self._answers.__setitem__(mid, code.value)
        self._client = client

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""
        return self._client.is_connected()

    def connect(self, port: int, host: str = "127.0.0.1") -> None:
        """Connect.

        Raises:
            RefusedByBrokerError: the broker did not let us in.
        """
        try:
            self._client.connect(host, port, keepalive=10)
        except OSError as exc:  # ssl.SSLError too
            raise RefusedByBrokerError(str(exc)) from exc
        self._client.loop_start()
        # Under TLS 1.3 a refused certificate shows only after the handshake: the connection just ends.
        until(lambda: self._connected.is_set() or self.ends, "the broker's word", timeout_s=10)
        if not self._connected.is_set():
            self.close()
            raise RefusedByBrokerError(self._outcome)

    def subscribe(self, topic_filter: str) -> int:
        """Reason code of the SUBACK."""
        _, mid = self._client.subscribe(topic_filter, qos=1)
        assert mid is not None
        return self._answer(mid)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Reason code of the PUBACK."""
        return self._answer(self._client.publish(topic, payload, qos=1, retain=retain).mid)

    def close(self) -> None:
        """End it."""
        self._client.disconnect()
        self._client.loop_stop()

    def _answer(self, mid: int) -> int:
        until(lambda: mid in self._answers, "the broker's answer", timeout_s=10)
        return self._answers[mid]

    def _on_connect(self, _client: Any, _user: Any, _flags: Any, code: Any, properties: Any) -> None:
        self._outcome = str(code)
        if not code.is_failure:
            self.assigned = getattr(properties, "AssignedClientIdentifier", "") or ""
            self._connected.set()

    def _on_disconnect(self, _client: Any, _user: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self.ends.append(int(code.value))
        if not self._connected.is_set():
            self._outcome = f"{self._outcome}; ended with {code}"


@contextlib.contextmanager
def connected(ca: str, port: int, files: TlsFiles, *, client_id: str = "") -> Iterator[Stranger]:
    """A stranger that was let in."""
    stranger = Stranger(ca, files, client_id=client_id)
    stranger.connect(port)
    try:
        yield stranger
    finally:
        stranger.close()


def stays(condition: Any, seconds: float) -> bool:
    """Whether something holds all that time: for what must *not* happen there is nothing to wait for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not condition():
            return False
        time.sleep(0.02)
    return True
