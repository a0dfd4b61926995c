"""One suite for every transport: what `aimass.transport.base` promises, in memory and over a real mosquitto."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from aimass.errors import (
    DeadlineError,
    FrameTooLargeError,
    InputError,
    LinkDownError,
    NobodyListensError,
    OverloadError,
    RefusedError,
)
from aimass.transport import Message, Transport, Will
from aimass.transport.backoff import Backoff
from aimass.transport.memory import MemoryBroker, MemoryTransport
from aimass.transport.mqtt import MqttTransport
from tests.fakes.mosquitto import Mosquitto, Rule
from tests.fakes.relay import Relay
from tests.fakes.waiting import until

MAX_PACKET_BYTES = 300_000
EVERYTHING: list[Rule] = [
    ("publishClientSend", "#"),
    ("publishClientReceive", "#"),
    ("subscribePattern", "#"),
    ("unsubscribePattern", "#"),
]


class Stage(Protocol):
    """A broker that can be hurt, and transports to it."""

    def transport(self, identity: str, **options: Any) -> Transport: ...
    def kill(self) -> None: ...
    def revive(self) -> None: ...
    def stall(self) -> None: ...
    def resume(self) -> None: ...
    def drop(self, identity: str) -> None: ...
    def close(self) -> None: ...


class MemoryStage:
    def __init__(self, _folder: Path) -> None:
        self.broker = MemoryBroker(max_packet_bytes=MAX_PACKET_BYTES, deny=self._deny)
        self.kill, self.revive = self.broker.kill, self.broker.revive
        self.stall, self.resume, self.drop = self.broker.stall, self.broker.resume, self.broker.drop

    @staticmethod
    def _deny(identity: str, _action: str, topic: str) -> bool:
        return identity == "gw-9" and not topic.startswith("own/")

    def transport(self, identity: str, **options: Any) -> Transport:
        return MemoryTransport(self.broker, identity, **options)

    def close(self) -> None:
        pass


class MosquittoStage:
    """Each client connects through a relay of its own, so that its cable can be cut."""

    def __init__(self, folder: Path) -> None:
        roles = dict.fromkeys(("gw-1", "gw-2", "gw-3", "gw-1:app", "svc:worker-0", "svc:worker-1"), EVERYTHING)
        roles["gw-9"] = [("publishClientSend", "own/#"), ("subscribePattern", "own/#"), ("publishClientReceive", "#")]
        self.broker = Mosquitto(folder, max_packet_bytes=MAX_PACKET_BYTES, roles=roles)
        self.broker.start()
        self.relays: dict[str, Relay] = {}
        self.kill, self.revive = self.broker.kill, self.broker.start

    def transport(self, identity: str, **options: Any) -> Transport:
        relay = self.relays.setdefault(identity, Relay("127.0.0.1", self.broker.port))
        options.setdefault("backoff", Backoff(first_s=0.01, max_s=0.1))
        return MqttTransport(identity, "localhost", relay.port, self.broker.identity(identity), **options)

    def stall(self) -> None:
        for relay in self.relays.values():
            relay.stall()

    def resume(self) -> None:
        for relay in self.relays.values():
            relay.resume()

    def drop(self, identity: str) -> None:
        self.relays[identity].cut()
        self.relays[identity].resume()

    def close(self) -> None:
        self.broker.kill()
        for relay in self.relays.values():
            relay.close()


@pytest.fixture(params=["memory", pytest.param("mosquitto", marks=pytest.mark.integration)])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    stage = MemoryStage(tmp_path) if request.param == "memory" else MosquittoStage(tmp_path)
    yield stage
    stage.close()


class Party:
    """A transport that keeps what it hears."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.heard: list[Message] = []
        self.links: list[bool] = []
        transport.on_link(self.links.append)

    def listen(self, topic_filter: str) -> Party:
        self.transport.subscribe(topic_filter, self.heard.append)
        return self

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.heard]


Join = Callable[..., Party]


@pytest.fixture
def join(stage: Stage) -> Iterator[Join]:
    parties: list[Party] = []

    def make(identity: str, *filters: str, start: bool = True, **options: Any) -> Party:
        party = Party(stage.transport(identity, **options))
        parties.append(party)
        for topic_filter in filters:
            party.listen(topic_filter)
        if start:
            party.transport.start()
            until(lambda: party.links, f"the link of {identity}")
        return party

    yield make
    for party in parties:
        party.transport.close()


def test_delivers_payload_and_correlation(join: Join) -> None:
    receiver = join("gw-2", "to/gw-2")
    sender = join("gw-1")
    sender.transport.publish("to/gw-2", b"\x00\xff tensor", qos=1, correlation=b"0123456789abcdef", expiry_s=5).wait(5)
    until(lambda: receiver.heard)
    assert receiver.heard == [Message("to/gw-2", b"\x00\xff tensor", 1, False, b"0123456789abcdef")]


def test_a_message_without_correlation_has_none(join: Join) -> None:
    receiver = join("gw-2", "to/+/x")
    join("gw-1").transport.publish("to/gw-2/x", b"", qos=0)
    until(lambda: receiver.heard)
    assert receiver.heard == [Message("to/gw-2/x", b"", 0, False, None)]


def test_large_messages_in_both_directions_arrive_whole_and_in_order(join: Join) -> None:
    one, two = join("gw-1", "to/one"), join("gw-2", "to/two")
    payloads = [bytes([i]) * (MAX_PACKET_BYTES - 200 - i) for i in range(20)]
    for payload in payloads:
        one.transport.publish("to/two", payload, qos=1)
        two.transport.publish("to/one", payload, qos=1)
    until(lambda: len(one.heard) == len(two.heard) == 20)
    assert one.payloads() == two.payloads() == payloads


def test_many_threads_may_publish_at_once(join: Join) -> None:
    receiver = join("gw-2", "to/+")
    sender = join("gw-1").transport
    receipts: list[Any] = []

    def burst(n: int) -> None:
        receipts.extend(sender.publish(f"to/{n}", b"%d" % i * 500, qos=i % 2) for i in range(50))

    threads = [threading.Thread(target=burst, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(receiver.heard) == 200)
    for receipt in receipts:
        receipt.wait(5)
    for n in range(4):
        assert [m.payload for m in receiver.heard if m.topic == f"to/{n}"] == [b"%d" % i * 500 for i in range(50)]


def test_a_receipt_says_when_nobody_listens(join: Join) -> None:
    sender = join("gw-1")
    with pytest.raises(NobodyListensError):
        sender.transport.publish("to/nobody", b"x", qos=1).wait(5)


def test_a_receipt_says_when_the_broker_refuses(join: Join) -> None:
    receiver = join("gw-1", "to/gw-1")
    rogue = join("gw-9")
    with pytest.raises(RefusedError):
        rogue.transport.publish("to/gw-1", b"x", qos=1).wait(5)
    assert receiver.heard == []
    assert rogue.transport.connected


def test_a_refused_subscription_is_recorded_and_the_others_stand(join: Join) -> None:
    rogue = join("gw-9", "own/box", "$share/pool/infer/pool/+/req")
    assert rogue.transport.refusals() == {"$share/pool/infer/pool/+/req": 0x87}
    join("gw-1").transport.publish("own/box", b"x", qos=1).wait(5)
    until(lambda: rogue.heard)


def test_members_of_a_share_take_turns(join: Join) -> None:
    workers = [join(f"svc:worker-{i}", "$share/pool/infer/pool/+/req") for i in range(2)]
    sender = join("gw-1").transport
    for i in range(10):
        sender.publish("infer/pool/gw-1/req", bytes([i]), qos=1).wait(5)
    until(lambda: sum(len(w.heard) for w in workers) == 10)
    assert [len(w.heard) for w in workers] == [5, 5]


def test_after_unsubscribe_nothing_more_arrives_and_a_share_goes_to_the_others(join: Join) -> None:
    share = "$share/pool/infer/pool/+/req"
    leaving, staying = join("svc:worker-0", share), join("svc:worker-1", share)
    leaving.transport.unsubscribe(share).wait(5)
    sender = join("gw-1").transport
    for i in range(4):
        sender.publish("infer/pool/gw-1/req", bytes([i]), qos=1).wait(5)
    until(lambda: len(staying.heard) == 4)
    assert leaving.heard == []


def test_a_late_subscription_is_in_force_before_what_is_published_next(join: Join) -> None:
    party = join("gw-1")
    for i in range(20):
        party.listen(f"to/{i}")
        party.transport.publish(f"to/{i}", b"x", qos=1).wait(5)
    until(lambda: len(party.heard) == 20)


def test_retained_messages_greet_newcomers(join: Join) -> None:
    sender = join("gw-1").transport
    for payload in (b"old", b"new"):
        receipt = sender.publish("state/gw-1", payload, qos=1, retain=True)
        until(lambda receipt=receipt: receipt.done)
    newcomer = join("gw-2", "state/+")
    until(lambda: newcomer.heard)
    assert newcomer.heard == [Message("state/gw-1", b"new", 1, True, None)]


def test_a_will_is_published_when_the_client_vanishes_but_not_after_a_goodbye(join: Join, stage: Stage) -> None:
    watcher = join("gw-2", "state/+")
    first = join("gw-1", will=Will("state/gw-1", b"lost", delay_s=0))
    first.transport.close(farewell=("state/gw-1", b"offline"))
    until(lambda: watcher.payloads() == [b"offline"])
    second = join("gw-1", will=Will("state/gw-1", b"lost", delay_s=0))
    stage.drop("gw-1")
    until(lambda: watcher.payloads() == [b"offline", b"lost"])
    until(lambda: second.links == [True, False, True])


def test_without_a_link_publish_raises_at_once(join: Join) -> None:
    party = join("gw-1", start=False)
    assert not party.transport.connected
    with pytest.raises(LinkDownError):
        party.transport.publish("to/gw-2", b"x", qos=1)


def test_a_killed_broker_fails_what_is_in_flight_and_the_link_comes_back_by_itself(join: Join, stage: Stage) -> None:
    receiver = join("gw-2", "to/gw-2")
    sender = join("gw-1")
    stage.stall()
    receipt = sender.transport.publish("to/gw-2", b"stale", qos=1)
    assert not receipt.done
    stage.kill()
    until(lambda: receipt.done)
    assert isinstance(receipt.error, LinkDownError)
    until(lambda: sender.links == [True, False])
    assert not sender.transport.connected
    with pytest.raises(LinkDownError):
        sender.transport.publish("to/gw-2", b"x", qos=1)

    stage.revive()
    stage.resume()
    until(lambda: sender.links == [True, False, True], "the sender's return")
    until(lambda: receiver.links == [True, False, True], "the receiver's return")
    sender.transport.publish("to/gw-2", b"fresh", qos=1).wait(5)
    until(lambda: receiver.heard)
    assert receiver.payloads() == [b"fresh"], "a message whose receipt failed was sent again"
    assert sender.transport.counts()["connects"] == 2
    assert sender.transport.counts()["losses"] == 1


def test_a_client_that_starts_before_the_broker_connects_when_it_is_there(join: Join, stage: Stage) -> None:
    stage.kill()
    party = join("gw-1", "to/gw-1", start=False)
    party.transport.start()
    assert not party.transport.connected
    stage.revive()
    until(lambda: party.transport.connected)


def test_a_stalled_link_does_not_block_publishers_and_is_bounded(join: Join, stage: Stage) -> None:
    join("gw-2", "to/gw-2")
    sender = join("gw-1", max_in_flight=10).transport
    stage.stall()
    held = [sender.publish("to/gw-2", b"x" * 1000, qos=1) for _ in range(10)]
    with pytest.raises(OverloadError):
        sender.publish("to/gw-2", b"x", qos=1)
    with pytest.raises(DeadlineError):
        held[-1].wait(0.01)
    stage.resume()
    for receipt in held:
        receipt.wait(5)
    sender.publish("to/gw-2", b"x", qos=1).wait(5)


def test_bytes_in_flight_are_bounded(join: Join, stage: Stage) -> None:
    join("gw-2", "to/gw-2")
    sender = join("gw-1", max_in_flight_bytes=250_000).transport
    stage.stall()
    receipt = sender.publish("to/gw-2", b"x" * 200_000, qos=1)
    with pytest.raises(OverloadError):
        sender.publish("to/gw-2", b"x" * 100_000, qos=1)
    stage.resume()
    receipt.wait(5)


def test_a_message_above_the_brokers_limit_is_refused_here(join: Join) -> None:
    sender = join("gw-1")
    assert sender.transport.max_packet_bytes == MAX_PACKET_BYTES
    with pytest.raises(FrameTooLargeError) as refusal:
        sender.transport.publish("to/gw-2", bytes(MAX_PACKET_BYTES), qos=1)
    assert refusal.value.limit_bytes == MAX_PACKET_BYTES
    assert sender.transport.connected


def test_a_message_above_the_receivers_limit_is_dropped_in_silence(join: Join) -> None:
    receiver = join("gw-2", "to/gw-2", max_incoming_bytes=2000)
    sender = join("gw-1").transport
    sender.publish("to/gw-2", bytes(3000), qos=1).wait(5)
    sender.publish("to/gw-2", b"small", qos=1).wait(5)
    until(lambda: receiver.heard)
    assert receiver.payloads() == [b"small"]
    assert receiver.transport.max_incoming_bytes == 2000


def test_a_handler_that_raises_is_counted_and_the_link_lives(join: Join) -> None:
    party = join("gw-1", "to/good")

    def bad(_message: Message) -> None:
        raise RuntimeError("a fault in a handler")

    party.transport.subscribe("to/bad", bad)
    party.transport.publish("to/bad", b"x", qos=1).wait(5)
    party.transport.publish("to/good", b"x", qos=1).wait(5)
    until(lambda: party.heard)
    assert party.transport.counts()["handler_errors"] == 1
    assert party.links == [True]


def test_a_link_callback_that_raises_is_counted_and_the_others_are_told(join: Join) -> None:
    party = join("gw-1", start=False)
    later: list[bool] = []

    def bad(_up: bool) -> None:
        raise RuntimeError("a fault in a callback")

    party.transport.on_link(bad)
    party.transport.on_link(later.append)
    party.transport.start()
    until(lambda: later == [True])
    assert party.transport.counts()["handler_errors"] == 1


def test_handlers_and_receipts_may_publish(join: Join) -> None:
    echo = join("gw-2")
    echo.transport.subscribe("to/echo", lambda m: echo.transport.publish("to/back", m.payload, qos=int(m.payload) % 2))
    party = join("gw-1", "to/back", "to/receipts")
    for i in range(10):
        receipt = party.transport.publish("to/echo", b"%d" % i, qos=1)
        receipt.add_done_callback(lambda _: party.transport.publish("to/receipts", b"done", qos=0))
    until(lambda: len(party.heard) == 20)


def test_a_callback_registered_late_is_told_that_the_link_is_up(join: Join) -> None:
    party = join("gw-1")
    late: list[bool] = []
    party.transport.on_link(late.append)
    until(lambda: late == [True])


def test_reconnect_now_makes_a_new_connection_with_all_subscriptions(join: Join) -> None:
    party = join("gw-1", "to/gw-1")
    party.transport.reconnect_now()
    until(lambda: party.links == [True, False, True])
    party.transport.publish("to/gw-1", b"x", qos=1).wait(5)
    until(lambda: party.heard)


def test_a_second_connection_of_an_identity_takes_over(join: Join) -> None:
    first = join("gw-1", "to/gw-1", backoff=Backoff(first_s=30, max_s=30))
    second = join("gw-1", "to/gw-1")
    until(lambda: first.links == [True, False])
    second.transport.publish("to/gw-1", b"x", qos=1).wait(5)
    until(lambda: second.heard)
    assert first.heard == []


def test_close_ends_everything_and_may_be_called_twice(join: Join) -> None:
    party = join("gw-1")
    party.transport.close()
    party.transport.close()
    assert party.links == [True, False]
    with pytest.raises(LinkDownError):
        party.transport.publish("to/gw-1", b"x")


def test_an_oversized_correlation_is_the_callers_mistake(join: Join) -> None:
    with pytest.raises(InputError):
        join("gw-1").transport.publish("to/gw-1", b"x", correlation=bytes(65))
