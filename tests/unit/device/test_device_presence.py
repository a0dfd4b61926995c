"""Birth, heartbeat, farewell and will of one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aimass.device.presence import Presence, new_boot_id, presence_will
from aimass.errors import OverloadError
from aimass.transport.memory import MemoryBroker, MemoryTransport
from aimass.wire import topics
from tests.fakes.still_transport import StillTransport
from tests.fakes.waiting import until

STATE, BEAT = topics.state("gw-1"), topics.telemetry("gw-1", "heartbeat")


def retained(broker: MemoryBroker) -> dict[str, object]:
    return dict(json.loads(broker.retained(STATE) or b"{}"))


def test_every_run_has_its_own_boot_id() -> None:
    assert len({new_boot_id() for _ in range(100)}) == 100


def test_a_birth_at_each_link_up_and_a_farewell_at_the_end() -> None:
    broker = MemoryBroker()
    transport = MemoryTransport(broker, "gw-1", will=presence_will("gw-1", "b1", "1.2.3", 5.0))
    presence = Presence(transport, "b1", "1.2.3", now=lambda: 17.0)
    presence.start()
    transport.start()
    expected = {"state": "online", "boot": "b1", "version": "1.2.3", "at_ms": 17000, "heartbeat_s": 20.0}
    until(lambda: retained(broker) == expected, "the birth")
    broker.kill()
    broker.revive()
    until(lambda: retained(broker) == expected, "the birth after the broker forgot all")
    presence.close()
    transport.close(farewell=presence.farewell())
    until(lambda: retained(broker)["state"] == "offline", "the farewell")
    assert retained(broker)["boot"] == "b1"


def test_the_will_says_that_this_run_is_lost() -> None:
    will = presence_will("gw-1", "b1", "1.2.3", 5.0)
    assert (will.topic, will.qos, will.retain, will.delay_s) == (STATE, 1, True, 20)
    assert json.loads(will.payload) == {
        "state": "lost",
        "boot": "b1",
        "version": "1.2.3",
        "at_ms": 5000,
        "heartbeat_s": 20.0,
    }


def test_heartbeats_count_while_the_link_is_up_and_cost_qos_0() -> None:
    transport = StillTransport()
    presence = Presence(transport, "b1", "1", heartbeat_s=0.005)
    presence.start()
    until(lambda: len([one for one in transport.sent if one[0] == BEAT]) >= 3, "heartbeats")
    transport.connected = False
    presence.close()
    beats = [json.loads(payload) for topic, payload, qos, retain in transport.sent if topic == BEAT]
    assert beats[:3] == [{"boot": "b1", "n": 1}, {"boot": "b1", "n": 2}, {"boot": "b1", "n": 3}]
    assert {(qos, retain) for topic, _, qos, retain in transport.sent if topic == BEAT} == {(0, False)}


def test_a_birth_that_the_link_cannot_take_now_is_tried_again(tmp_path: Path) -> None:
    transport = StillTransport()
    transport.errors = [OverloadError("busy")]
    presence = Presence(transport, "b1", "1", heartbeat_s=100)
    presence.start()
    until(lambda: transport.take(STATE), "the birth")
    presence.close()


@pytest.mark.parametrize("connected", [True, False])
def test_closing_does_not_wait_for_a_heartbeat(connected: bool) -> None:
    presence = Presence(StillTransport(connected=connected), "b1", "1", heartbeat_s=1000)
    presence.start()
    presence.close()
