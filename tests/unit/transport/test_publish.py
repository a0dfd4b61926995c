"""Our reader and writer of PUBLISH packets against paho's, which wrote the bytes here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from aimass.errors import FrameError
from aimass.transport import Message
from aimass.transport.publish import PublishProperties, read_publish

topics = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=40)
correlations = st.none() | st.binary(max_size=64)


def properties(correlation: bytes | None, **others: object) -> Properties:
    out = Properties(PacketTypes.PUBLISH)
    if correlation is not None:
        out.CorrelationData = correlation
    for name, value in others.items():
        setattr(out, name, value)
    return out


def body(topic: str, packed: bytes, payload: bytes, packet_id: int | None) -> bytes:
    name = topic.encode()
    number = b"" if packet_id is None else packet_id.to_bytes(2, "big")
    return len(name).to_bytes(2, "big") + name + number + packed + payload


@given(correlations, st.none() | st.integers(0, 2**32 - 1))
def test_properties_are_packed_as_paho_packs_them(correlation: bytes | None, expiry_s: int | None) -> None:
    others = {} if expiry_s is None else {"MessageExpiryInterval": expiry_s}
    assert PublishProperties(correlation, expiry_s).pack() == properties(correlation, **others).pack()


@given(topics, st.binary(max_size=300), correlations, st.integers(0, 1), st.booleans())
def test_packets_are_read_back(topic: str, payload: bytes, correlation: bytes | None, qos: int, retained: bool) -> None:
    packed = properties(correlation, MessageExpiryInterval=7).pack()
    packet = body(topic, packed, payload, 258 if qos else None)
    message, packet_id = read_publish(0x30 | qos << 1 | retained, packet)
    assert message == Message(topic, payload, qos, retained, correlation)
    assert packet_id == (258 if qos else 0)


def test_properties_of_others_are_skipped() -> None:
    others = properties(
        b"corr",
        PayloadFormatIndicator=1,
        MessageExpiryInterval=9,
        ContentType="application/x",
        ResponseTopic="r/t",
        SubscriptionIdentifier=[300],
        UserProperty=[("a", "b"), ("c", "d" * 200)],
    )
    message, _ = read_publish(0x32, body("t", others.pack(), b"payload", 1))
    assert message == Message("t", b"payload", 1, False, b"corr")


@given(st.integers(0, 255), st.binary(max_size=80))
def test_garbage_is_read_or_refused_by_name(first_byte: int, packet: bytes) -> None:
    try:
        message, _ = read_publish(first_byte, packet)
    except FrameError:
        return
    assert len(message.payload) <= len(packet)


@pytest.mark.parametrize("cut", range(1, 22))
def test_every_cut_inside_the_header_is_refused(cut: int) -> None:
    packet = body("topic", properties(b"0123456").pack(), b"", 1)
    assert len(packet) >= 20
    if cut < len(packet):
        with pytest.raises(FrameError):
            read_publish(0x32, packet[:-cut])


def test_a_property_of_another_packet_type_and_qos_2_are_refused() -> None:
    with pytest.raises(FrameError):
        read_publish(0x30, body("t", b"\x02\x12\x00", b"", None))
    with pytest.raises(FrameError):
        read_publish(0x34, body("t", b"\x00", b"", 1))
