"""Sending the outbox: asking first, a window of batches, acknowledgements that get lost, clouds that come back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from aimass.device.outbox import Outbox, StreamLimits
from aimass.device.outbox_sender import OutboxSender, SenderSettings
from aimass.errors import OverloadError
from aimass.transport.base import Message
from aimass.transport.memory import MemoryBroker, MemoryTransport
from aimass.wire import topics
from tests.fakes.record_store import RecordStore
from tests.fakes.still_transport import StillTransport
from tests.fakes.waiting import until

EVENTS, ACK = topics.event("gw-1", "events"), topics.ack("gw-1")


class Link:
    """An outbox, its sender and a cloud, with nothing moving by itself."""

    def __init__(self, path: Path, **settings: object) -> None:
        self.outbox = Outbox(path)
        self.transport = StillTransport()
        self.now_s = 100.0
        self.cloud = RecordStore()
        chosen = SenderSettings(**{"batch_records": 10, **settings})  # type: ignore[arg-type]
        self.sender = OutboxSender(self.outbox, self.transport, settings=chosen, clock=lambda: self.now_s)
        self.sender.listen()

    def add(self, *values: int) -> None:
        for value in values:
            self.outbox.append("events", "reading", {"n": value})

    def step(self) -> list[list[int]]:
        """Let the sender act; the sequences of each batch that it sent (an empty one is a question)."""
        self.wait_s = self.sender.step()
        self.batches = self.transport.take(EVENTS)
        return [[record["seq"] for record in json.loads(payload)["records"]] for payload in self.batches]

    def answer(self) -> None:
        """The cloud takes what the last step sent, and its answers arrive."""
        for payload in self.batches:
            self.transport.deliver(ACK, self.cloud.take("events", payload))

    def settle(self) -> None:
        while self.step():
            self.answer()


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    link = Link(tmp_path / "o.db")
    yield link
    link.outbox.close()


def test_asks_where_the_cloud_is_before_anything_is_sent(link: Link) -> None:
    link.add(1, 2, 3)
    assert link.step() == [[]]
    link.answer()
    assert link.step() == [[1, 2, 3]]


def test_waits_for_the_answer_to_its_question(link: Link) -> None:
    link.add(1, 2, 3)
    link.step()
    assert link.step() == []
    assert link.wait_s == 5


def test_sends_in_order_with_a_window_and_goes_on_with_each_acknowledgement(link: Link) -> None:
    link.add(*range(1, 61))
    link.step()
    link.answer()
    assert [batch[0] for batch in link.step()] == [1, 11, 21, 31]
    first, second, *_ = link.batches
    assert link.step() == []
    link.transport.deliver(ACK, link.cloud.take("events", first))
    assert [batch[0] for batch in link.step()] == [41]
    link.transport.deliver(ACK, link.cloud.take("events", second))
    assert [batch[0] for batch in link.step()] == [51]


def test_everything_arrives_once_and_in_order(link: Link) -> None:
    link.add(*range(95))
    link.settle()
    assert link.cloud.values() == list(range(95))
    assert (link.cloud.duplicates, link.cloud.holes) == (0, 0)
    assert link.sender.is_idle
    totals = link.outbox.totals()
    assert totals["sent"] == totals["acked"] == 95


def test_no_batch_is_larger_than_a_message_may_be(tmp_path: Path) -> None:
    link = Link(tmp_path / "o.db", batch_records=50)
    for n in range(40):
        link.outbox.append("events", "reading", {"n": n, "text": "x" * 9000})
    link.outbox.append("events", "reading", {"n": 40, "text": "x" * 48_000})
    sizes = []
    while link.step():
        sizes += [len(payload) for payload in link.batches]
        link.answer()
    assert link.cloud.values() == list(range(41))
    assert max(sizes) <= 64 * 1024


def test_without_an_answer_it_asks_again_at_growing_pauses(link: Link) -> None:
    link.add(1)
    assert link.step() == [[]]
    pauses = []
    for _ in range(5):
        pauses.append(link.wait_s)
        link.now_s += link.wait_s
        assert link.step() == [[]]
    assert pauses == [5, 10, 15, 15, 15]


def test_without_an_acknowledgement_it_sends_again_from_the_acknowledged_position(link: Link) -> None:
    link.add(*range(1, 26))
    link.step()
    link.answer()
    link.step()
    link.transport.deliver(ACK, link.cloud.take("events", link.batches[0]))  # the others are lost
    assert link.step() == []
    link.now_s += link.wait_s
    assert [batch[0] for batch in link.step()] == [11, 21]
    link.answer()
    link.settle()
    assert link.cloud.values() == list(range(1, 26))


def test_a_lost_acknowledgement_stores_nothing_twice(link: Link) -> None:
    link.add(*range(20))
    link.step()
    link.answer()
    link.step()
    for payload in link.batches:
        link.cloud.take("events", payload)
    link.now_s += 5
    link.step()
    link.answer()
    link.settle()
    assert link.cloud.values() == list(range(20))
    assert link.cloud.duplicates == 20
    assert link.outbox.totals()["sent"] == 20


def test_a_new_link_asks_again(link: Link) -> None:
    link.add(*range(20))
    link.step()
    link.answer()
    link.step()
    link.transport.link(False)
    assert link.step() == []
    link.transport.link(True)
    assert link.step() == [[]]
    link.answer()
    link.settle()
    assert link.cloud.values() == list(range(20))


def test_an_idle_stream_asks_too_so_that_a_restored_cloud_is_noticed(link: Link) -> None:
    link.add(*range(5))
    link.settle()
    backup = link.cloud.backup()
    link.add(*range(5, 9))
    link.settle()
    link.cloud = backup.restored()
    link.transport.link(True)
    link.settle()
    assert link.cloud.values() == list(range(9))


def test_a_cloud_restored_while_the_link_is_up_is_noticed_with_the_next_record(link: Link) -> None:
    link.add(*range(5))
    link.settle()
    backup = link.cloud.backup()
    link.add(*range(5, 30))
    link.settle()
    link.cloud = backup.restored()
    link.add(30)
    link.settle()
    assert link.cloud.values() == list(range(31))


def test_a_busy_link_is_tried_again_in_a_moment(link: Link) -> None:
    link.add(1)
    link.transport.errors = [OverloadError("busy")]
    assert link.step() == []
    assert link.wait_s < 1
    link.settle()
    assert link.cloud.values() == [1]


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"stream": 1}', b"\xff", b'{"seq": "x"}'])
def test_acknowledgements_that_are_none_are_ignored(link: Link, payload: bytes) -> None:
    link.add(1)
    link.step()
    link.transport.deliver(ACK, payload)
    link.answer()
    link.settle()
    assert link.cloud.values() == [1]


def test_old_records_go_even_when_nothing_is_sent(tmp_path: Path) -> None:
    now_s = 1_800_000_000.0
    outbox = Outbox(tmp_path / "o.db", default_limits=StreamLimits(max_age_s=60), now=lambda: now_s)
    clock_s = 0.0
    sender = OutboxSender(outbox, StillTransport(connected=False), clock=lambda: clock_s)
    outbox.append("events", "reading", {})
    assert sender.step() <= 60
    now_s, clock_s = now_s + 61, 61.0
    sender.step()
    assert outbox.totals()["dropped"] == 1
    outbox.close()


def test_over_a_broker_that_dies_everything_arrives_once(tmp_path: Path) -> None:
    broker, cloud = MemoryBroker(), RecordStore()
    device, control = MemoryTransport(broker, "gw-1"), MemoryTransport(broker, "svc:control")

    def store(message: Message) -> None:
        control.publish(ACK, cloud.take(topics.parse(message.topic).name, message.payload), qos=1)

    control.subscribe(topics.device_filter("event"), store)
    outbox = Outbox(tmp_path / "o.db")
    sender = OutboxSender(outbox, device, settings=SenderSettings(batch_records=3, ack_timeout_s=0.05))
    sender.start()
    control.start()
    device.start()
    for n in range(60):
        outbox.append("events", "reading", {"n": n})
        if n in (20, 40):
            broker.kill()
            broker.revive()
    assert sender.wait_idle(20)
    assert cloud.values() == list(range(60))
    totals = outbox.totals()
    assert (totals["appended"], totals["sent"], totals["acked"]) == (60, 60, 60)
    sender.close()
    for transport in (device, control):
        transport.close()
    outbox.close()


def test_waiting_for_an_idle_outbox_ends_with_the_time(link: Link) -> None:
    link.add(1)
    assert not link.sender.wait_idle(0.01)
    until(lambda: not link.sender.is_idle)
