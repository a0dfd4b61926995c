"""The cloud's own connection to the broker: takes in what devices say, keeps it, acknowledges it.

    network thread     presence (a dictionary), everything else into a bounded queue
    ingest thread      a batch from the queue -> one transaction -> acknowledgements
    outlet thread      desired documents out; repairs after each new link

An acknowledgement leaves only after the transaction is durable, so what a device deletes from its outbox is here. When
the store fails, nothing is acknowledged and the batch is tried again; when the queue is full, events are dropped
unacknowledged and the device sends them again.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aimass.errors import AimassError, WireError
from aimass.transport.base import Message, Transport
from aimass.wire import topics
from aimass_cloud.fleet.inbox import EventNews, HeartbeatNews, News, ReportedNews, StateNews, TelemetryNews, read_news
from aimass_cloud.fleet.presence import Moment, Presence, PresenceBook, PresenceRules, State
from aimass_cloud.store.base import Store
from aimass_cloud.store.records import DeviceRecord, StreamHead

log = logging.getLogger(__name__)

KINDS = ("state", "reported", "event", "telemetry")
MAX_QUEUED = 20_000
MAX_QUEUED_BYTES = 64 << 20
MAX_BATCH = 500
TICK_S = 0.5
"""How often presence is looked over; a batch of messages is taken at once."""
EVIDENCE_EVERY_S = 5.0
"""How often evidence is written. Only a restart needs it, and each write costs a sync of the disk."""
RETRY_S = 1.0
MAX_TELEMETRY_NAMES = 16
MAX_POOL_NODES = 1000


def this_moment() -> Moment:
    """Now, on both clocks."""
    return Moment(time.monotonic(), round(time.time() * 1000))


class FleetControl:
    """The fleet, live. Fulfils :class:`aimass_cloud.usecases.devices.Watch`.

    Args:
        transport: the link, identity ``svc:control``; started by whoever made it.
        store: kept state.
        epoch: of the store; goes into each acknowledgement.
        rules: presence times.
        moment: both clocks.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store,
        *,
        epoch: int,
        rules: PresenceRules | None = None,
        moment: Callable[[], Moment] = this_moment,
    ) -> None:
        self._transport = transport
        self._store = store
        self._epoch = epoch
        self._moment = moment
        self._lock = threading.Lock()
        self._book = PresenceBook(rules, _known(store))
        self._heard: dict[str, int] = {}
        self._telemetry: dict[str, dict[str, Any]] = {}
        self._pools: dict[str, dict[str, Any]] = {}
        self._counts: Counter[str] = Counter()
        self._queue: queue.Queue[tuple[News, int]] = queue.Queue(MAX_QUEUED)
        self._queued_bytes = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fleet-ingest", daemon=True)
        for kind in KINDS:
            transport.subscribe(topics.device_filter(kind), self._arrived)
        transport.subscribe(f"{topics.ROOT}/cloud/state/+", self._pool_arrived)
        transport.on_link(self._link_changed)

    def start(self) -> None:
        """Begin to take in."""
        self._thread.start()

    def close(self) -> None:
        """Stop after what is queued is stored; evidence is written."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    # looking

    def presence(self, identity: str) -> Presence:
        """What to believe about an identity now."""
        with self._lock:
            return self._book.at(identity, self._moment())

    def telemetry(self, identity: str) -> Mapping[str, Any]:
        """The last of each kind of telemetry, with its time."""
        with self._lock:
            return dict(self._telemetry.get(identity, {}))

    def pools(self) -> Mapping[str, Any]:
        """The last word of each pool worker."""
        with self._lock:
            return dict(self._pools)

    def forget(self, identity: str) -> None:
        """The identity was removed."""
        with self._lock:
            self._book.forget(identity)
            self._heard.pop(identity, None)
            self._telemetry.pop(identity, None)

    def counts(self) -> Mapping[str, int]:
        """Counters since start: ``messages.KIND``, ``events.stored``, ``dropped.REASON``, ``store.failures``."""
        with self._lock:
            return dict(self._counts)

    # on the network thread

    def _arrived(self, message: Message) -> None:
        now = self._moment()
        try:
            news = read_news(message, now.wall_ms)
        except WireError as exc:
            log.warning("a message on %s makes no sense: %s", message.topic[:200], exc)
            self._count("dropped.malformed")
            return
        if news is None:
            return
        with self._lock:
            self._counts[f"messages.{type(news).__name__.removesuffix('News').lower()}"] += 1
            is_wanted = self._note(news, now, is_live=not message.retained)
        if is_wanted:
            self._enqueue(news, len(message.payload))

    def _note(self, news: News, now: Moment, *, is_live: bool) -> bool:
        """Draw the conclusions for presence; whether the news are to be stored."""
        match news:
            case StateNews() if not is_live:
                return False  # what the broker kept says nothing about now (fleet/presence.py)
            case StateNews(identity, word) if word.state == "lost":
                return self._book.lost(identity, word.boot)
            case StateNews(identity, word) if word.state == "offline":
                self._book.farewell(identity, now, word.boot)
            case StateNews(identity, word):
                self._book.heard(identity, now, word.boot, word.heartbeat_s)
            case HeartbeatNews(identity, boot):
                self._book.heard(identity, now, boot)
            case TelemetryNews() | EventNews() | ReportedNews() if is_live:
                self._book.heard(news.identity, now)
            case _:
                pass
        if is_live:
            self._heard[news.identity] = now.wall_ms
        if isinstance(news, TelemetryNews):
            self._keep_telemetry(news)
        return isinstance(news, StateNews | ReportedNews | EventNews)

    def _keep_telemetry(self, news: TelemetryNews) -> None:
        kept = self._telemetry.setdefault(news.identity, {})
        if news.name in kept or len(kept) < MAX_TELEMETRY_NAMES:
            kept[news.name] = {"at_ms": news.at_ms, "data": news.data}

    def _enqueue(self, news: News, size: int) -> None:
        if self._queued_bytes + size > MAX_QUEUED_BYTES:
            self._count("dropped.queue_bytes")
            return
        try:
            self._queue.put_nowait((news, size))
        except queue.Full:
            self._count("dropped.queue_full")
            return
        with self._lock:
            self._queued_bytes += size

    def _pool_arrived(self, message: Message) -> None:
        node = topics.parse(message.topic).identity
        try:
            state = json.loads(message.payload) if message.payload else None
        except ValueError:
            self._count("dropped.malformed")
            return
        with self._lock:
            if not isinstance(state, dict):
                self._pools.pop(node, None)
            elif node in self._pools or len(self._pools) < MAX_POOL_NODES:
                self._pools[node] = state

    def _link_changed(self, up: bool) -> None:
        with self._lock:
            self._book.link(up, self._moment())

    # on the ingest thread

    def _run(self) -> None:
        evidence_at = time.monotonic() + EVIDENCE_EVERY_S
        while not self._closed.is_set() or not self._queue.empty():
            try:
                self._ingest()
                self._look_over()
                if time.monotonic() >= evidence_at:
                    evidence_at = time.monotonic() + EVIDENCE_EVERY_S
                    self._write_evidence()
            except Exception:  # the thread must go on: without it nothing that devices send is kept any more
                log.exception("taking in what devices sent failed")
                self._count("dropped.failure")
        self._write_evidence()

    def _ingest(self) -> None:
        batch = self._take()
        while batch and not self._store_batch(batch):
            if self._closed.wait(RETRY_S):
                return

    def _take(self) -> list[News]:
        batch: list[News] = []
        size = 0
        try:
            while len(batch) < MAX_BATCH:
                news, news_size = self._queue.get_nowait() if batch else self._queue.get(timeout=TICK_S)
                batch.append(news)
                size += news_size
        except queue.Empty:
            pass
        with self._lock:
            self._queued_bytes -= size
        return batch

    def _store_batch(self, batch: Sequence[News]) -> bool:
        """Store and acknowledge; False when the store failed and the same batch is worth another try."""
        try:
            heads = self._write(batch)
        except AimassError as exc:
            self._count("store.failures")
            if exc.retryable or len(batch) == 1:
                log.error("cannot store what devices sent: %s", exc)  # noqa: TRY400  the message is enough
                return not exc.retryable
            # One of them cannot be stored: find it, so that the others are not lost with it.
            outcomes = [self._store_batch([news]) for news in batch]
            return all(outcomes)
        newest = {(head.device, head.stream, head.stream_id): head for head in heads}
        for head in newest.values():
            self._acknowledge(head)
        return True

    def _write(self, batch: Sequence[News]) -> Sequence[StreamHead]:
        with self._store.write() as tx:
            known = {name for name in {news.identity for news in batch} if tx.devices.find(name) is not None}
            wanted = [news for news in batch if news.identity in known]
            for news in wanted:
                if isinstance(news, StateNews):
                    tx.devices.record_state(news.identity, news.word)
                elif isinstance(news, ReportedNews):
                    tx.twins.put_reported(news.record)
            heads = tx.events.ingest([news.batch for news in wanted if isinstance(news, EventNews)])
        with self._lock:
            self._counts["events.stored"] += sum(head.stored for head in heads)
            self._counts["dropped.unknown_device"] += len(batch) - len(wanted)
        return heads

    def _acknowledge(self, head: StreamHead) -> None:
        ack = {"stream": head.stream, "stream_id": head.stream_id, "seq": head.seq, "epoch": self._epoch}
        try:
            self._transport.publish(topics.ack(head.device), json.dumps(ack).encode(), qos=1)
        except AimassError as exc:
            # The device asks again, at the next link or after a while.
            log.debug("an acknowledgement for %s was not sent: %s", head.device, exc)

    def _look_over(self) -> None:
        """Tell of devices that came and went; forget those that are none (a last message of one just removed)."""
        with self._lock:
            changed = self._book.changed(self._moment())
        if not changed:
            return
        with self._store.read() as tx:
            known = {identity for identity, _ in changed if tx.devices.find(identity) is not None}
        for identity, presence in changed:
            if identity in known:
                log.info("%s is %s", identity, presence.state)
            else:
                self.forget(identity)

    def _write_evidence(self) -> None:
        with self._lock:
            heard, self._heard = self._heard, {}
        if not heard:
            return
        try:
            with self._store.write() as tx:
                tx.devices.record_evidence(heard)
        except AimassError as exc:
            log.error("cannot store evidence, will try again: %s", exc)  # noqa: TRY400  the message is enough
            with self._lock:
                self._heard = {**heard, **self._heard}

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def _known(store: Store) -> dict[str, Presence]:
    """What the last run of the cloud had concluded."""
    with store.read() as tx:
        return {record.id: _presence_of(record) for record in tx.devices.list()}


def _presence_of(record: DeviceRecord) -> Presence:
    evidence, said_at = record.evidence_at_ms, record.state_at_ms
    if evidence is None:
        return Presence(State.NEVER, None, None)
    state, since = State.ONLINE, said_at if record.state == "online" and said_at is not None else evidence
    if record.state in {"offline", "lost"} and said_at is not None and said_at >= evidence:
        state, since = State.OFFLINE, said_at if record.state == "offline" else evidence
    return Presence(state, since, evidence, record.boot, record.heartbeat_s)
