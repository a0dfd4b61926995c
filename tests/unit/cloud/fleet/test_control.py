"""The fleet's connection over the in-memory broker: evidence, reports, events, acknowledgements, documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aimass.errors import LinkDownError, NoSpaceError, StoreError
from aimass.transport.base import Message
from aimass.transport.memory import MemoryBroker, MemoryTransport
from aimass.wire import topics
from aimass_cloud.fleet.control import FleetControl
from aimass_cloud.fleet.outlet import FleetOutlet
from aimass_cloud.fleet.presence import Moment, State
from tests.fakes.cloud import CloudInMemory
from tests.fakes.waiting import until


class Clocks:
    """Both clocks, moved by hand together."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> Moment:
        return Moment(self.s, 1_700_000_000_000 + round(self.s * 1000))


class Party:
    """A device at the broker, and what it received."""

    def __init__(self, broker: MemoryBroker, identity: str) -> None:
        self.transport = MemoryTransport(broker, identity)
        self.identity = identity
        self.acks: list[dict[str, Any]] = []
        self.desired: list[bytes] = []
        self.transport.subscribe(topics.ack(identity), lambda m: self.acks.append(json.loads(m.payload)))
        self.transport.subscribe(topics.desired(identity), lambda m: self.desired.append(m.payload))
        self.transport.start()
        until(lambda: self.transport.connected)

    def say(self, topic: str, body: Any, *, retain: bool = False) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.transport.publish(topic, payload, qos=1, retain=retain)

    def state(self, word: str, boot: str = "b1", **more: Any) -> None:
        body = {"state": word, "boot": boot, "version": "1", "at_ms": 1, "heartbeat_s": 20, **more}
        self.say(topics.state(self.identity), body, retain=True)

    def events(self, *seqs: int, stream: str = "results") -> None:
        records = [{"seq": n, "id": f"e{n}", "at_ms": n, "kind": "k", "data": {}} for n in seqs]
        self.say(topics.event(self.identity, stream), {"stream_id": "s1", "records": records})


class Fleet:
    """Control and outlet on one in-memory broker."""

    def __init__(self, folder: Path) -> None:
        self.cloud = CloudInMemory(folder)
        self.broker = MemoryBroker()
        self.clocks = Clocks()
        self.parties: list[Party] = []
        self.link_ups = 0
        self.failures: list[Exception] = []
        self.begin()

    def begin(self) -> None:
        """A (further) run of the cloud."""
        self.transport = MemoryTransport(self.broker, "svc:control")
        self.control = FleetControl(self.transport, self.cloud.store, epoch=self.cloud.store.epoch, moment=self.clocks)
        self.outlet = FleetOutlet(self.transport, on_link_up=self._link_up)
        self.control.start()
        self.outlet.start()
        self.transport.start()
        until(lambda: self.transport.connected)

    def end(self) -> None:
        self.outlet.close()
        self.control.close()
        self.transport.close()

    def close(self) -> None:
        self.end()
        for party in self.parties:
            party.transport.close()
        self.cloud.close()

    def party(self, identity: str, *, enrolled: bool = True) -> Party:
        if enrolled:
            self.cloud.enrol(identity)
        party = Party(self.broker, identity)
        self.parties.append(party)
        return party

    def state(self, identity: str) -> State:
        return self.control.presence(identity).state

    def _link_up(self) -> None:
        self.link_ups += 1
        if self.failures:
            raise self.failures.pop()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def stored(fleet: Fleet, identity: str) -> list[int]:
    with fleet.cloud.store.read() as tx:
        return [event.seq for event in tx.events.list(identity, limit=1000)]


def test_birth_heartbeats_and_farewell_make_the_state(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    assert fleet.state("gw-1") is State.NEVER
    party.state("online")
    until(lambda: fleet.state("gw-1") is State.ONLINE)
    fleet.clocks.s += 50
    party.say(topics.telemetry("gw-1", "heartbeat"), {"boot": "b1", "n": 1})
    until(lambda: fleet.control.presence("gw-1").evidence_at_ms == fleet.clocks().wall_ms)
    party.state("offline")
    until(lambda: fleet.state("gw-1") is State.OFFLINE)


def test_a_frozen_device_is_offline_after_a_minute(fleet: Fleet) -> None:
    fleet.party("gw-1").state("online")
    until(lambda: fleet.state("gw-1") is State.ONLINE)
    fleet.clocks.s += 61
    assert fleet.state("gw-1") is State.OFFLINE


def test_a_retained_birth_is_no_evidence(fleet: Fleet) -> None:
    fleet.party("gw-1").state("online")
    until(lambda: fleet.state("gw-1") is State.ONLINE)
    fleet.end()
    fleet.clocks.s += 600
    fleet.begin()
    assert fleet.state("gw-1") is State.UNKNOWN
    fleet.clocks.s += 26
    assert fleet.state("gw-1") is State.OFFLINE


def test_what_was_concluded_outlives_a_restart(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    party.state("online")
    fleet.clocks.s += 5
    until(lambda: fleet.state("gw-1") is State.ONLINE)
    party.state("offline")
    until(lambda: fleet.state("gw-1") is State.OFFLINE)
    before = fleet.control.presence("gw-1")
    fleet.end()
    fleet.clocks.s += 100
    fleet.begin()
    after = fleet.control.presence("gw-1")
    assert (after.state, after.since_ms, after.boot) == (before.state, before.since_ms, before.boot)


def test_events_are_stored_once_and_acknowledged_with_the_epoch(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    party.events(1, 2, 3)
    until(lambda: party.acks)
    assert party.acks[-1] == {"stream": "results", "stream_id": "s1", "seq": 3, "epoch": fleet.cloud.store.epoch}
    party.events(2, 3, 4)
    until(lambda: party.acks[-1]["seq"] == 4)
    assert stored(fleet, "gw-1") == [1, 2, 3, 4]


def test_an_empty_list_asks_for_the_position(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    party.events()
    until(lambda: party.acks)
    assert party.acks[-1]["seq"] == 0


def test_records_behind_a_hole_are_not_acknowledged(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    party.events(1)
    until(lambda: party.acks)
    party.events(3, 4)
    until(lambda: len(party.acks) >= 2)
    assert party.acks[-1]["seq"] == 1


def test_events_of_a_device_that_is_not_enrolled_are_dropped_and_counted(fleet: Fleet) -> None:
    party = fleet.party("gw-9", enrolled=False)
    party.events(1)
    until(lambda: fleet.control.counts().get("dropped.unknown_device"))
    assert stored(fleet, "gw-9") == []
    assert party.acks == []


def test_nothing_is_acknowledged_while_the_store_fails_and_all_is_when_it_is_back(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    write, tries = fleet.cloud.store.write, 0

    def full() -> Any:
        nonlocal tries
        tries += 1
        raise NoSpaceError("the disk is full")

    fleet.cloud.store.write = full  # type: ignore[method-assign]
    party.events(1, 2)
    until(lambda: tries >= 2, timeout_s=5)
    assert party.acks == []
    fleet.cloud.store.write = write  # type: ignore[method-assign]
    until(lambda: party.acks)
    assert stored(fleet, "gw-1") == [1, 2]


def test_one_message_that_cannot_be_stored_does_not_take_others_with_it(fleet: Fleet) -> None:
    good, bad = fleet.party("gw-1"), fleet.party("gw-2")
    ingest = fleet.cloud.store.write

    class Refusing:
        """Fails for each transaction that holds something of gw-2."""

        def __init__(self) -> None:
            self._inner = ingest()

        def __enter__(self) -> Any:
            tx = self._inner.__enter__()
            find = tx.devices.find

            def refusing(identity: str) -> Any:
                if identity == "gw-2":
                    raise StoreError("cannot be stored")
                return find(identity)

            tx.devices.find = refusing
            return tx

        def __exit__(self, *args: Any) -> Any:
            return self._inner.__exit__(*args)

    fleet.cloud.store.write = Refusing  # type: ignore[method-assign, assignment]
    bad.events(1)
    good.events(1)
    until(lambda: good.acks)
    until(lambda: fleet.control.counts().get("store.failures"))
    fleet.cloud.store.write = ingest  # type: ignore[method-assign]
    assert (stored(fleet, "gw-1"), stored(fleet, "gw-2")) == ([1], [])


def test_reports_are_kept_also_when_they_were_retained(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    fleet.end()
    body = {"epoch": 1, "version": 2, "boot": "b", "at_ms": 3, "models": []}
    party.say(topics.reported("gw-1"), body, retain=True)
    fleet.begin()

    def reported() -> Any:
        with fleet.cloud.store.read() as tx:
            return tx.twins.reported("gw-1")

    until(reported)
    assert reported().version == 2
    assert fleet.state("gw-1") is State.NEVER


def test_the_last_telemetry_of_each_name_is_kept(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    for cpu in (1, 2):
        party.say(topics.telemetry("gw-1", "system"), {"cpu": cpu})
    until(lambda: fleet.control.telemetry("gw-1").get("system", {}).get("data") == {"cpu": 2})


def test_garbage_is_counted_and_harms_nobody(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    party.say(topics.state("gw-1"), b"\xff")
    party.say(topics.event("gw-1", "results"), b"{}")
    party.events(1)
    until(lambda: party.acks)
    assert fleet.control.counts()["dropped.malformed"] == 2


def test_pool_workers_are_seen_until_they_say_goodbye(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    party.say(topics.cloud_state("worker-0"), {"load": 0.5}, retain=True)
    until(lambda: fleet.control.pools() == {"worker-0": {"load": 0.5}})
    party.say(topics.cloud_state("worker-0"), b"", retain=True)
    until(lambda: fleet.control.pools() == {})


def test_a_document_reaches_the_device_retained(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    fleet.outlet.announce("gw-1", b"envelope")
    until(lambda: party.desired == [b"envelope"])
    assert fleet.broker.retained(topics.desired("gw-1")) == b"envelope"
    until(lambda: fleet.outlet.waiting == 0)


def test_a_document_for_a_device_that_is_away_waits_at_the_broker(fleet: Fleet) -> None:
    fleet.outlet.announce("gw-7", b"envelope")
    until(lambda: fleet.outlet.waiting == 0)
    assert fleet.party("gw-7", enrolled=False).desired == [b"envelope"]


def test_while_the_link_is_down_only_the_newest_document_waits(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    fleet.broker.kill()
    until(lambda: not fleet.transport.connected)
    for content in (b"1", b"2", b"3"):
        fleet.outlet.announce("gw-1", content)
    assert fleet.outlet.waiting == 1
    fleet.broker.revive()
    until(lambda: party.desired == [b"3"])


def test_many_documents_all_arrive(fleet: Fleet) -> None:
    for number in range(450):
        fleet.outlet.announce(f"gw-{number}", b"%d" % number)
    until(lambda: fleet.outlet.waiting == 0)
    assert fleet.broker.retained(topics.desired("gw-449")) == b"449"


def test_what_a_removed_device_left_is_cleared(fleet: Fleet) -> None:
    fleet.party("gw-1").state("online")
    fleet.outlet.announce("gw-1", b"envelope")
    until(lambda: fleet.broker.retained(topics.desired("gw-1")))
    fleet.outlet.clear("gw-1")
    until(lambda: fleet.broker.retained(topics.desired("gw-1")) is None)
    until(lambda: fleet.broker.retained(topics.state("gw-1")) is None)


def test_the_work_of_each_new_link_is_done_and_repeated_when_it_fails(fleet: Fleet) -> None:
    until(lambda: fleet.link_ups == 1)
    fleet.failures = [LinkDownError("no answer")]
    fleet.broker.kill()
    until(lambda: not fleet.transport.connected)
    fleet.broker.revive()
    until(lambda: fleet.link_ups == 3)


def test_a_removed_device_is_not_seen_again_by_a_last_message(fleet: Fleet) -> None:
    party = fleet.party("gw-1")
    party.state("online")
    until(lambda: fleet.state("gw-1") is State.ONLINE)
    fleet.cloud.devices.remove("gw-1")
    fleet.control.forget("gw-1")
    party.say(topics.telemetry("gw-1", "heartbeat"), {"boot": "b1", "n": 9})
    until(lambda: fleet.control.counts().get("messages.heartbeat") == 1)
    until(lambda: fleet.state("gw-1") is State.NEVER)


def test_messages_of_kinds_that_are_nobodys_concern_are_passed_over(fleet: Fleet) -> None:
    fleet.control._arrived(Message(topics.result("gw-1", "x"), b"{}"))
    assert "dropped.malformed" not in fleet.control.counts()
