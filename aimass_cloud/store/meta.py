"""Single values of the store itself."""

from __future__ import annotations

from sqlalchemy.orm import Session

from aimass.errors import StoreError
from aimass_cloud.store.tables import MetaRow

EPOCH = "epoch"


class SqlMeta:
    """Fulfils :class:`~aimass_cloud.store.base.MetaStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, key: str) -> str | None:
        """The value, or None."""
        row = self._session.get(MetaRow, key)
        return None if row is None else row.value

    def put(self, key: str, value: str) -> None:
        """Sets it."""
        self._session.merge(MetaRow(key=key, value=value))
        self._session.flush()

    def epoch(self) -> int:
        """Unix milliseconds of when this store was made or last restored."""
        value = self.get(EPOCH)
        if value is None:
            raise StoreError("the store has no epoch: it was not opened by SqlStore.open")
        return int(value)
