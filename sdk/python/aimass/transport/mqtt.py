"""MQTT 5 over mutual TLS. The only module that knows paho.

paho is used as a codec with protocol state, by its interface for external event loops: our network thread selects and
reads, and a fresh paho client is made for each connection. So

* nothing of an old connection can be sent again on a new one: a message whose receipt failed stays failed,
* more than 1,024 open files are no problem (paho's own loop uses ``select``),
* what users registered runs after paho has returned, outside its locks,
* a publish is written by the thread that asks for it when nobody else is writing, which saves a hand-off.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from aimass.errors import ConnectError, FrameError, LinkDownError, OverloadError, TransportError
from aimass.transport.backoff import Backoff
from aimass.transport.base import Message, TlsFiles, Will
from aimass.transport.link import Connection, ConnectionEvents, LinkTransport
from aimass.transport.publish import PublishProperties, read_publish
from aimass.transport.stream import TlsStream, tls_context
from aimass.transport.subscriptions import Subscription

CONNECT_TIMEOUT_S = 5.0
LARGEST_MQTT_PACKET_BYTES = 268_435_455
MiB = 1024 * 1024


class MqttTransport(LinkTransport):
    """A `Transport` to an MQTT 5 broker.

    Args:
        identity: common name of our certificate, used as client id.
        host: the broker's name, as its certificate has it.
        port: of its TLS listener.
        tls: certificate files, read at each connect.
        will: published by the broker when we vanish.
        keepalive_s: a silent link is found dead after at most twice this time.
        session_expiry_s: how long the broker keeps our subscriptions and their messages while we are away. 0 for a
            dispatcher: messages parked for a dead one would be answered by nobody.
        receive_maximum: unacknowledged messages that the broker may have under way to us.
        max_incoming_bytes: largest packet we take; the broker drops larger ones in silence.
        max_in_flight: bound of messages that the broker has not acknowledged; more raise `OverloadError`.
        max_in_flight_bytes: bound of their payloads together.
        backoff: pauses between attempts to connect.
    """

    def __init__(
        self,
        identity: str,
        host: str,
        port: int,
        tls: TlsFiles,
        *,
        will: Will | None = None,
        keepalive_s: int = 30,
        session_expiry_s: int = 60,
        receive_maximum: int = 100,
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
            backoff=backoff or Backoff(),
        )
        self._host = host
        self._port = port
        self._tls = tls
        self._will = will
        self._keepalive_s = keepalive_s
        self._session_expiry_s = session_expiry_s
        self._receive_maximum = receive_maximum

    def _open(self) -> Connection:
        stream = TlsStream.connect(self._host, self._port, tls_context(self._tls), CONNECT_TIMEOUT_S)
        client = _Client(self.identity, stream)
        if self._will is not None:
            properties = Properties(PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = self._will.delay_s
            client.will_set(self._will.topic, self._will.payload, self._will.qos, self._will.retain, properties)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._session_expiry_s
        properties.ReceiveMaximum = self._receive_maximum
        properties.MaximumPacketSize = self.max_incoming_bytes
        client.connect_async(
            self._host,
            self._port,
            self._keepalive_s,
            # A session opened with clean start is never persisted by mosquitto, whatever its expiry.
            clean_start=self._session_expiry_s == 0,
            properties=properties,
        )
        return PahoConnection(client, stream, self, keepalive_s=self._keepalive_s)


class PahoConnection:
    """One connection: a paho client that was handed an open stream. See `aimass.transport.link.Connection`."""

    def __init__(self, client: _Client, stream: TlsStream, events: ConnectionEvents, *, keepalive_s: int) -> None:
        self._client = client
        self._stream = stream
        self._events = events
        self._misc_period_s = min(1.0, keepalive_s / 10)
        self._misc_at = 0.0
        self._accepted = False
        self._lost: TransportError | None = None
        self._reported: deque[Callable[[], None]] = deque()
        self._writing = threading.Lock()
        self._owner = 0
        self._ear, self._bell = socket.socketpair()
        self._ear.setblocking(False)
        self._bell.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ear, selectors.EVENT_READ)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish_packet = self._on_message
        client.on_publish = self._on_publish
        client.on_puback = self._note_answer
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_socket_register_write = _ignore  # paho then leaves all writing to us
        client.reconnect()
        self._selector.register(stream, selectors.EVENT_READ)

    # --- Connection

    def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes | None, expiry_s: int | None
    ) -> int:
        """Queue a message."""
        properties = PublishProperties(correlation, expiry_s)
        info = self._client.publish(topic, payload, qos, retain, properties)
        return self._packet_id(info.rc, info.mid)

    def subscribe(self, subscriptions: Sequence[Subscription]) -> int:
        """Queue a subscribe."""
        filters = [(s.topic_filter, SubscribeOptions(qos=s.qos)) for s in subscriptions]
        return self._packet_id(*self._client.subscribe(filters))

    def unsubscribe(self, topic_filter: str) -> int:
        """Queue an unsubscribe."""
        return self._packet_id(*self._client.unsubscribe(topic_filter))

    def flush(self) -> None:
        """Write what is queued, unless we are inside `serve` (which does it at its end) or somebody else is at it."""
        if threading.get_ident() != self._owner and not self._write():
            self.wake()

    def serve(self, timeout_s: float) -> None:
        """Wait, read, report, write, keep alive."""
        self._owner = threading.get_ident()
        self._watch(write=not self._write())
        ready = self._selector.select(0 if self._stream.pending() else min(timeout_s, self._misc_period_s))
        for key, mask in ready:
            if key.fileobj is self._ear:
                self._hush()
            elif mask & selectors.EVENT_READ:
                self._client.loop_read()
        self._report()
        while self._stream.pending() and self._lost is None:
            self._client.loop_read()
            self._report()
        now = time.monotonic()
        if now >= self._misc_at:
            self._misc_at = now + self._misc_period_s
            self._client.loop_misc()
        if self._lost is not None:
            raise self._lost

    def wake(self) -> None:
        """Have `serve` return soon."""
        with contextlib.suppress(OSError):  # full: it rings already; closed: nobody is served any more
            self._bell.send(b"\0")

    def close(self) -> None:
        """Disconnect and free the sockets."""
        if self._lost is None:
            self._client.disconnect()
            self._write()
        self._stream.close()
        self._selector.close()
        self._ear.close()
        self._bell.close()

    # --- inside

    def _packet_id(self, code: int, packet_id: int | None) -> int:
        if code == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise OverloadError("every packet id is in flight")
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or packet_id is None:
            raise LinkDownError("the link is just going down")
        return packet_id

    def _write(self) -> bool:
        """Write until nothing is queued (True) or the kernel takes no more (False).

        True also when somebody else is writing: they look again after they have let go of the lock, so nothing that
        was queued before we looked is left behind.
        """
        while self._client.want_write():
            if not self._writing.acquire(blocking=False):
                return True
            try:
                self._client.loop_write()
                full = self._client.want_write()
            finally:
                self._writing.release()
            if full:
                return False
        return True

    def _watch(self, *, write: bool) -> None:
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if write else 0)
        if self._selector.get_key(self._stream).events != mask:
            self._selector.modify(self._stream, mask)

    def _hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ear.recv(4096)

    def _report(self) -> None:
        while self._reported:
            self._reported.popleft()()
            self._write()

    # --- paho's callbacks: they only note, because paho holds locks while it calls them

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._lost = ConnectError(f"the broker refused the connection: {reason}", reason_code=reason.value)
            return
        self._accepted = True
        self._client.limit_in_flight(getattr(properties, "ReceiveMaximum", 65535))
        max_packet_bytes = getattr(properties, "MaximumPacketSize", LARGEST_MQTT_PACKET_BYTES)
        self._reported.append(lambda: self._events.accepted(max_packet_bytes))

    def _on_disconnect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._lost is None:
            said = "the connection was closed" if str(reason) == "Unspecified error" else str(reason)
            cause = self._stream.error or said
            if self._accepted:
                self._lost = LinkDownError(f"the link to the broker was lost: {cause}")
            else:  # with TLS 1.3 the broker's refusal of our certificate comes after our half of the handshake
                self._lost = ConnectError(f"the broker hung up on us: {cause}")

    def _on_message(self, message: Message) -> None:
        self._reported.append(lambda: self._events.arrived(message))

    def _on_publish(self, _client: Any, _userdata: Any, packet_id: int, reason: Any, _properties: Any) -> None:
        self._note_answer(packet_id, [reason.value])

    def _on_subscribe(self, _client: Any, _userdata: Any, packet_id: int, reasons: Any, _properties: Any) -> None:
        self._note_answer(packet_id, [reason.value for reason in reasons])

    def _on_unsubscribe(self, _client: Any, _userdata: Any, packet_id: int, _reasons: Any, _properties: Any) -> None:
        self._note_answer(packet_id, [0])

    def _note_answer(self, packet_id: int, reason_codes: Sequence[int]) -> None:
        self._reported.append(lambda: self._events.answered(packet_id, reason_codes))
        if threading.get_ident() != self._owner:  # a QoS 0 message that the publishing thread wrote itself
            self.wake()


class _Client(paho.Client):  # type: ignore[misc]
    """A paho client on a stream that is open already, with quicker readers for the two packets of the hot path.

    These are overridden inner methods, for want of public ones (the contract suite runs over the real thing): paho
    makes its own sockets only, its reader of PUBLISH copies the payload about nine times (1.7 ms at 1 MiB), and its
    reader of PUBACK builds objects for half the processor time of a small message. QoS 2 is never used, so PUBCOMP
    never comes.
    """

    def __init__(self, identity: str, stream: TlsStream) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id=identity, protocol=paho.MQTTv5)
        self._stream = stream
        self.on_publish_packet: Callable[[Message], None] = _ignore
        self.on_puback: Callable[[int, Sequence[int]], None] = _ignore

    def limit_in_flight(self, receive_maximum: int) -> None:
        """Obey the broker's receive maximum; paho ignores it, and its public setter refuses while connecting."""
        self._max_inflight_messages = receive_maximum

    def _create_socket(self) -> TlsStream:
        return self._stream

    def _handle_pubackcomp(self, _name: str) -> Any:
        body = self._in_packet["packet"]
        if len(body) < 2:
            raise MalformedPacket("a PUBACK that is cut off")
        packet_id = body[0] << 8 | body[1]
        with self._out_message_mutex:
            if self._out_messages.pop(packet_id, None) is None:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            self._inflight_messages -= 1
            self.on_puback(packet_id, [body[2] if len(body) > 2 else 0])
            return self._update_inflight()

    def _handle_publish(self) -> Any:
        packet = self._in_packet
        try:
            message, packet_id = read_publish(packet["command"], packet["packet"])
        except FrameError as exc:
            raise MalformedPacket(str(exc)) from exc
        self.on_publish_packet(message)
        return self._send_puback(packet_id) if message.qos else MQTTErrorCode.MQTT_ERR_SUCCESS


def _ignore(*_args: Any) -> None:
    """For paho's wish to be told when to write: whoever queues a packet flushes."""
