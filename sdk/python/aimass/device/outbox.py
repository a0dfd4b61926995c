"""What this party still owes the cloud, on disk until the cloud says that it has it.

Once :meth:`Outbox.append` returned, the record survives a crash, a power cut (on a disk that honours flushes), the
loss of the broker and a restart of the cloud. It is delivered at least once and stored once. A record is lost only by
a stream's own policy, and each loss is told to the cloud with its range.

Appends of several threads share one transaction: who finds the file free writes everything that waits, the others
find their record written. Nobody waits for company when there is none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimass.device.files import make_folder
from aimass.device.outbox_file import OutboxFile, StreamState
from aimass.device.outbox_stream import GAP, DropPolicy, Record, Stream, StreamFullError, StreamLimits
from aimass.errors import AimassError, FrameError, InputError, NoSpaceError, StoreError
from aimass.wire.header import read_json
from aimass.wire.ids import check_name

__all__ = ["DropPolicy", "Outbox", "Record", "StreamCounters", "StreamLimits"]

log = logging.getLogger(__name__)

MAX_RECORD_BYTES = 48 * 1024
"""With its frame it fits a message of 64 KiB, which every broker takes."""

_MAX_BATCH = 50
_MAX_STREAMS = 64
_MAX_NESTING = 16
_MAX_NUMBER = 2**53  # what JSON readers of any language take for a whole number
_LOST_STREAM_ID, _LOST_COUNTS = "lost_stream_id", "lost_counts"


@dataclass(frozen=True, slots=True)
class StreamCounters:
    """What became of a stream's records since the file was made; gaps are not counted as records.

    Attributes:
        appended: taken from the application.
        sent: handed to the link at least once.
        acked: confirmed by the cloud.
        pending: still owed, gaps too.
        dropped: given up by the stream's policy, or lost with a damaged file; each is in a gap.
        rejected: refused because the stream was full; the caller was told.
        failed: refused because the disk was full or failed, since this process started; the caller was told.
        rewound: times a cloud came back from a backup and asked again.
        evicted: asked for again and not kept any more; each is in a gap.
    """

    appended: int
    sent: int
    acked: int
    pending: int
    dropped: int
    rejected: int
    failed: int
    rewound: int
    evicted: int


class _Waiting:
    """One record on its way into the file."""

    __slots__ = ("at_ms", "data", "error", "id", "is_done", "kind", "seq", "stream")

    def __init__(self, stream: str, kind: str, data: str, at_ms: int, id_: str) -> None:
        self.stream, self.kind, self.data, self.at_ms, self.id = stream, kind, data, at_ms, id_
        self.seq = 0
        self.error: AimassError | None = None
        self.is_done = False


class Outbox:
    """The outbox of one home. Safe to use from several threads; one process at a time.

    Args:
        path: the database file; its folder is made when absent.
        limits: bounds of single streams by name.
        default_limits: of all others.
        now: Unix time in seconds.
        max_file_bytes: the file never grows above this.

    Raises:
        ConflictError: another process uses it.
        StoreError: it cannot be opened. A damaged file is no error: it is moved aside and reported as a gap.
    """

    def __init__(
        self,
        path: Path,
        *,
        limits: Mapping[str, StreamLimits] | None = None,
        default_limits: StreamLimits | None = None,
        now: Callable[[], float] = time.time,
        max_file_bytes: int = 1024 * 1024 * 1024,
    ) -> None:
        make_folder(path.parent)
        self._limits = dict(limits or {})
        self._default_limits = default_limits or StreamLimits()
        self._now = now
        self._file = OutboxFile(path, max_bytes=max_file_bytes)
        self._streams: dict[str, Stream] = {}
        self._queue: list[_Waiting] = []
        self._queue_lock = threading.Lock()
        self._failed: dict[str, int] = {}
        self._callbacks: list[Callable[[str], None]] = []
        self._is_closed = False
        self._load()
        if self._file.damage is not None:
            self._note_damage()

    @property
    def stream_id(self) -> str:
        """Made with the file: the cloud counts sequences for each of them."""
        return self._file.stream_id

    def on_append(self, callback: Callable[[str], None]) -> None:
        """Have the callback called with the stream's name after each record, on the appending thread: be quick."""
        self._callbacks.append(callback)

    def append(self, stream: str, kind: str, data: Mapping[str, Any], *, id: str = "") -> int:  # noqa: A002
        """Keep a record until the cloud has it.

        Args:
            stream: name of the stream; made by its first record.
            kind: what the record is; ``gap`` is ours.
            data: a JSON object.
            id: the record's name in its stream; made here when left out. A record whose name is in the file already
                (owed, or acknowledged and kept) is not kept twice: so a call that was cut off can be repeated.

        Returns:
            The record's sequence number, or that of the record which has the name. It is durable now.

        Raises:
            InputError: a name or the data cannot be sent.
            FrameTooLargeError: above 48 KiB as JSON.
            NoSpaceError: the disk is full, or the stream is full and rejects new records. Counted.
            StoreError: the disk fails. Counted.
        """
        own_id = check_name(id, "record id") if id else uuid.uuid4().hex
        waiting = _Waiting(check_name(stream, "stream"), kind, _as_json(kind, data), self._now_ms(), own_id)
        with self._queue_lock:
            self._queue.append(waiting)
        while not waiting.is_done:
            with self._file.lock:
                if not waiting.is_done:
                    self._write_waiting()
        if waiting.error is not None:
            raise waiting.error
        for callback in self._callbacks:
            callback(stream)
        return waiting.seq

    def read(self, stream: str, after_seq: int, *, max_records: int = 50, max_bytes: int = 60 * 1024) -> list[Record]:
        """The records after a position, oldest first; at least one when there is any."""
        with self._file.lock:
            known = self._streams.get(stream)
            return [] if known is None or self._is_closed else known.read(after_seq, max_records, max_bytes)

    def acked(self, stream: str) -> int:
        """The cloud has everything up to here."""
        with self._file.lock:
            known = self._streams.get(stream)
            return 0 if known is None else known.state.acked_seq

    def acknowledge(self, stream: str, stream_id: str, seq: int, epoch: int) -> bool:
        """Take the cloud's word for what it has stored.

        Args:
            stream: the stream.
            stream_id: of the file that it speaks of; that of an earlier file is ignored.
            seq: it has everything up to here.
            epoch: of the cloud's store. A newer one may be behind what it once had: then what is kept is owed again.

        Returns:
            Whether the position changed.

        Raises:
            StoreError: the disk fails; the acknowledgement is forgotten, and the next one says it again.
        """
        if stream_id != self.stream_id or not 0 <= seq < _MAX_NUMBER or not 0 <= epoch < _MAX_NUMBER:
            return False
        with self._file.lock:
            known = self._streams.get(stream)
            if known is None or self._is_closed:
                return False
            with self._changing():
                return known.acknowledge(seq, epoch, self._now_ms())

    def mark_sent(self, stream: str, records: list[Record]) -> None:
        """Count records that were handed to the link. Written to disk with the next change of the stream."""
        with self._file.lock:
            known = self._streams.get(stream)
            if known is None or not records:
                return
            state = known.state
            state.sent += sum(1 for record in records if record.seq > state.sent_seq and not record.is_gap)
            state.sent_seq = max(state.sent_seq, records[-1].seq)

    def expire(self) -> None:
        """Let go of what is too old, in all streams.

        Raises:
            StoreError: the disk fails; the next call tries again.
        """
        with self._file.lock:
            if self._streams and not self._is_closed:
                with self._changing():
                    for stream in self._streams.values():
                        stream.expire(self._now_ms())

    def streams(self) -> list[str]:
        """The streams there are."""
        with self._file.lock:
            return sorted(self._streams)

    def pending(self, stream: str | None = None) -> int:
        """Rows still owed, gaps too: of one stream, or of all."""
        with self._file.lock:
            chosen = self._streams.values() if stream is None else filter(None, [self._streams.get(stream)])
            return sum(one.pending_rows + one.pending_gaps for one in chosen)

    def counters(self, stream: str) -> StreamCounters:
        """What became of a stream's records."""
        with self._file.lock:
            known = self._streams.get(stream)
            state = StreamState(stream) if known is None else known.state
            return StreamCounters(
                appended=state.appended,
                sent=state.sent,
                acked=state.acked,
                pending=0 if known is None else known.pending_rows + known.pending_gaps,
                dropped=state.dropped,
                rejected=state.rejected,
                failed=self._failed.get(stream, 0),
                rewound=state.rewound,
                evicted=state.evicted,
            )

    def totals(self) -> dict[str, int]:
        """The counters summed over all streams."""
        with self._file.lock:
            every = [self.counters(name) for name in {*self._streams, *self._failed}]
        return {name: sum(getattr(one, name) for one in every) for name in StreamCounters.__dataclass_fields__}

    def close(self) -> None:
        """Close the file; what is in it stays. Appending afterwards is an error."""
        with self._file.lock:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                with self._file.transaction():
                    for stream in self._streams.values():
                        self._file.save(stream.state)
            except StoreError as exc:
                log.warning("the outbox's counters were not saved: %s", exc)
            self._file.close()

    def _write_waiting(self) -> None:
        """Write what waits in one transaction. Under the file's lock."""
        with self._queue_lock:
            batch, self._queue = self._queue[:_MAX_BATCH], self._queue[_MAX_BATCH:]
        try:
            with self._changing():
                for waiting in batch:
                    self._write(waiting)
        except StoreError as exc:
            for waiting in batch:
                self._failed[waiting.stream] = self._failed.get(waiting.stream, 0) + 1
                waiting.error = type(exc)(exc.message, hint=exc.hint)  # one object for each thread that raises it
        except BaseException:
            for waiting in batch:
                waiting.error = StoreError("the outbox failed while it wrote this record")
            raise
        finally:
            for waiting in batch:
                waiting.is_done = True

    def _write(self, waiting: _Waiting) -> None:
        if self._is_closed:
            raise StoreError("the outbox is closed")
        stream = self._stream(waiting.stream)
        if stream is None:
            waiting.error = NoSpaceError(f"there are {_MAX_STREAMS} streams already", hint="use fewer stream names")
            return
        try:
            waiting.seq = stream.append(waiting.kind, waiting.data, waiting.at_ms, waiting.id)
        except StreamFullError as exc:  # the stream's policy; the others in this batch are not concerned
            waiting.error = exc
            stream.state.rejected += 1
            self._file.save(stream.state)

    def _stream(self, name: str) -> Stream | None:
        known = self._streams.get(name)
        if known is not None:
            return known
        if len(self._streams) >= _MAX_STREAMS:
            return None
        stream = Stream(self._file, StreamState(name), self._limits.get(name, self._default_limits))
        lost_id = self._file.meta(_LOST_STREAM_ID)
        if lost_id is not None:
            counts = json.loads(self._file.meta(_LOST_COUNTS) or "{}")
            stream.begin_with_gap(counts.get(name), lost_id, self._now_ms())
        self._streams[name] = stream
        return stream

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """A transaction after whose failure what is counted in memory is read again from the file."""
        try:
            with self._file.transaction():
                yield
        except BaseException:
            self._load()
            raise

    def _load(self) -> None:
        with self._file.lock:
            self._streams = {
                state.name: Stream(self._file, state, self._limits.get(state.name, self._default_limits))
                for state in self._file.states()
            }

    def _note_damage(self) -> None:
        """Have each stream of the new file begin with a gap; those known by name at once."""
        damage = self._file.damage
        assert damage is not None
        with self._file.lock, self._changing():
            self._file.set_meta(_LOST_STREAM_ID, damage.stream_id)
            self._file.set_meta(_LOST_COUNTS, json.dumps(damage.unacknowledged))
            for name in {*damage.unacknowledged, *self._limits}:
                self._stream(name)

    def _now_ms(self) -> int:
        return max(round(self._now() * 1000), 0)


def _as_json(kind: str, data: Mapping[str, Any]) -> str:
    """The data as the cloud will read it. What it would refuse is refused here, or it would block its stream."""
    check_name(kind, "kind")
    if kind == GAP:
        raise InputError(f"kind {GAP!r} is ours: it stands for lost records")
    try:
        text = json.dumps(dict(data), allow_nan=False, separators=(",", ":"))
        read_json(text.encode(), max_bytes=MAX_RECORD_BYTES, max_nesting=_MAX_NESTING)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InputError(f"the record is not a JSON object: {exc}") from exc
    except FrameError as exc:
        raise InputError(f"the record cannot be sent: {exc.message}") from exc
    return text
