"""What a link to the broker does for the rest of the product, whatever carries it.

Rules that every transport keeps (``tests/contract/test_transport.py`` runs over all of them):

* It connects in the background and reconnects for ever; nobody above writes a retry loop for the link.
* `Transport.publish` never blocks on the network and never keeps a message for later: without a link it raises at once.
  A message whose receipt failed is not sent again by the transport after a reconnect.
* Handlers and callbacks run on the network thread, outside every lock: they may publish, they must be quick. What they
  raise is logged and counted, never fatal.
* Subscriptions are remembered and made again on every connection; one that the broker refuses is kept in `refusals`.
* Everything is bounded: messages in flight by number and bytes, packets by the limits of both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aimass.transport.completion import Completion

MAX_CORRELATION_BYTES = 64
MESSAGE_OVERHEAD_BYTES = 96
"""Fixed header, topic length, packet id and both properties of an MQTT PUBLISH, rounded up; the topic comes on top."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message that arrived."""

    topic: str
    payload: bytes
    qos: int = 0
    retained: bool = False
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when we are gone without a word.

    Attributes:
        delay_s: the broker waits this long for us to come back; a moment without Wi-Fi is not news.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True
    delay_s: int = 20


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificates are. Read again at every connect, so that renewed ones are used.

    Attributes:
        ca: roots that the broker's certificate must chain to.
        cert: our certificate followed by its intermediate.
        key: our private key; may be the same file as `cert`.
    """

    ca: Path
    cert: Path
    key: Path


class Receipt(Completion[None]):
    """What became of one published message; done when the broker took it (QoS 1) or it was written (QoS 0).

    Errors: `NobodyListensError` (the broker took it, no one is subscribed), `RefusedError`, `LinkDownError` (the link
    went before the broker answered: it may or may not have arrived).
    """

    __slots__ = ()


Handler = Callable[[Message], None]
LinkCallback = Callable[[bool], None]


class Transport(Protocol):
    """A link to the broker under one identity."""

    @property
    def identity(self) -> str:
        """The name in our certificate: broker user and client id."""

    @property
    def connected(self) -> bool:
        """Whether the link is up and every subscription is answered."""

    @property
    def max_packet_bytes(self) -> int:
        """Largest packet that the broker takes from us."""

    @property
    def max_incoming_bytes(self) -> int:
        """Largest packet that we take. The broker drops larger ones in silence, so requests must state it."""

    def start(self) -> None:
        """Begin to connect, in the background. Calling it twice does nothing."""

    def close(self, *, farewell: tuple[str, bytes] | None = None) -> None:
        """Say goodbye and stop for good.

        Args:
            farewell: topic and payload published (QoS 1, retained) before the disconnect; a clean disconnect makes the
                broker forget the will.
        """

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
        """Send one message now.

        Args:
            topic: where to, without wildcards.
            payload: the whole message.
            qos: 0 or 1.
            retain: the broker keeps it for those who subscribe later.
            correlation: at most `MAX_CORRELATION_BYTES` that the receiver gives back.
            expiry_s: the broker drops the message when it could not deliver it within this time.

        Raises:
            LinkDownError: not connected.
            FrameTooLargeError: above the broker's limit.
            OverloadError: too many messages or bytes in flight.
        """

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Have `handler` called with each message that matches; a second handler for the same filter replaces it.

        Filters of one transport should not overlap: a broker may then deliver a message more than once.
        """

    def unsubscribe(self, topic_filter: str) -> Receipt:
        """Take nothing more from this filter. Messages under way arrive before the receipt is done.

        Raises:
            LinkDownError: not connected; the filter is forgotten all the same.
        """

    def on_link(self, callback: LinkCallback) -> None:
        """Have `callback(True)` called when the link is up (at once, when it is) and `callback(False)` on its loss."""

    def refusals(self) -> Mapping[str, int]:
        """Subscriptions that the broker refused: filter to reason code."""

    def counts(self) -> Mapping[str, int]:
        """Counters since start: connects, losses, handler_errors, unmatched, published, received."""

    def reconnect_now(self) -> None:
        """Drop the link and connect again at once, with the certificate files as they are now."""
