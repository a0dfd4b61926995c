"""Desired and reported documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from aimass_cloud.store.meta import SqlMeta
from aimass_cloud.store.records import DesiredRecord, ReportedRecord
from aimass_cloud.store.tables import DesiredRow, DeviceRow, ReportedRow


class SqlTwins:
    """Fulfils :class:`~aimass_cloud.store.base.TwinStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put_desired(
        self, device: str, content: str, seal: Callable[[int, int], bytes], *, now_ms: int
    ) -> tuple[DesiredRecord, bool]:
        """Makes the next document when ``content`` differs from the last, or the store's epoch is newer."""
        epoch = SqlMeta(self._session).epoch()
        row = self._session.get(DesiredRow, device)
        if row is None:
            row = DesiredRow(device=device, epoch=epoch, version=0, content="", envelope=None)
            self._session.add(row)
        elif row.epoch == epoch and row.content == content and row.envelope is not None:
            return _desired(row, row.envelope), False
        row.version = row.version + 1 if row.epoch == epoch else 1
        row.epoch, row.content, row.updated_at_ms = epoch, content, now_ms
        envelope = row.envelope = seal(epoch, row.version)
        self._session.flush()
        return _desired(row, envelope), True

    def desired(self, device: str) -> DesiredRecord | None:
        """The current document, or None."""
        row = self._session.get(DesiredRow, device)
        return None if row is None or row.envelope is None else _desired(row, row.envelope)

    def list_desired(self) -> Sequence[DesiredRecord]:
        """All current documents, by device."""
        rows = self._session.scalars(
            select(DesiredRow).where(DesiredRow.envelope.is_not(None)).order_by(DesiredRow.device)
        )
        return [_desired(row, row.envelope) for row in rows if row.envelope is not None]

    def put_reported(self, record: ReportedRecord) -> None:
        """Keeps what the device said last; that of an unknown device is ignored."""
        if self._session.get(DeviceRow, record.device) is None:
            return
        self._session.merge(
            ReportedRow(
                device=record.device,
                epoch=record.epoch,
                version=record.version,
                boot=record.boot,
                at_ms=record.at_ms,
                received_at_ms=record.received_at_ms,
                document=record.document,
            )
        )
        self._session.flush()

    def reported(self, device: str) -> ReportedRecord | None:
        """What the device said last, or None."""
        row = self._session.get(ReportedRow, device)
        return None if row is None else _reported(row)

    def list_reported(self) -> Sequence[ReportedRecord]:
        """All of them, by device."""
        return [_reported(row) for row in self._session.scalars(select(ReportedRow).order_by(ReportedRow.device))]


def _desired(row: DesiredRow, envelope: bytes) -> DesiredRecord:
    return DesiredRecord(
        device=row.device,
        epoch=row.epoch,
        version=row.version,
        content=row.content,
        envelope=envelope,
        updated_at_ms=row.updated_at_ms,
    )


def _reported(row: ReportedRow) -> ReportedRecord:
    return ReportedRecord(
        device=row.device,
        epoch=row.epoch,
        version=row.version,
        boot=row.boot,
        at_ms=row.at_ms,
        received_at_ms=row.received_at_ms,
        document=row.document,
    )
