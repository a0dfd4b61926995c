"""A broker and transports in one process, for unit tests and users' own tests.

The transports share everything but the wire with MQTT (`aimass.transport.link`): receipts, limits, reconnecting,
threads. The broker does what mosquitto does where it matters to us: ``$share`` round robin, retained messages, wills,
reason 0x10 when nobody listens, refusals, silence towards a client whose packet limit is too small.

It differs in two things: a session ends with its connection, and message expiry is ignored.

Example:
    broker = MemoryBroker()
    transport = MemoryTransport(broker, "gw-1")
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

from aimass.errors import ConnectError, LinkDownError
from aimass.transport.backoff import Backoff
from aimass.transport.base import MESSAGE_OVERHEAD_BYTES, Message, Will
from aimass.transport.link import NO_MATCHING_SUBSCRIBERS, Connection, ConnectionEvents, LinkTransport
from aimass.transport.subscriptions import Subscription, topic_matches, without_share

NOT_AUTHORISED = 0x87
MiB = 1024 * 1024

Deny = Callable[[str, str, str], bool]
"""Identity, "publish" or "subscribe", topic or filter: whether to refuse."""
Report = Callable[[ConnectionEvents], None]


class MemoryBroker:
    """What a broker is to its clients.

    Args:
        max_packet_bytes: announced to the clients.
        deny: what is refused; nothing when left out.
    """

    def __init__(self, *, max_packet_bytes: int = 4 * MiB, deny: Deny | None = None) -> None:
        self.max_packet_bytes = max_packet_bytes
        self._deny = deny or (lambda _identity, _action, _topic: False)
        self._lock = threading.RLock()
        self._alive = True
        self._stalled = False
        self._held: deque[Callable[[], None]] = deque()
        self._connections: dict[str, MemoryConnection] = {}
        self._retained: dict[str, Message] = {}
        self._wills: dict[str, threading.Timer] = {}
        self._turns: dict[str, deque[str]] = {}

    # --- for tests

    def kill(self, *, forget: bool = True) -> None:
        """Drop every connection and take no new ones; with `forget` retained messages are gone too. No wills."""
        with self._lock:
            self._alive = False
            self._stalled = False
            self._held.clear()
            for connection in self._connections.values():
                connection.lose("the broker was killed")
            self._connections.clear()
            for timer in self._wills.values():
                timer.cancel()
            self._wills.clear()
            if forget:
                self._retained.clear()

    def revive(self) -> None:
        """Take connections again."""
        with self._lock:
            self._alive = True

    def stall(self) -> None:
        """Keep connections open but do nothing, until `resume`."""
        with self._lock:
            self._stalled = True

    def resume(self) -> None:
        """Go on, first with what was held back."""
        with self._lock:
            self._stalled = False
            while self._held:
                self._held.popleft()()

    def drop(self, identity: str) -> None:
        """Break one client's connection, as a cut cable does."""
        with self._lock:
            connection = self._connections.get(identity)
            if connection is not None:
                connection.lose("the connection was cut")
                self.detach(connection, clean=False)

    def retained(self, topic: str) -> bytes | None:
        """The retained payload of a topic."""
        with self._lock:
            message = self._retained.get(topic)
            return None if message is None else message.payload

    # --- for connections

    def attach(self, connection: MemoryConnection) -> None:
        """Take a client; an older connection of the same identity is thrown out."""
        with self._lock:
            if not self._alive:
                raise ConnectError("the broker is down")
            older = self._connections.get(connection.identity)
            if older is not None:
                older.lose("session taken over")
                self.detach(older, clean=False)
            self._connections[connection.identity] = connection
            timer = self._wills.pop(connection.identity, None)
            if timer is not None:
                timer.cancel()
            limit = self.max_packet_bytes
            self._do(lambda: connection.report(lambda events: events.accepted(limit)))

    def detach(self, connection: MemoryConnection, *, clean: bool) -> None:
        """Forget a client; without a clean goodbye its will is published after its delay."""
        with self._lock:
            if self._connections.get(connection.identity) is not connection:
                return
            del self._connections[connection.identity]
            for turn in self._turns.values():
                if connection.identity in turn:
                    turn.remove(connection.identity)
            will = connection.will
            if clean or will is None:
                return
            message = Message(will.topic, will.payload, will.qos, will.retain)
            timer = threading.Timer(will.delay_s, self._route, (message,))
            timer.daemon = True
            self._wills[connection.identity] = timer
            if will.delay_s:
                timer.start()
            else:
                self._route(message)

    def publish(self, connection: MemoryConnection, packet_id: int, message: Message) -> None:
        """Deliver a message and answer it."""

        def work() -> None:
            if self._deny(connection.identity, "publish", message.topic):
                connection.answer(packet_id, [NOT_AUTHORISED])
                return
            reached = self._route(message)
            connection.answer(packet_id, [0 if reached or message.qos == 0 else NO_MATCHING_SUBSCRIBERS])

        self._do(work)

    def subscribe(self, connection: MemoryConnection, packet_id: int, subscriptions: Sequence[Subscription]) -> None:
        """Grant or refuse filters, and send what is retained there."""

        def work() -> None:
            codes = [self._grant(connection, subscription) for subscription in subscriptions]
            connection.answer(packet_id, codes)
            for subscription, code in zip(subscriptions, codes, strict=True):
                if code < NOT_AUTHORISED and not subscription.topic_filter.startswith("$share/"):
                    for message in list(self._retained.values()):
                        if topic_matches(subscription.topic_filter, message.topic):
                            connection.deliver(message)

        self._do(work)

    def unsubscribe(self, connection: MemoryConnection, packet_id: int, topic_filter: str) -> None:
        """Forget a filter."""

        def work() -> None:
            connection.filters.discard(topic_filter)
            turn = self._turns.get(topic_filter)
            if turn is not None and connection.identity in turn:
                turn.remove(connection.identity)
            connection.answer(packet_id, [0])

        self._do(work)

    # --- inside

    def _do(self, work: Callable[[], None]) -> None:
        with self._lock:
            if self._stalled:
                self._held.append(work)
            else:
                work()

    def _grant(self, connection: MemoryConnection, subscription: Subscription) -> int:
        topic_filter = subscription.topic_filter
        if self._deny(connection.identity, "subscribe", topic_filter):
            return NOT_AUTHORISED
        connection.filters.add(topic_filter)
        if topic_filter.startswith("$share/"):
            turn = self._turns.setdefault(topic_filter, deque())
            if connection.identity not in turn:
                turn.append(connection.identity)
        return subscription.qos

    def _route(self, message: Message) -> int:
        """Deliver to everybody; returns how many were reached."""
        with self._lock:
            if message.retained:
                self._keep(message)
            live = replace(message, retained=False)
            reached = 0
            for connection in list(self._connections.values()):
                own = [f for f in connection.filters if not f.startswith("$share/")]
                if any(topic_matches(f, message.topic) for f in own):
                    connection.deliver(live)
                    reached += 1
            for topic_filter, turn in self._turns.items():
                if turn and topic_matches(without_share(topic_filter), message.topic):
                    turn.rotate(-1)
                    self._connections[turn[-1]].deliver(live)
                    reached += 1
            return reached

    def _keep(self, message: Message) -> None:
        if message.payload:
            self._retained[message.topic] = message
        else:
            self._retained.pop(message.topic, None)


class MemoryConnection:
    """One client's connection to a `MemoryBroker`. See `aimass.transport.link.Connection`."""

    def __init__(self, broker: MemoryBroker, transport: MemoryTransport) -> None:
        self.identity = transport.identity
        self.will = transport.will
        self.filters: set[str] = set()
        self._broker = broker
        self._events = transport
        self._max_incoming_bytes = transport.max_incoming_bytes
        self._packet_ids = count(1)
        self._inbox: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._queued: deque[Callable[[], None]] = deque()
        self._flushing = threading.Lock()
        self._lost = ""
        broker.attach(self)

    def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes | None, expiry_s: int | None
    ) -> int:
        """Queue a message."""
        packet_id = next(self._packet_ids)
        message = Message(topic, bytes(payload), qos, retain, correlation)
        self._queued.append(lambda: self._broker.publish(self, packet_id, message))
        return packet_id

    def subscribe(self, subscriptions: Sequence[Subscription]) -> int:
        """Queue a subscribe."""
        packet_id = next(self._packet_ids)
        self._queued.append(lambda: self._broker.subscribe(self, packet_id, subscriptions))
        return packet_id

    def unsubscribe(self, topic_filter: str) -> int:
        """Queue an unsubscribe."""
        packet_id = next(self._packet_ids)
        self._queued.append(lambda: self._broker.unsubscribe(self, packet_id, topic_filter))
        return packet_id

    def flush(self) -> None:
        """Give the broker what is queued, in order."""
        with self._flushing:
            while self._queued and not self._lost:
                self._queued.popleft()()

    def serve(self, timeout_s: float) -> None:
        """Wait for the broker's next report."""
        self.flush()
        try:
            report = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return
        if report is not None:
            report(self._events)
        self.flush()
        if self._lost and self._inbox.empty():
            raise LinkDownError(self._lost)

    def wake(self) -> None:
        """Have `serve` return soon."""
        self._inbox.put(None)

    def close(self) -> None:
        """Leave in good order."""
        self.flush()
        self._broker.detach(self, clean=True)

    # --- for the broker

    def report(self, report: Report) -> None:
        """Hand one event to the network thread."""
        if not self._lost:
            self._inbox.put(report)

    def answer(self, packet_id: int, reason_codes: Sequence[int]) -> None:
        """Answer a packet."""
        self.report(lambda events: events.answered(packet_id, reason_codes))

    def deliver(self, message: Message) -> None:
        """Deliver a message, unless it is above this client's limit: then it is dropped in silence."""
        if len(message.payload) + len(message.topic) + MESSAGE_OVERHEAD_BYTES <= self._max_incoming_bytes:
            self.report(lambda events: events.arrived(message))

    def lose(self, why: str) -> None:
        """End it from the other side."""
        self._lost = why
        self._inbox.put(None)


class MemoryTransport(LinkTransport):
    """A `Transport` to a `MemoryBroker`.

    Args:
        broker: where to.
        identity: who we are.
        will: published when we vanish.
        max_incoming_bytes: larger messages never arrive.
        max_in_flight: bound of unanswered messages.
        max_in_flight_bytes: bound of their payloads together.
        backoff: pauses between attempts; short by default, for tests.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        identity: str,
        *,
        will: Will | None = None,
        max_incoming_bytes: int = 4 * MiB,
        max_in_flight: int = 1000,
        max_in_flight_bytes: int = 64 * MiB,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(
            identity,
            max_in_flight=max_in_flight,
            max_in_flight_bytes=max_in_flight_bytes,
            max_incoming_bytes=max_incoming_bytes,
            backoff=backoff or Backoff(first_s=0.005, max_s=0.05),
        )
        self.will = will
        self._broker = broker

    def _open(self) -> Connection:
        return MemoryConnection(self._broker, self)
