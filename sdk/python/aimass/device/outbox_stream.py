"""The rules of one outbox stream: sequence, bounds, gaps, acknowledgement, rewind.

Works inside a transaction that the outbox opened; the file is the truth, and what is counted here in memory is read
from it again whenever a transaction failed.

A *gap* is a row that stands for records which will never be sent: its ``seq`` is the last of them, ``first_seq`` the
first. So the numbers the cloud sees have no holes it was not told of. Rows up to ``acked_seq`` are *kept* for a while,
for a cloud that comes back from a backup; they are the first to go when room is needed.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from enum import StrEnum

from aimass.device.outbox_file import OutboxFile, StreamState
from aimass.errors import NoSpaceError

GAP = "gap"
_ROW_OVERHEAD_BYTES = 96  # id, times, numbers and the page's share
_SANE_AT_MS = 1_577_836_800_000  # 2020: a clock that says less was never set, and its times say nothing of age


class StreamFullError(NoSpaceError):
    """The stream's own bound was reached, not the disk's."""


class DropPolicy(StrEnum):
    """What gives way when a stream is full."""

    DROP_OLDEST = "drop_oldest"
    REJECT_NEW = "reject_new"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """The bounds of one stream.

    Attributes:
        max_bytes: of all rows, kept ones too.
        max_rows: not acknowledged yet.
        max_age_s: older records that are not acknowledged give way; None for no such bound.
        policy: what gives way when rows or bytes reach their bound.
        max_kept_bytes: acknowledged rows kept for a cloud that comes back from a backup.
        max_kept_rows: likewise.
        max_kept_age_s: likewise; a backup older than this leaves a gap.
    """

    max_bytes: int = 64 * 1024 * 1024
    max_rows: int = 100_000
    max_age_s: float | None = 30 * 86400.0
    policy: DropPolicy = DropPolicy.DROP_OLDEST
    max_kept_bytes: int = 16 * 1024 * 1024
    max_kept_rows: int = 20_000
    max_kept_age_s: float = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Record:
    """One row on its way to the cloud; ``data`` is JSON text."""

    seq: int
    first_seq: int
    id: str
    at_ms: int
    kind: str
    data: str

    @property
    def is_gap(self) -> bool:
        """Whether it stands for records that are lost."""
        return self.kind == GAP

    def to_json(self) -> str:
        """As it is sent."""
        head = json.dumps({"seq": self.seq, "id": self.id, "at_ms": self.at_ms, "kind": self.kind})
        return f'{head[:-1]}, "data": {self.data}}}'


class Stream:
    """One stream of an open file. The caller holds the file's lock, and a transaction where rows change."""

    def __init__(self, file: OutboxFile, state: StreamState, limits: StreamLimits) -> None:
        self.state = state
        self.limits = limits
        self._file = file
        self.pending_rows = self.pending_bytes = self.pending_gaps = self.kept_rows = self.kept_bytes = 0
        self._count()

    def append(self, kind: str, data: str, at_ms: int, record_id: str) -> int:
        """Add a record, making room by the stream's policy; one whose id is there already is not added again.

        Raises:
            StreamFullError: the stream is full and rejects new records.
        """
        there = self._seq_of(record_id)
        if there is not None:
            return there
        size = row_bytes(kind, data)
        self._drop_aged(at_ms)
        self._make_room(size, at_ms)
        state = self.state
        seq, state.next_seq = state.next_seq, state.next_seq + 1
        self._insert(Record(seq, seq, record_id, at_ms, kind, data), size)
        state.appended += 1
        self.pending_rows += 1
        self.pending_bytes += size
        self._file.save(state)
        return seq

    def read(self, after_seq: int, max_records: int, max_bytes: int) -> list[Record]:
        """The rows after a position, oldest first; at least one when there is any."""
        cursor = self._file.run(
            "SELECT seq, first_seq, id, at_ms, kind, data FROM records "
            "WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?",
            (self.state.name, after_seq, max_records),
        )
        found: list[Record] = []
        total_bytes = 0
        for row in cursor:
            record = Record(*row)
            total_bytes += len(record.to_json()) + 2
            if found and total_bytes > max_bytes:
                break
            found.append(record)
        return found

    def acknowledge(self, seq: int, epoch: int, now_ms: int) -> bool:
        """The cloud says that it holds everything up to ``seq``.

        Returns:
            Whether the position changed; the sender goes on from it.
        """
        state = self.state
        if state.epoch is not None and epoch < state.epoch:
            return False
        is_newer, state.epoch = state.epoch is None or epoch > state.epoch, epoch
        if seq >= state.next_seq:
            self._renumber(seq)
        elif seq > state.acked_seq:
            self._advance(seq)
        elif seq < state.acked_seq and is_newer:
            self._rewind(seq, now_ms)
        elif not is_newer:
            return False
        else:
            self._file.save(state)
            return False
        self._trim_kept(now_ms)
        self._file.save(state)
        return True

    def expire(self, now_ms: int) -> None:
        """Let go of what is too old."""
        self._drop_aged(now_ms)
        self._trim_kept(now_ms)
        self._file.save(self.state)

    def begin_with_gap(self, count: int | None, lost_stream_id: str, now_ms: int) -> None:
        """Make the first row say that an earlier file was lost, with so many records at least (None: nobody knows)."""
        data = {"from": 1, "to": 1, "count": count or 1, "reason": "damaged", "at_least": True}
        if lost_stream_id:
            data["lost_stream_id"] = lost_stream_id
        self._insert_gap(1, 1, data, now_ms)
        self.state.next_seq = 2
        self.state.dropped += count or 0
        self._file.save(self.state)

    def _make_room(self, size: int, at_ms: int) -> None:
        limits = self.limits
        if size > limits.max_bytes:  # nothing that could be dropped would make room for it
            raise StreamFullError(f"a record of {size} bytes is above the bound of stream {self.state.name}")
        while self.pending_rows >= limits.max_rows or self._total_bytes() + size > limits.max_bytes:
            if self.kept_rows and self.pending_rows < limits.max_rows:
                self._evict_kept(1)
            elif limits.policy is DropPolicy.REJECT_NEW:
                raise StreamFullError(
                    f"stream {self.state.name} is full ({self.pending_rows} records, {self._total_bytes()} bytes)",
                    hint="raise the stream's bound, or let it drop the oldest",
                )
            else:
                self._drop_oldest("rows" if self.pending_rows >= limits.max_rows else "bytes", at_ms)

    def _drop_aged(self, now_ms: int) -> None:
        if self.limits.max_age_s is None or now_ms < _SANE_AT_MS:
            return
        oldest_ms = now_ms - round(self.limits.max_age_s * 1000)
        while (row := self._oldest()) is not None and _SANE_AT_MS <= row[2] < oldest_ms:
            self._drop_oldest("age", now_ms)

    def _drop_oldest(self, reason: str, now_ms: int) -> None:
        """Let the oldest record go, and let the gap before it, if there is one, speak for it too."""
        row = self._oldest()
        assert row is not None
        seq, size, _ = row
        name = self.state.name
        first, count, reasons = seq, 1, {reason}
        before = self._file.run(
            "SELECT first_seq, data FROM records WHERE stream = ? AND seq = ? AND kind = ?", (name, seq - 1, GAP)
        ).fetchone()
        self._delete("seq = ?", seq)
        if before is not None and seq - 1 > self.state.acked_seq:
            told = json.loads(before[1])
            first, count, reasons = before[0], told["count"] + 1, {*told["reason"].split("+"), reason}
            self._delete("seq = ?", seq - 1)
            self.pending_gaps -= 1
        data = {"from": first, "to": seq, "count": count, "reason": "+".join(sorted(reasons))}
        self._insert_gap(first, seq, data, now_ms)
        self.pending_rows -= 1
        self.pending_bytes -= size
        self.state.dropped += 1

    def _advance(self, seq: int) -> None:
        state = self.state
        moved, moved_bytes, gaps = self._sums(state.acked_seq, seq)
        fresh, _, _ = self._sums(max(state.acked_seq, state.acked_high), seq)
        state.acked += fresh
        state.acked_seq = seq
        state.acked_high = max(state.acked_high, seq)
        self.pending_rows -= moved
        self.pending_bytes -= moved_bytes
        self.pending_gaps -= gaps
        self.kept_rows += moved
        self.kept_bytes += moved_bytes

    def _rewind(self, seq: int, now_ms: int) -> None:
        """The cloud came back from a backup: what it has forgotten is owed again, as far as it was kept."""
        state = self.state
        first = self._file.run(
            "SELECT MIN(first_seq) FROM records WHERE stream = ? AND seq > ?", (state.name, seq)
        ).fetchone()[0]
        there = state.acked_seq + 1 if first is None else min(first, state.acked_seq + 1)
        state.acked_seq = seq
        state.rewound += 1
        if there > seq + 1:
            data = {"from": seq + 1, "to": there - 1, "count": there - 1 - seq, "reason": "evicted"}
            self._insert_gap(seq + 1, there - 1, data, now_ms)
            state.evicted += there - 1 - seq
        self._count()

    def _renumber(self, seq: int) -> None:
        """The cloud holds numbers that we do not know to have given: this file went back in time (a disk that lies).

        What is still owed moves behind them. Some of it may be stored twice; its ids tell. The other way round new
        records would be taken for ones the cloud has, and be lost in silence.
        """
        state = self.state
        shift = seq - state.acked_seq
        self._delete("seq <= ?", state.acked_seq)  # kept rows would leave an untold hole before the moved ones
        rows = self._file.run(
            "SELECT seq, first_seq, kind, data FROM records WHERE stream = ? AND seq > ? ORDER BY seq DESC",
            (state.name, state.acked_seq),
        ).fetchall()
        for old, first, kind, data in rows:
            if kind == GAP:
                data = json.dumps({**json.loads(data), "from": first + shift, "to": old + shift})
            self._file.run(
                "UPDATE records SET seq = ?, first_seq = ?, data = ? WHERE stream = ? AND seq = ?",
                (old + shift, first + shift, data, state.name, old),
            )
        state.next_seq += shift
        state.acked_seq = state.acked_high = state.sent_seq = seq
        self._count()

    def _trim_kept(self, now_ms: int) -> None:
        limits = self.limits
        self._evict_kept(self.kept_rows - limits.max_kept_rows)
        while self.kept_bytes > limits.max_kept_bytes:
            self._evict_kept(1)
        oldest_ms = now_ms - round(limits.max_kept_age_s * 1000)
        self._delete_kept("at_ms < ? AND at_ms >= ?", oldest_ms, _SANE_AT_MS)

    def _evict_kept(self, count: int) -> None:
        if count <= 0:
            return
        last = self._file.run(
            "SELECT seq FROM records WHERE stream = ? AND seq <= ? ORDER BY seq LIMIT 1 OFFSET ?",
            (self.state.name, self.state.acked_seq, count - 1),
        ).fetchone()
        self._delete_kept("seq <= ?", self.state.acked_seq if last is None else last[0])

    def _delete_kept(self, condition: str, *values: int) -> None:
        state = self.state
        where = f"stream = ? AND seq <= ? AND {condition}"
        rows, size = self._file.run(
            f"SELECT COUNT(*) - SUM(kind = 'gap'), SUM(size) FROM records WHERE {where}",  # noqa: S608 - ours
            (state.name, state.acked_seq, *values),
        ).fetchone()
        if rows is None:
            return
        self._delete(f"seq <= ? AND {condition}", state.acked_seq, *values)
        self.kept_rows -= rows
        self.kept_bytes -= size

    def _delete(self, condition: str, *values: int) -> None:
        self._file.run(f"DELETE FROM records WHERE stream = ? AND {condition}", (self.state.name, *values))  # noqa: S608

    def _insert(self, record: Record, size: int) -> None:
        self._file.run(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.state.name,
                record.seq,
                record.first_seq,
                record.id,
                record.at_ms,
                record.kind,
                record.data,
                size,
            ),
        )

    def _insert_gap(self, first: int, last: int, data: dict[str, object], now_ms: int) -> None:
        # A gap counts no bytes: what reports a loss must never be what causes one.
        self._insert(Record(last, first, uuid.uuid4().hex, now_ms, GAP, json.dumps(data)), 0)
        self.pending_gaps += 1

    def _seq_of(self, record_id: str) -> int | None:
        sql = "SELECT seq FROM records WHERE stream = ? AND id = ?"
        row = self._file.run(sql, (self.state.name, record_id)).fetchone()
        return None if row is None else int(row[0])

    def _oldest(self) -> tuple[int, int, int] | None:
        """Sequence, size and time of the oldest record that is still owed."""
        row = self._file.run(
            "SELECT seq, size, at_ms FROM records WHERE stream = ? AND seq > ? AND kind <> 'gap' ORDER BY seq LIMIT 1",
            (self.state.name, self.state.acked_seq),
        ).fetchone()
        return None if row is None else (int(row[0]), int(row[1]), int(row[2]))

    def _sums(self, after_seq: int, to_seq: int) -> tuple[int, int, int]:
        """Records, their bytes, and gaps in a range."""
        rows, size, gaps = self._file.run(
            "SELECT COUNT(*), COALESCE(SUM(size), 0), COALESCE(SUM(kind = 'gap'), 0) FROM records "
            "WHERE stream = ? AND seq > ? AND seq <= ?",
            (self.state.name, after_seq, to_seq),
        ).fetchone()
        return rows - gaps, size, gaps

    def _count(self) -> None:
        self.kept_rows, self.kept_bytes, _ = self._sums(0, self.state.acked_seq)
        self.pending_rows, self.pending_bytes, self.pending_gaps = self._sums(self.state.acked_seq, self.state.next_seq)

    def _total_bytes(self) -> int:
        return self.pending_bytes + self.kept_bytes


def row_bytes(kind: str, data: str) -> int:
    """What a record counts against its stream's bound."""
    return len(kind) + len(data) + _ROW_OVERHEAD_BYTES
