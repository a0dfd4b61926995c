"""Which model is wanted where."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from aimass.errors import NotFoundError
from aimass_cloud.store.records import DeploymentRecord
from aimass_cloud.store.tables import DeploymentRow


class SqlDeployments:
    """Fulfils :class:`~aimass_cloud.store.base.DeploymentStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self, *, model: str, version: int | None, alias: str | None, device: str | None, now_ms: int, created_by: str
    ) -> DeploymentRecord:
        """Adds a wish and ends the older one of the same model and target."""
        same = (DeploymentRow.model == model, DeploymentRow.device.is_not_distinct_from(device))
        self._session.execute(
            update(DeploymentRow).where(*same, DeploymentRow.ended_at_ms.is_(None)).values(ended_at_ms=now_ms)
        )
        row = DeploymentRow(
            model=model, version=version, alias=alias, device=device, created_at_ms=now_ms, created_by=created_by
        )
        self._session.add(row)
        self._session.flush()
        return _record(row)

    def get(self, deployment: int) -> DeploymentRecord:
        """The record; NotFoundError when there is none."""
        return _record(self._row(deployment))

    def list(self, *, active: bool = True, after: int = 0, limit: int | None = None) -> Sequence[DeploymentRecord]:
        """In order of id; without the ended ones when ``active``."""
        query = select(DeploymentRow).where(DeploymentRow.id > after).order_by(DeploymentRow.id).limit(limit)
        if active:
            query = query.where(DeploymentRow.ended_at_ms.is_(None))
        return [_record(row) for row in self._session.scalars(query)]

    def for_device(self, device: str) -> Sequence[DeploymentRecord]:
        """The active ones that name this device or all, oldest first."""
        target = or_(DeploymentRow.device.is_(None), DeploymentRow.device == device)
        query = select(DeploymentRow).where(target, DeploymentRow.ended_at_ms.is_(None)).order_by(DeploymentRow.id)
        return [_record(row) for row in self._session.scalars(query)]

    def end(self, deployment: int, *, now_ms: int) -> None:
        """Ends it; no effect when it has ended."""
        row = self._row(deployment)
        if row.ended_at_ms is None:
            row.ended_at_ms = now_ms
        self._session.flush()

    def _row(self, deployment: int) -> DeploymentRow:
        row = self._session.get(DeploymentRow, deployment)
        if row is None:
            raise NotFoundError(f"no deployment {deployment}")
        return row


def _record(row: DeploymentRow) -> DeploymentRecord:
    return DeploymentRecord(
        id=row.id,
        model=row.model,
        version=row.version,
        alias=row.alias,
        device=row.device,
        created_at_ms=row.created_at_ms,
        created_by=row.created_by,
        ended_at_ms=row.ended_at_ms,
    )
