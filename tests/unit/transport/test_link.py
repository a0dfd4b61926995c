"""What `LinkTransport` does between its callers and a connection, with a connection made of plain lists."""

import logging
import queue
from collections.abc import Callable, Iterator, Sequence

import pytest

from aimass.errors import ConnectError, LinkDownError, OverloadError
from aimass.transport.backoff import Backoff
from aimass.transport.base import Receipt
from aimass.transport.inflight import InFlight
from aimass.transport.link import Connection, LinkTransport
from aimass.transport.subscriptions import Subscription
from tests.fakes.waiting import until


class ScriptedConnection:
    """Does what the test puts into `script`; notes what it is asked."""

    def __init__(self, transport: "ScriptedTransport") -> None:
        self.transport = transport
        self.script: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.asked: list[list[str]] = []
        self.closed = False
        self._packet_id = 0

    def publish(self, topic: str, *_rest: object) -> int:
        self._packet_id += 1
        return self._packet_id

    def subscribe(self, subscriptions: Sequence[Subscription]) -> int:
        self.asked.append([s.topic_filter for s in subscriptions])
        self._packet_id += 1
        return self._packet_id

    def unsubscribe(self, topic_filter: str) -> int:
        self._packet_id += 1
        return self._packet_id

    def flush(self) -> None: ...

    def serve(self, _timeout_s: float) -> None:
        self.script.get(timeout=5)()

    def wake(self) -> None:
        self.script.put(lambda: None)

    def close(self) -> None:
        self.closed = True


class ScriptedTransport(LinkTransport):
    def __init__(self, failures: Sequence[Exception] = ()) -> None:
        self.now = 0.0
        super().__init__(
            "gw-1",
            max_in_flight=3,
            max_in_flight_bytes=100,
            max_incoming_bytes=1000,
            backoff=Backoff(first_s=0.001, max_s=0.001),
            clock=lambda: self.now,
        )
        self.failures = list(failures)
        self.opened: list[ScriptedConnection] = []

    def _open(self) -> Connection:
        if self.failures:
            raise self.failures.pop(0)
        self.opened.append(ScriptedConnection(self))
        return self.opened[-1]


@pytest.fixture
def transport() -> Iterator[ScriptedTransport]:
    transport = ScriptedTransport()
    yield transport
    transport.close()


def opened(transport: ScriptedTransport, n: int = 1) -> ScriptedConnection:
    until(lambda: len(transport.opened) == n)
    return transport.opened[-1]


def lose() -> None:
    raise LinkDownError("cut")


def test_the_link_is_up_when_the_last_subscription_is_answered(transport: ScriptedTransport) -> None:
    for i in range(10):
        transport.subscribe(f"t/{i}", lambda _m: None)
    transport.start()
    connection = opened(transport)
    connection.script.put(lambda: transport.accepted(500))
    until(lambda: len(connection.asked) == 2)
    assert [len(filters) for filters in connection.asked] == [8, 2]
    connection.script.put(lambda: transport.answered(1, [1] * 8))
    assert not transport.connected
    connection.script.put(lambda: transport.answered(2, [1, 0x87]))
    until(lambda: transport.connected)
    assert transport.refusals() == {"t/9": 0x87}
    assert transport.max_packet_bytes == 500


def test_any_failure_to_open_is_tried_again_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Exception] = [ConnectError("no route")] * 3 + [RuntimeError("a fault of ours")]
    transport = ScriptedTransport(failures)
    with caplog.at_level(logging.WARNING):
        transport.start()
        opened(transport)
    assert caplog.text.count("no route") == 1
    assert isinstance(transport.last_error, ConnectError)
    assert "a fault of ours" in str(transport.last_error)
    transport.close()


def test_a_broker_that_says_nothing_is_given_up(transport: ScriptedTransport) -> None:
    transport.start()
    connection = opened(transport)
    transport.now = 11.0
    connection.wake()
    opened(transport, 2)
    assert connection.closed
    assert "did not answer" in str(transport.last_error)


def test_everything_under_way_fails_with_the_link_and_late_answers_are_ignored(transport: ScriptedTransport) -> None:
    transport.start()
    connection = opened(transport)
    connection.script.put(lambda: transport.accepted(500))
    until(lambda: transport.connected)
    receipts = [transport.publish("t", b"x", qos=1), transport.unsubscribe("u")]
    connection.script.put(lose)
    until(lambda: all(r.done for r in receipts))
    assert all(isinstance(r.error, LinkDownError) for r in receipts)
    connection = opened(transport, 2)
    connection.script.put(lambda: transport.accepted(500))
    connection.script.put(lambda: transport.answered(1, [0]))
    until(lambda: transport.connected)
    assert isinstance(receipts[0].error, LinkDownError)


def test_reconnect_now_does_not_wait(transport: ScriptedTransport) -> None:
    transport._backoff = Backoff(first_s=60, max_s=60)
    transport.start()
    connection = opened(transport)
    connection.script.put(lambda: transport.accepted(500))
    until(lambda: transport.connected)
    transport.reconnect_now()
    opened(transport, 2).script.put(lose)
    until(lambda: transport.opened[-1].closed)
    transport.reconnect_now()
    opened(transport, 3)


@pytest.fixture
def in_flight() -> InFlight:
    return InFlight(max_messages=3, max_bytes=100)


def test_messages_in_flight_are_bounded_by_number_and_bytes(in_flight: InFlight) -> None:
    in_flight.check_room(1000)
    in_flight.add(1, Receipt(), 90)
    with pytest.raises(OverloadError):
        in_flight.check_room(11)
    in_flight.check_room(10)
    in_flight.add(2, Receipt(), 1)
    in_flight.add(3, Receipt(), 1)
    with pytest.raises(OverloadError):
        in_flight.check_room(0)
    assert in_flight.take(1) is not None
    in_flight.check_room(98)
    assert in_flight.take(1) is None
    assert len(in_flight.take_all()) == 2
    assert len(in_flight) == 0
