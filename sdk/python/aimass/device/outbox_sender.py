"""Sends what the outbox holds and takes the cloud's acknowledgements.

At each link-up the device asks, for each stream, how far the cloud's store goes, and sends from there: in order, a few
batches ahead of the acknowledgements. PUBACK only says that the broker took a message, so nothing here waits for it;
what counts is the cumulative acknowledgement of the cloud's store. Without one for a while, all is sent again from the
last acknowledged position; the cloud stores each sequence number once.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aimass.device.outbox import Outbox, Record
from aimass.errors import AimassError, LinkDownError, StoreError
from aimass.transport.base import Message, Receipt, Transport
from aimass.wire import topics

log = logging.getLogger(__name__)

_MAX_WAITING_ACKS = 1000
_EXPIRE_EVERY_S = 60.0
_RETRY_S = 0.5  # after an overload of the link, or a failing disk
_FRAME_BYTES = 128  # the JSON around the records


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderSettings:
    """How the outbox is sent.

    Attributes:
        window: batches on their way without an acknowledgement.
        batch_records: in one message at most.
        max_payload_bytes: of one message; every broker takes 64 KiB.
        ack_timeout_s: without an acknowledgement for this long, it is sent again; doubles each time.
        max_ack_timeout_s: the longest such time; it bounds how late a cloud that came back is noticed.
    """

    window: int = 4
    batch_records: int = 50
    max_payload_bytes: int = 64 * 1024
    ack_timeout_s: float = 5.0
    max_ack_timeout_s: float = 15.0


@dataclass(slots=True)
class _Cursor:
    """Where the sending of one stream stands on this connection."""

    timeout_s: float
    is_known: bool = False
    asked_at: float | None = None
    acked: int = 0
    after: int = 0
    in_flight: deque[int] = field(default_factory=deque)
    progress_at: float = 0.0


class OutboxSender:
    """Empties an outbox over a link, in a thread of its own.

    Args:
        outbox: what is owed.
        transport: the link. Not started yet, or it tells at once that it is up.
        settings: how to send.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        *,
        settings: SenderSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._settings = settings or SenderSettings()
        self._clock = clock
        self._changed = threading.Condition()
        self._acks: deque[bytes] = deque(maxlen=_MAX_WAITING_ACKS)
        self._has_news = False
        self._is_new_link = True
        self._is_closed = False
        self._cursors: dict[str, _Cursor] = {}
        self._expire_at = 0.0
        self._thread: threading.Thread | None = None

    @property
    def is_idle(self) -> bool:
        """Whether the cloud has everything."""
        return self._outbox.pending() == 0

    def listen(self) -> None:
        """Take acknowledgements, link changes and appends as signs to go on; part of :meth:`start`."""
        self._transport.subscribe(topics.ack(self._transport.identity), self._ack_arrived)
        self._transport.on_link(self._link_changed)
        self._outbox.on_append(self._appended)

    def start(self) -> None:
        """Begin to send."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aimass-outbox", daemon=True)
            self._thread.start()
            self.listen()

    def close(self) -> None:
        """Stop sending; what is owed stays in the outbox."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until the cloud has everything.

        Returns:
            False when the time was over first.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self.is_idle or self._is_closed, timeout_s) and self.is_idle

    def step(self) -> float:
        """Do what is to be done now.

        Returns:
            Seconds after which there may be more to do, if nothing happens before.
        """
        now = self._clock()
        self._take_acks(now)
        with self._changed:
            if self._is_new_link:
                self._cursors.clear()
                self._is_new_link = False
        if now >= self._expire_at:
            self._outbox.expire()
            self._expire_at = now + _EXPIRE_EVERY_S
        wait_s = self._expire_at - now
        if self._transport.connected:
            for stream in self._outbox.streams():
                wait_s = min(wait_s, self._advance(stream, now))
        return max(wait_s, 0.0)

    def _run(self) -> None:
        wait_s = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_news or self._is_closed, wait_s)
                self._has_news = False
                if self._is_closed:
                    return
            try:
                wait_s = self.step()
            except StoreError as exc:
                log.warning("the outbox cannot be read or written: %s", exc)
                wait_s = _RETRY_S
            except Exception:  # supervisor: records that are never sent again would be worse than a repeated message
                log.exception("sending the outbox failed in an unforeseen way")
                wait_s = _RETRY_S
            with self._changed:
                self._changed.notify_all()  # for wait_idle

    def _advance(self, stream: str, now: float) -> float:
        """Ask or send for one stream; seconds until it needs attention again."""
        cursor = self._cursors.setdefault(stream, _Cursor(self._settings.ack_timeout_s))
        try:
            if not cursor.is_known:
                return self._ask(stream, cursor, now)
            return self._send(stream, cursor, now)
        except LinkDownError:
            return math.inf  # the next link-up wakes us
        except AimassError as exc:
            if isinstance(exc, StoreError):
                raise
            log.debug("stream %s was not sent: %s", stream, exc)
            return _RETRY_S

    def _ask(self, stream: str, cursor: _Cursor, now: float) -> float:
        if cursor.asked_at is not None:
            if now < cursor.asked_at + cursor.timeout_s:
                return cursor.asked_at + cursor.timeout_s - now
            self._slow_down(cursor)
        self._publish(stream, [])
        cursor.asked_at = now
        return cursor.timeout_s

    def _send(self, stream: str, cursor: _Cursor, now: float) -> float:
        if cursor.in_flight and now >= cursor.progress_at + cursor.timeout_s:
            log.info("stream %s: no acknowledgement for %.0f s; sending again", stream, cursor.timeout_s)
            cursor.in_flight.clear()
            cursor.after = cursor.acked
            self._slow_down(cursor)
        settings = self._settings
        while len(cursor.in_flight) < settings.window:
            records = self._outbox.read(
                stream,
                cursor.after,
                max_records=settings.batch_records,
                max_bytes=settings.max_payload_bytes - _FRAME_BYTES,
            )
            if not records:
                break
            self._publish(stream, records)
            self._outbox.mark_sent(stream, records)
            if not cursor.in_flight:
                cursor.progress_at = now
            cursor.after = records[-1].seq
            cursor.in_flight.append(cursor.after)
        return cursor.progress_at + cursor.timeout_s - now if cursor.in_flight else math.inf

    def _publish(self, stream: str, records: Sequence[Record]) -> None:
        rows = ",".join(record.to_json() for record in records)
        payload = f'{{"stream_id": "{self._outbox.stream_id}", "records": [{rows}]}}'.encode()
        receipt = self._transport.publish(topics.event(self._transport.identity, stream), payload, qos=1)
        receipt.add_done_callback(_log_refusal)

    def _slow_down(self, cursor: _Cursor) -> None:
        cursor.timeout_s = min(cursor.timeout_s * 2, self._settings.max_ack_timeout_s)

    def _take_acks(self, now: float) -> None:
        while True:
            try:
                payload = self._acks.popleft()
            except IndexError:
                return
            try:
                body = json.loads(payload)
                stream, stream_id = str(body["stream"]), str(body["stream_id"])
                seq, epoch = int(body["seq"]), int(body["epoch"])
            except (ValueError, KeyError, TypeError, RecursionError):
                log.warning("an acknowledgement that is none was ignored (%d bytes)", len(payload))
                continue
            if stream_id == self._outbox.stream_id:
                self._outbox.acknowledge(stream, stream_id, seq, epoch)
                self._follow(stream, now)

    def _follow(self, stream: str, now: float) -> None:
        """Bring the cursor to where the outbox now knows the cloud to be."""
        cursor = self._cursors.get(stream)
        if cursor is None:
            return
        acked = self._outbox.acked(stream)
        if not cursor.is_known or acked < cursor.acked:  # the first answer, or a cloud that came back from a backup
            cursor.is_known = True
            cursor.after = acked
            cursor.in_flight.clear()
            cursor.timeout_s = self._settings.ack_timeout_s
        elif acked > cursor.acked:
            cursor.after = max(cursor.after, acked)
            while cursor.in_flight and cursor.in_flight[0] <= acked:
                cursor.in_flight.popleft()
            cursor.progress_at = now
            cursor.timeout_s = self._settings.ack_timeout_s
        cursor.acked = acked

    def _ack_arrived(self, message: Message) -> None:  # on the network thread: only a sign to ours
        self._acks.append(message.payload)
        self._tell()

    def _link_changed(self, is_up: bool) -> None:
        if is_up:
            with self._changed:
                self._is_new_link = True
            self._tell()

    def _appended(self, stream: str) -> None:
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._has_news = True
            self._changed.notify_all()


def _log_refusal(receipt: Receipt) -> None:
    if receipt.error is not None and not isinstance(receipt.error, LinkDownError):
        log.debug("the broker did not pass outbox records on: %s", receipt.error)
