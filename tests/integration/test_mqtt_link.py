"""What only MQTT over TLS has: certificates, TCP, a broker that freezes."""

import datetime as dt
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aimass.errors import ConfigError, ConnectError
from aimass.transport import TlsFiles
from aimass.transport.backoff import Backoff
from aimass.transport.mqtt import MqttTransport
from aimass.transport.stream import TlsStream, tls_context
from tests.fakes.certs import TestCa
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.relay import Relay
from tests.fakes.waiting import until

pytestmark = pytest.mark.integration
QUICK = {"first_s": 0.01, "max_s": 0.1}
Connect = Callable[..., MqttTransport]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path, max_inflight=5) as broker:
        yield broker


@pytest.fixture
def connect(broker: Mosquitto) -> Iterator[Connect]:
    made: list[MqttTransport] = []

    def make(identity: str, tls: TlsFiles, port: int = 0, keepalive_s: int = 30) -> MqttTransport:
        transport = MqttTransport(
            identity, "localhost", port or broker.port, tls, keepalive_s=keepalive_s, backoff=Backoff(**QUICK)
        )
        made.append(transport)
        transport.start()
        return transport

    yield make
    for transport in made:
        transport.close()


def install(files: TlsFiles, at: TlsFiles) -> None:
    shutil.copy(files.cert, at.cert)
    shutil.copy(files.key, at.key)


def test_a_foreign_certificate_is_refused_until_the_right_one_is_there(
    broker: Mosquitto, connect: Connect, tmp_path: Path
) -> None:
    foreign = TestCa(tmp_path / "foreign", "Foreign root").issue("gw-1")
    files = TlsFiles(broker.ca.ca_file, foreign.cert, foreign.key)
    transport = connect("gw-1", files)
    until(lambda: transport.last_error is not None)
    assert not transport.connected
    install(broker.identity("gw-1"), files)
    until(lambda: transport.connected, "the connection with the right certificate")
    assert transport.last_error is None


def test_an_expired_certificate_is_refused_and_a_renewed_one_is_used_at_once(
    broker: Mosquitto, connect: Connect
) -> None:
    expired = broker.ca.issue("gw-1", valid_for=dt.timedelta(seconds=-1), age=dt.timedelta(minutes=5), stem="old")
    transport = connect("gw-1", expired)
    until(lambda: transport.last_error is not None)
    assert not transport.connected
    install(broker.identity("gw-1"), expired)
    transport.reconnect_now()
    until(lambda: transport.connected)


def test_a_broker_with_a_foreign_certificate_gets_nothing(broker: Mosquitto, connect: Connect, tmp_path: Path) -> None:
    ours = broker.identity("gw-1")
    stranger = TestCa(tmp_path / "stranger", "Another root")
    transport = connect("gw-1", TlsFiles(stranger.ca_file, ours.cert, ours.key))
    until(lambda: transport.last_error is not None)
    assert isinstance(transport.last_error, ConnectError)
    assert "CERTIFICATE_VERIFY_FAILED" in str(transport.last_error)


def test_missing_certificate_files_are_named_and_waited_for(
    broker: Mosquitto, connect: Connect, tmp_path: Path
) -> None:
    files = TlsFiles(broker.ca.ca_file, tmp_path / "cert.pem", tmp_path / "key.pem")
    transport = connect("gw-1", files)
    until(lambda: isinstance(transport.last_error, ConfigError))
    install(broker.identity("gw-1"), files)
    until(lambda: transport.connected)


def test_a_frozen_broker_is_found_out_by_the_keepalive(broker: Mosquitto, connect: Connect) -> None:
    transport = connect("gw-1", broker.identity("gw-1"), keepalive_s=1)
    until(lambda: transport.connected)
    broker.freeze()
    until(lambda: not transport.connected, "the loss", timeout_s=8)
    broker.thaw()
    until(lambda: transport.connected, "the return")


def test_a_reset_in_the_middle_of_a_large_message_only_costs_that_message(broker: Mosquitto, connect: Connect) -> None:
    with Relay("127.0.0.1", broker.port) as relay:
        transport = connect("gw-1", broker.identity("gw-1"), relay.port)
        heard: list[int] = []
        transport.subscribe("t", lambda m: heard.append(len(m.payload)))
        until(lambda: transport.connected)
        relay.stall()
        receipt = transport.publish("t", bytes(4_000_000), qos=1)
        relay.cut()
        until(lambda: receipt.done)
        relay.resume()
        until(lambda: transport.connected)
        transport.publish("t", bytes(4_000_000), qos=1).wait(10)
        until(lambda: heard)
        assert heard == [4_000_000]


def test_more_messages_than_the_broker_takes_at_once_all_arrive(broker: Mosquitto, connect: Connect) -> None:
    receiver = connect("gw-2", broker.identity("gw-2"))
    heard: list[bytes] = []
    receiver.subscribe("t", lambda m: heard.append(m.payload))
    sender = connect("gw-1", broker.identity("gw-1"))
    until(lambda: sender.connected and receiver.connected)
    receipts = [sender.publish("t", b"%d" % i, qos=1) for i in range(300)]
    for receipt in receipts:
        receipt.wait(10)
    until(lambda: len(heard) == 300)
    assert heard == [b"%d" % i for i in range(300)]


def test_messages_for_an_absent_session_are_kept_for_it(broker: Mosquitto, connect: Connect) -> None:
    sender = connect("gw-1", broker.identity("gw-1"))
    with Relay("127.0.0.1", broker.port) as relay:
        receiver = connect("gw-2", broker.identity("gw-2"), relay.port)
        heard: list[bytes] = []
        receiver.subscribe("t", lambda m: heard.append(m.payload))
        until(lambda: sender.connected and receiver.connected)
        relay.cut()
        until(lambda: not receiver.connected)
        sender.publish("t", b"while you were away", qos=1, expiry_s=60).wait(5)
        relay.resume()
        until(lambda: heard)
        assert heard == [b"while you were away"]


def test_nagle_is_off_and_the_stream_reads_what_was_written(broker: Mosquitto) -> None:
    stream = TlsStream.connect("localhost", broker.port, tls_context(broker.identity("gw-1")), 5)
    assert stream._tls.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with pytest.raises(BlockingIOError):
        stream.recv(1)
    assert stream.pending() == 0
    stream.close()
    assert stream.pending() == 0


def test_no_thread_is_left_after_close(broker: Mosquitto, connect: Connect) -> None:
    before = threading.active_count()
    transport = connect("gw-1", broker.identity("gw-1"))
    until(lambda: transport.connected)
    assert threading.active_count() == before + 1
    transport.close()
    assert threading.active_count() == before


def test_nobody_on_the_port_is_a_connect_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectError):
        TlsStream.connect("localhost", port, ssl.create_default_context(), 1)


def test_closing_does_not_wait_for_a_broker_that_does_not_answer(broker: Mosquitto, connect: Connect) -> None:
    with Relay("127.0.0.1", broker.port) as relay:
        relay.stall()
        transport = connect("gw-1", broker.identity("gw-1"), relay.port)
        until(lambda: relay.accepted)
        started = time.monotonic()
        transport.close()
        assert time.monotonic() - started < 2
