"""A transport without threads and without a broker: the test says what arrives and reads what was sent."""

from __future__ import annotations

from collections.abc import Mapping

from aimass.errors import AimassError, LinkDownError
from aimass.transport.base import Handler, LinkCallback, Message, Receipt


class StillTransport:
    """A `Transport` in the hands of the test.

    Attributes:
        sent: every message that was published: topic, payload, QoS, retained.
        errors: raised by the next publishes, one each.
    """

    def __init__(self, identity: str = "gw-1", *, connected: bool = True) -> None:
        self.identity = identity
        self.connected = connected
        self.max_packet_bytes = self.max_incoming_bytes = 4 * 1024 * 1024
        self.sent: list[tuple[str, bytes, int, bool]] = []
        self.errors: list[AimassError] = []
        self._handlers: dict[str, Handler] = {}
        self._links: list[LinkCallback] = []

    def deliver(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        """A message arrives."""
        self._handlers[topic](Message(topic, payload, 1, retained))

    def link(self, is_up: bool) -> None:
        """The link comes up or goes down."""
        self.connected = is_up
        for callback in self._links:
            callback(is_up)

    def take(self, topic: str) -> list[bytes]:
        """The payloads sent to a topic since the last time."""
        found = [payload for to, payload, _, _ in self.sent if to == topic]
        self.sent = [one for one in self.sent if one[0] != topic]
        return found

    def start(self) -> None:
        """Nothing to do."""

    def close(self, *, farewell: tuple[str, bytes] | None = None) -> None:
        if farewell is not None:
            self.sent.append((*farewell, 1, True))
        self.connected = False

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        correlation: bytes | None = None,
        expiry_s: int | None = None,
    ) -> Receipt:
        if not self.connected:
            raise LinkDownError("not connected")
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append((topic, payload, qos, retain))
        return Receipt()

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        self._handlers[topic_filter] = handler

    def unsubscribe(self, topic_filter: str) -> Receipt:
        self._handlers.pop(topic_filter, None)
        return Receipt()

    def on_link(self, callback: LinkCallback) -> None:
        self._links.append(callback)
        if self.connected:
            callback(True)

    def refusals(self) -> Mapping[str, int]:
        return {}

    def counts(self) -> Mapping[str, int]:
        return {}

    def reconnect_now(self) -> None:
        """Nothing to do."""
