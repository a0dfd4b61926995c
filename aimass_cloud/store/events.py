"""Outbox records of devices: each stored once, in order, without a hole that nobody knows of.

A stream is (device, stream, stream id); the stream id is made with the device's outbox file, so a device that lost its
file begins a new stream. For each stream the *head* is kept: everything up to it is stored, or a gap record says why
not. Because the head moves in the transaction that stores the rows, a record can neither be stored twice nor be
acknowledged without being stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from aimass_cloud.store.identities import deleted
from aimass_cloud.store.records import EventBatch, EventRecord, StoredEvent, StreamHead
from aimass_cloud.store.tables import EventRow, HeadRow


class SqlEvents:
    """Fulfils :class:`~aimass_cloud.store.base.EventStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def ingest(self, batches: Sequence[EventBatch]) -> Sequence[StreamHead]:
        """Stores what continues each stream without a hole and answers each batch's head."""
        return [self._ingest(batch) for batch in batches]

    def heads(self, device: str) -> Sequence[StreamHead]:
        """All streams of a device."""
        query = select(HeadRow).where(HeadRow.device == device).order_by(HeadRow.stream, HeadRow.updated_at_ms)
        return [
            StreamHead(device=device, stream=row.stream, stream_id=row.stream_id, seq=row.seq)
            for row in self._session.scalars(query)
        ]

    def list(
        self, device: str, *, stream: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[StoredEvent]:
        """In the order they were stored, those with a position above ``after``."""
        query = select(EventRow).where(EventRow.device == device, EventRow.position > after)
        if stream is not None:
            query = query.where(EventRow.stream == stream)
        return [_stored(row) for row in self._session.scalars(query.order_by(EventRow.position).limit(limit))]

    def count(self, device: str | None = None) -> int:
        """Stored records, gap records not counted."""
        query = select(func.count()).select_from(EventRow).where(EventRow.kind != "gap")
        if device is not None:
            query = query.where(EventRow.device == device)
        return self._session.execute(query).scalar_one()

    def prune(self, *, received_before_ms: int) -> int:
        """Forgets records received before that time; heads stay."""
        return deleted(self._session.execute(delete(EventRow).where(EventRow.received_at_ms < received_before_ms)))

    def _ingest(self, batch: EventBatch) -> StreamHead:
        head = self._session.get(HeadRow, (batch.device, batch.stream, batch.stream_id))
        records, seq = continuing(batch.records, 0 if head is None else head.seq)
        if records:
            self._session.execute(insert(EventRow), [_row(batch, record) for record in records])
            if head is None:
                head = HeadRow(device=batch.device, stream=batch.stream, stream_id=batch.stream_id)
                self._session.add(head)
            head.seq, head.updated_at_ms = seq, batch.received_at_ms
            self._session.flush()
        return StreamHead(
            device=batch.device, stream=batch.stream, stream_id=batch.stream_id, seq=seq, stored=len(records)
        )


def continuing(records: Iterable[EventRecord], head: int) -> tuple[list[EventRecord], int]:
    """Which records continue a stream that is complete up to ``head``, and the new head.

    What is at or below the head is a duplicate. What comes after a hole is left: the device sends it again once it
    knows the head. A gap record may begin below the head (part of what it gives up for lost had arrived after all).
    """
    taken: list[EventRecord] = []
    for record in sorted(records, key=lambda r: r.seq):
        if record.seq <= head:
            continue
        if record.first_seq > head + 1:
            break
        taken.append(record)
        head = record.seq
    return taken, head


def _row(batch: EventBatch, record: EventRecord) -> dict[str, Any]:
    return {
        "device": batch.device,
        "stream": batch.stream,
        "stream_id": batch.stream_id,
        "seq": record.seq,
        "event_id": record.id,
        "at_ms": record.at_ms,
        "received_at_ms": batch.received_at_ms,
        "kind": record.kind,
        "data": dict(record.data),
    }


def _stored(row: EventRow) -> StoredEvent:
    return StoredEvent(
        position=row.position,
        device=row.device,
        stream=row.stream,
        stream_id=row.stream_id,
        seq=row.seq,
        id=row.event_id,
        at_ms=row.at_ms,
        received_at_ms=row.received_at_ms,
        kind=row.kind,
        data=row.data,
    )
