"""Enrolled identities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import bindparam, delete, or_, select, update
from sqlalchemy.orm import Session

from aimass.errors import NotFoundError
from aimass_cloud.store.records import DeviceRecord, StateWord
from aimass_cloud.store.tables import DeploymentRow, DesiredRow, DeviceRow, TokenRow


class SqlDevices:
    """Fulfils :class:`~aimass_cloud.store.base.DeviceStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, device: str, *, role: str, pool: str, now_ms: int, enrolled: bool = True) -> DeviceRecord:
        """Adds it, or updates role and pool; sets the enrolment time when ``enrolled``."""
        row = self._session.get(DeviceRow, device)
        if row is None:
            row = DeviceRow(id=device, created_at_ms=now_ms, state="", boot="", agent_version="", heartbeat_s=0.0)
            self._session.add(row)
        row.role, row.pool = role, pool
        if enrolled:
            row.enrolled_at_ms = now_ms
        self._session.flush()
        return _record(row)

    def get(self, device: str) -> DeviceRecord:
        """The record; NotFoundError when there is none."""
        return _record(self._row(device))

    def find(self, device: str) -> DeviceRecord | None:
        """The record, or None."""
        row = self._session.get(DeviceRow, device)
        return None if row is None else _record(row)

    def list(self, *, role: str | None = None, after: str = "", limit: int | None = None) -> Sequence[DeviceRecord]:
        """In order of id, those after ``after``."""
        query = select(DeviceRow).where(DeviceRow.id > after).order_by(DeviceRow.id).limit(limit)
        if role is not None:
            query = query.where(DeviceRow.role == role)
        return [_record(row) for row in self._session.scalars(query)]

    def family(self, device: str) -> Sequence[DeviceRecord]:
        """The device and its embedded apps (``{device}:{role}``)."""
        prefix = f"{device}:"
        # ';' follows ':': everything between begins with the prefix
        within = (DeviceRow.id >= prefix) & (DeviceRow.id < f"{device};")
        query = select(DeviceRow).where(or_(DeviceRow.id == device, within)).order_by(DeviceRow.id)
        return [_record(row) for row in self._session.scalars(query)]

    def record_state(self, device: str, word: StateWord) -> None:
        """Keeps the last state word; unknown ids are ignored."""
        row = self._session.get(DeviceRow, device)
        if row is None:
            return
        row.state, row.boot = word.state, word.boot
        row.agent_version, row.heartbeat_s = word.agent_version, word.heartbeat_s
        row.state_at_ms = word.received_at_ms
        if word.state != "lost":
            row.evidence_at_ms = max(row.evidence_at_ms or 0, word.received_at_ms)
        self._session.flush()

    def record_evidence(self, heard_at_ms: Mapping[str, int]) -> None:
        """Moves evidence forward for many devices at once; never back."""
        if not heard_at_ms:
            return
        older = or_(DeviceRow.evidence_at_ms.is_(None), DeviceRow.evidence_at_ms < bindparam("heard"))
        statement = (
            update(DeviceRow).where(DeviceRow.id == bindparam("who"), older).values(evidence_at_ms=bindparam("heard"))
        )
        self._session.connection().execute(statement, [{"who": who, "heard": at} for who, at in heard_at_ms.items()])
        self._session.expire_all()

    def remove(self, device: str) -> None:
        """Forgets it; see the protocol for what stays."""
        self._session.delete(self._row(device))  # the reported document goes with it
        self._session.execute(delete(TokenRow).where(TokenRow.identity == device))
        self._session.execute(delete(DeploymentRow).where(DeploymentRow.device == device))
        # Only the counter stays: a device of this id that comes back has seen these versions and takes newer ones only.
        self._session.execute(update(DesiredRow).where(DesiredRow.device == device).values(content="", envelope=None))
        self._session.flush()

    def _row(self, device: str) -> DeviceRow:
        row = self._session.get(DeviceRow, device)
        if row is None:
            raise NotFoundError(f"no device {device!r}", hint="list them with 'aimass device list'")
        return row


def _record(row: DeviceRow) -> DeviceRecord:
    return DeviceRecord(
        id=row.id,
        role=row.role,
        pool=row.pool,
        created_at_ms=row.created_at_ms,
        enrolled_at_ms=row.enrolled_at_ms,
        evidence_at_ms=row.evidence_at_ms,
        state=row.state,
        state_at_ms=row.state_at_ms,
        boot=row.boot,
        agent_version=row.agent_version,
        heartbeat_s=row.heartbeat_s,
    )
