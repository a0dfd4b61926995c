"""The fleet's members: listed, shown, removed."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from aimass.errors import NotFoundError
from aimass_cloud.broker.dynsec import Role
from aimass_cloud.fleet.presence import Presence
from aimass_cloud.store.base import Store, Transaction
from aimass_cloud.store.records import (
    CertificateRecord,
    DesiredRecord,
    DeviceRecord,
    ReportedRecord,
    StoredEvent,
    StreamHead,
)
from aimass_cloud.usecases.base import Accounts, Clock, Outlet, Page, now_ms, page_of

log = logging.getLogger(__name__)


class Watch(Protocol):
    """Who is there, as the fleet's connection sees it."""

    def presence(self, identity: str) -> Presence:
        """What to believe about an identity now."""

    def telemetry(self, identity: str) -> Mapping[str, Any]:
        """The last of each kind of telemetry."""

    def forget(self, identity: str) -> None:
        """The identity was removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """All that is known about one identity."""

    record: DeviceRecord
    presence: Presence
    desired: DesiredRecord | None
    reported: ReportedRecord | None
    certificate: CertificateRecord | None
    telemetry: Mapping[str, Any]
    streams: tuple[StreamHead, ...]

    @property
    def in_sync(self) -> bool | None:
        """Whether what it reported is for the desired document it has now; None before it reported anything."""
        if self.reported is None:
            return None
        if self.desired is None:
            return True
        return (self.reported.epoch, self.reported.version) == (self.desired.epoch, self.desired.version)


class Devices:
    """The fleet's members.

    Args:
        store: kept state.
        watch: presence and telemetry.
        accounts: the broker's identities.
        outlet: clears what a removed device left at the broker.
        on_revoked: writes the revocation list and has the broker read it.
        clock: unix seconds.
    """

    def __init__(
        self,
        store: Store,
        watch: Watch,
        accounts: Accounts,
        outlet: Outlet,
        *,
        on_revoked: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._watch = watch
        self._accounts = accounts
        self._outlet = outlet
        self._on_revoked = on_revoked
        self._clock = clock
        self._turn = threading.Lock()

    def page(self, *, role: Role = Role.DEVICE, after: str = "", limit: int = 100) -> Page[DeviceView]:
        """Members of one kind, by id."""
        with self._store.read() as tx:
            records = list(tx.devices.list(role=role, after=after, limit=limit + 1))
            views = [self._view(tx, record) for record in records]
        return page_of(views, limit, lambda view: view.record.id)

    def get(self, identity: str) -> DeviceView:
        """One member; NotFoundError when there is none."""
        with self._store.read() as tx:
            return self._view(tx, tx.devices.get(identity))

    def events(
        self, identity: str, *, stream: str | None = None, after: int = 0, limit: int = 100
    ) -> Page[StoredEvent]:
        """What its outbox delivered, in the order it was stored; also of one that was removed."""
        with self._store.read() as tx:
            events = list(tx.events.list(identity, stream=stream, after=after, limit=limit + 1))
            if not events and not after and tx.devices.find(identity) is None and not tx.events.heads(identity):
                raise NotFoundError(f"there is no device {identity!r}")
        return page_of(events, limit, lambda event: event.position)

    def remove(self, identity: str) -> list[str]:
        """Lock a device out and forget it, with all its connections (``gw-1`` takes ``gw-1:app`` with it).

        In this order, so that nothing of it can come back in between: revoke, revocation list, broker. Its events stay.

        Returns:
            the identities that were removed.

        Raises:
            NotFoundError: there is none.
            TransportError: the broker cannot be reached; the certificates are revoked all the same, and the same call
                may be repeated.
        """
        with self._turn:
            now = now_ms(self._clock)
            with self._store.write() as tx:
                if tx.devices.get(identity).role == Role.CONTROL:
                    raise NotFoundError(f"there is no device {identity!r}")
                members = [item.id for item in tx.devices.family(identity)]
                for member in members:
                    tx.certificates.revoke(member, now_ms=now, reason="removed")
            self._on_revoked()
            for member in members:
                self._accounts.remove(member)
            with self._store.write() as tx:
                for member in members:
                    tx.devices.remove(member)
            for member in members:
                self._watch.forget(member)
                self._outlet.clear(member)
        log.info("removed %s", ", ".join(members))
        return members

    def _view(self, tx: Transaction, record: DeviceRecord) -> DeviceView:
        usable = tx.certificates.usable(record.id, now_ms=now_ms(self._clock))
        return DeviceView(
            record=record,
            presence=self._watch.presence(record.id),
            desired=tx.twins.desired(record.id),
            reported=tx.twins.reported(record.id),
            certificate=usable[0] if usable else None,
            telemetry=self._watch.telemetry(record.id),
            streams=tuple(tx.events.heads(record.id)),
        )


def document_of(record: ReportedRecord) -> dict[str, Any]:
    """A reported document as values; it was JSON when it was stored."""
    document: dict[str, Any] = json.loads(record.document)
    return document
