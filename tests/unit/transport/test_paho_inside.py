"""Guards an upgrade of paho: `transport/mqtt.py` overrides and uses inner names of its client, for want of public ones.

Should a name go or change its meaning, these tests say which one, before anything else fails in a stranger way. What to
do then: docs/decisions/0002-paho-as-codec.md.
"""

import inspect
import socket
import struct
from collections.abc import Iterator
from importlib.metadata import version

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from aimass.transport import Message
from aimass.transport.mqtt import _Client

OVERRIDDEN = {"_create_socket": 0, "_handle_publish": 0, "_handle_pubackcomp": 1}
CALLED = {"_send_puback": 1, "_update_inflight": 0}
"""Name: how many arguments it takes besides the client."""
ATTRIBUTES = ("_in_packet", "_inflight_messages", "_max_inflight_messages", "_out_message_mutex", "_out_messages")

CONNACK, PUBLISH, PUBACK = 0x20, 0x30, 0x40
QOS1 = 0x02


def said(name: str) -> str:
    where = "docs/decisions/0002-paho-as-codec.md"
    return f"paho-mqtt {version('paho-mqtt')} has no {name} as we use it; see {where} before you take this version"


@pytest.mark.parametrize(("name", "arguments"), (OVERRIDDEN | CALLED).items())
def test_paho_has_the_inner_methods(name: str, arguments: int) -> None:
    method = getattr(paho.Client, name, None)
    assert method is not None, said(name)
    assert len(inspect.signature(method).parameters) == 1 + arguments, said(name)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_paho_has_the_inner_attributes(name: str) -> None:
    assert hasattr(paho.Client(CallbackAPIVersion.VERSION2), name), said(name)


class Wire:
    """The broker's end of a connection, byte by byte."""

    def __init__(self, client: _Client, end: socket.socket) -> None:
        self.client, self.end = client, end

    def send(self, first_byte: int, body: bytes) -> None:
        self.end.sendall(bytes([first_byte, len(body)]) + body)
        assert self.client.loop_read() == paho.MQTT_ERR_SUCCESS

    def packets(self) -> list[int]:
        """First bytes of the packets that the client has written since the last look."""
        while self.client.want_write():
            self.client.loop_write()
        found = []
        try:
            while raw := self.end.recv(2):
                found.append(raw[0])
                self.end.recv(raw[1])
        except BlockingIOError:
            pass
        return found


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A client whose broker takes one message at a time."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    client = _Client("gw-1", ours)  # type: ignore[arg-type]  # a plain socket will do
    client.on_socket_register_write = lambda *_: None
    client.on_connect = lambda _c, _u, _f, _r, properties: client.limit_in_flight(properties.ReceiveMaximum)
    client.connect_async("localhost")
    client.reconnect()
    wire = Wire(client, theirs)
    assert wire.packets() == [0x10], said("_create_socket")
    wire.send(CONNACK, b"\0\0" + b"\3" + struct.pack("!BH", 0x21, 1))
    yield wire
    ours.close()
    theirs.close()


def test_our_reader_of_publish_is_the_one_that_paho_calls(wire: Wire) -> None:
    messages: list[Message] = []
    wire.client.on_publish_packet = messages.append
    wire.send(PUBLISH | QOS1, b"\0\1t" + b"\0\7" + b"\0" + b"payload")
    assert messages == [Message("t", b"payload", 1, False, None)], said("_handle_publish")
    assert wire.packets() == [PUBACK], said("_send_puback")


def test_our_reader_of_puback_is_the_one_that_paho_calls_and_frees_the_place(wire: Wire) -> None:
    answers: list[tuple[int, list[int]]] = []
    wire.client.on_puback = lambda packet_id, codes: answers.append((packet_id, list(codes)))
    first, second = (wire.client.publish("t", b"x", 1).mid for _ in range(2))
    assert wire.packets() == [PUBLISH | QOS1], said("_max_inflight_messages")
    wire.send(PUBACK, struct.pack("!HB", first, 0x10))
    assert answers == [(first, [0x10])], said("_handle_pubackcomp")
    assert wire.packets() == [PUBLISH | QOS1], said("_update_inflight")
    wire.send(PUBACK, struct.pack("!H", second))
    assert answers[1:] == [(second, [0])]
    assert not wire.client._out_messages, said("_out_messages")


def test_an_answer_to_nothing_that_was_sent_changes_nothing(wire: Wire) -> None:
    wire.send(PUBACK, struct.pack("!H", 99))
    assert wire.client._inflight_messages == 0, said("_inflight_messages")
