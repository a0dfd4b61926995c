"""Keeps one connection to a broker alive, whatever library speaks the protocol.

    caller threads                              network thread
    publish ── lock: note receipt, queue ──►    open ─► accepted ─► subscribe all ─► up ─► serve ... ─► lost
            └─ flush: write it now              ▲                                                        │
                                                └──────────── pause with jitter ◄── fail receipts ◄──────┘

`_lock` guards the receipts and the current connection together with each publish and subscribe, so that an answer
cannot overtake the note of what it answers. The network thread never calls anybody else's code while it holds the lock.
Everything without the lock belongs to the network thread.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from aimass.errors import (
    AimassError,
    ConnectError,
    FrameTooLargeError,
    InputError,
    LinkDownError,
    NobodyListensError,
    RefusedError,
    TransportError,
)
from aimass.transport.backoff import Backoff
from aimass.transport.base import MAX_CORRELATION_BYTES, MESSAGE_OVERHEAD_BYTES, Handler, LinkCallback, Message, Receipt
from aimass.transport.inflight import InFlight
from aimass.transport.subscriptions import Subscription, Subscriptions

log = logging.getLogger(__name__)

NO_MATCHING_SUBSCRIBERS = 0x10
FAREWELL_WAIT_S = 2.0
CONNECTING_WAIT_S = 0.5
ANSWER_WAIT_S = 10.0
"""From the open socket to the last answered subscription; a broker that takes longer is tried again."""


class Connection(Protocol):
    """One connection from its TLS handshake to its end. Not used again afterwards.

    Reports to its `ConnectionEvents`, on the thread that calls `serve` and only from inside that call.
    """

    def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes | None, expiry_s: int | None
    ) -> int:
        """Queue a message; returns its packet id. Any thread, one at a time."""

    def subscribe(self, subscriptions: Sequence[Subscription]) -> int:
        """Queue a subscribe; returns its packet id. Any thread, one at a time."""

    def unsubscribe(self, topic_filter: str) -> int:
        """Queue an unsubscribe; returns its packet id. Any thread, one at a time."""

    def flush(self) -> None:
        """Write what is queued, as far as the kernel takes it, unless somebody is at it. Any thread."""

    def serve(self, timeout_s: float) -> None:
        """Wait for something to read or a `wake`, and do it.

        Raises:
            TransportError: the connection is over.
        """

    def wake(self) -> None:
        """Have `serve` return soon. Any thread."""

    def close(self) -> None:
        """Say goodbye if it is still possible, and free everything."""


class ConnectionEvents(Protocol):
    """What a connection reports."""

    def accepted(self, max_packet_bytes: int) -> None:
        """The broker took us; its largest packet."""

    def arrived(self, message: Message) -> None:
        """A message came in."""

    def answered(self, packet_id: int, reason_codes: Sequence[int]) -> None:
        """The broker answered a publish, a subscribe or an unsubscribe."""


class _Listener:
    """Somebody who wants to know about the link, and what was said last: nobody hears the same twice."""

    __slots__ = ("callback", "told")

    def __init__(self, callback: LinkCallback) -> None:
        self.callback = callback
        self.told = False


def receipt_error(reason_code: int) -> TransportError | None:
    """What the reason code of a PUBACK (MQTT 5, 3.4.2.1) means for the publisher."""
    if reason_code == NO_MATCHING_SUBSCRIBERS:
        return NobodyListensError("the broker took the message, but nobody is subscribed", reason_code=reason_code)
    if reason_code >= 0x80:
        return RefusedError(f"the broker refused the message (reason 0x{reason_code:02x})", reason_code=reason_code)
    return None


class LinkTransport(ABC):
    """A `Transport` over connections that `_open` makes.

    Args:
        identity: name in the certificate.
        max_in_flight: bound of messages that the broker has not answered.
        max_in_flight_bytes: bound of their payloads together.
        max_incoming_bytes: largest packet we take.
        backoff: pauses between attempts.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        identity: str,
        *,
        max_in_flight: int,
        max_in_flight_bytes: int,
        max_incoming_bytes: int,
        backoff: Backoff,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self.max_incoming_bytes = max_incoming_bytes
        self.max_packet_bytes = max_incoming_bytes
        self.last_error: AimassError | None = None
        self._backoff = backoff
        self._clock = clock
        self._lock = threading.Lock()
        self._in_flight = InFlight(max_in_flight, max_in_flight_bytes)
        self._asked: dict[int, tuple[Sequence[Subscription], Receipt | None]] = {}
        self._connection: Connection | None = None
        self._served: Connection | None = None
        self._up = False
        self._up_since = 0.0
        self._closing = threading.Event()
        self._renew = False
        self._nudge = threading.Event()
        self._subscriptions = Subscriptions()
        self._counts: Counter[str] = self._subscriptions.counts
        self._listeners: list[_Listener] = []
        self._tasks: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def _open(self) -> Connection:
        """Connect, blocking.

        Raises:
            AimassError: why not; tried again after a pause whatever it is.
        """

    # --- the interface, any thread

    @property
    def connected(self) -> bool:
        """Whether the link is up and every subscription is answered."""
        return self._up

    def start(self) -> None:
        """Begin to connect in the background."""
        with self._lock:
            if self._thread is not None or self._closing.is_set():
                return
            self._thread = threading.Thread(target=self._run, name=f"aimass-link-{self.identity}", daemon=True)
            self._thread.start()

    def close(self, *, farewell: tuple[str, bytes] | None = None) -> None:
        """Publish the farewell, disconnect cleanly, stop the thread."""
        if farewell is not None and not self._closing.is_set():
            self._say_farewell(*farewell)
        self._closing.set()
        self._nudge.set()
        self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            # A thread that is just connecting cannot be woken; it ends by itself and nobody has to wait for it.
            self._thread.join(timeout=ANSWER_WAIT_S if self._connection is not None else CONNECTING_WAIT_S)

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
        """Send one message now; see `Transport.publish`."""
        packet_bytes = len(payload) + len(topic) + MESSAGE_OVERHEAD_BYTES
        if correlation is not None and len(correlation) > MAX_CORRELATION_BYTES:
            raise InputError(f"correlation data has at most {MAX_CORRELATION_BYTES} bytes, not {len(correlation)}")
        receipt = Receipt()
        with self._lock:
            connection = self._connection
            if connection is None:
                raise LinkDownError(f"not connected to the broker, nothing sent to {topic}")
            if packet_bytes > self.max_packet_bytes:
                raise FrameTooLargeError(
                    f"{len(payload)} bytes for {topic} are above the broker's packet limit",
                    size_bytes=packet_bytes,
                    limit_bytes=self.max_packet_bytes,
                )
            self._in_flight.check_room(len(payload))
            packet_id = connection.publish(topic, payload, qos, retain, correlation, expiry_s)
            self._in_flight.add(packet_id, receipt, len(payload))
            self._counts["published"] += 1
        connection.flush()
        return receipt

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Remember the subscription, and make it at once where the link is up."""
        with self._lock:
            subscription = self._subscriptions.add(topic_filter, handler, qos)
            connection = self._connection
            if connection is not None:
                self._ask(connection, [subscription])
        if connection is not None:
            connection.flush()

    def unsubscribe(self, topic_filter: str) -> Receipt:
        """Forget the subscription and tell the broker."""
        receipt = Receipt()
        with self._lock:
            connection = self._connection
            if connection is None:
                self._subscriptions.remove(topic_filter)
                raise LinkDownError(f"not connected to the broker, cannot unsubscribe {topic_filter} there")
            self._asked[connection.unsubscribe(topic_filter)] = ((), receipt)
        receipt.add_done_callback(lambda _: self._subscriptions.remove(topic_filter))
        connection.flush()
        return receipt

    def on_link(self, callback: LinkCallback) -> None:
        """Register for changes of the link; told at once when it is up."""
        listener = _Listener(callback)
        self._listeners.append(listener)
        if self._up:
            self._tasks.append(lambda: self._tell(listener))
            self._wake()

    def refusals(self) -> Mapping[str, int]:
        """Subscriptions that the broker refused."""
        return self._subscriptions.refusals()

    def counts(self) -> Mapping[str, int]:
        """Counters since start."""
        return dict(self._counts)

    def reconnect_now(self) -> None:
        """Drop the link and connect again without a pause."""
        self._renew = True
        self._nudge.set()
        self._wake()

    # --- the network thread

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._live()
            except AimassError as exc:
                self._note_failure(exc)
            except Exception as exc:  # the supervisor of the link: whatever it was, it is logged and tried again
                log.exception("the network thread of %s stumbled", self.identity)
                self._note_failure(ConnectError(f"unexpected {type(exc).__name__}: {exc}"))
            if not self._closing.is_set() and not self._renew:
                self._nudge.wait(self._backoff.next_s())
            self._nudge.clear()
            self._renew = False

    def _live(self) -> None:
        """One connection from opening to loss; returns when it was ended on purpose.

        Raises:
            AimassError: why it could not be opened, or was lost.
        """
        connection = self._open()
        error: AimassError = LinkDownError("it was closed on purpose")
        try:
            self._served = connection
            self._serve(connection)
        except AimassError as exc:
            error = exc
            raise
        finally:
            self._lose(connection, error)

    def _serve(self, connection: Connection) -> None:
        give_up_at = self._clock() + ANSWER_WAIT_S
        while not self._closing.is_set() and not self._renew:
            connection.serve(1.0)
            while self._tasks:
                self._tasks.popleft()()
            if not self._up and self._clock() > give_up_at:
                raise ConnectError(f"the broker did not answer within {ANSWER_WAIT_S:.0f} s")

    def _lose(self, connection: Connection, error: AimassError) -> None:
        with self._lock:
            self._connection = None
            was_up, self._up = self._up, False
            receipts = self._in_flight.take_all()
            receipts += [receipt for _, receipt in self._asked.values() if receipt is not None]
            self._asked.clear()
        connection.close()
        if was_up:
            self._counts["losses"] += 1
            self._backoff.link_lived(self._clock() - self._up_since)
        for receipt in receipts:
            receipt.complete(error=LinkDownError(f"the link went before the broker answered: {error}"))
        if was_up:
            self._tell_all()

    def _note_failure(self, error: AimassError) -> None:
        repeated = self.last_error is not None and str(self.last_error) == str(error)
        self.last_error = error
        log.log(logging.DEBUG if repeated else logging.WARNING, "%s: %s", self.identity, error)

    # --- events of the connection, on the network thread

    def accepted(self, max_packet_bytes: int) -> None:
        """The broker took us: make every subscription, then the link is up."""
        with self._lock:
            self._connection = connection = self._served
            self.max_packet_bytes = max_packet_bytes
            subscriptions = self._subscriptions.all()
            if connection is not None:
                self._ask(connection, subscriptions)
        if not subscriptions:
            self._announce()

    def arrived(self, message: Message) -> None:
        """Hand a message to its handlers."""
        self._subscriptions.deliver(message)

    def answered(self, packet_id: int, reason_codes: Sequence[int]) -> None:
        """Complete what the broker answered."""
        with self._lock:
            receipt = self._in_flight.take(packet_id)
            asked = None if receipt is not None else self._asked.pop(packet_id, None)
            still_asked = bool(self._asked)
        if receipt is not None:
            receipt.complete(error=receipt_error(reason_codes[0]) if reason_codes[0] else None)
        elif asked is not None:
            for subscription, code in zip(asked[0], reason_codes, strict=False):
                self._subscriptions.answered(subscription.topic_filter, code)
            if asked[1] is not None:
                asked[1].complete()
            if not self._up and not still_asked:
                self._announce()

    def _ask(self, connection: Connection, subscriptions: Sequence[Subscription]) -> None:
        # Eight filters a packet: what the strictest of the known brokers takes.
        for i in range(0, len(subscriptions), 8):
            part = subscriptions[i : i + 8]
            self._asked[connection.subscribe(part)] = (part, None)

    def _announce(self) -> None:
        self._up = True
        self._up_since = self._clock()
        self.last_error = None
        self._counts["connects"] += 1
        log.info("%s is connected", self.identity)
        self._tell_all()

    def _tell_all(self) -> None:
        for listener in tuple(self._listeners):
            self._tell(listener)

    def _tell(self, listener: _Listener) -> None:
        if listener.told == self._up:
            return
        listener.told = self._up
        try:
            listener.callback(self._up)
        except Exception:  # a listener's fault must not take the link down
            self._counts["handler_errors"] += 1
            log.exception("a link callback failed")

    # --- helpers of the interface

    def _wake(self) -> None:
        connection = self._served
        if connection is not None:
            connection.wake()

    def _say_farewell(self, topic: str, payload: bytes) -> None:
        try:
            self.publish(topic, payload, qos=1, retain=True).wait(FAREWELL_WAIT_S)
        except NobodyListensError:
            pass  # it is retained: whoever comes later reads it
        except AimassError as exc:
            log.info("no farewell from %s: %s", self.identity, exc)
