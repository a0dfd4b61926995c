"""Who shall run what: deployments in, one signed desired document for each identity out.

A device's document is made from the deployments to all, overlaid by those to the device, overlaid by those to the
connection itself (``gw-1:app``). A worker holds more: every version that is newest, aliased or deployed, because any
device may offload any of them. A document gets its next version only when what it says has changed; one signature for
each change, and a device that sees the same document twice does nothing.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from aimass.errors import InputError, NotFoundError
from aimass.package.desired import MAX_MODELS, Desired, DesiredModel
from aimass.package.envelope import DESIRED_TYPE, seal
from aimass.package.keys import SigningKey
from aimass.wire.ids import device_of
from aimass_cloud.broker.dynsec import Role
from aimass_cloud.store.base import Store, Transaction
from aimass_cloud.store.records import DeploymentRecord, DesiredRecord, DeviceRecord, VersionRecord
from aimass_cloud.usecases.base import Clock, Outlet, Page, now_ms, page_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentView:
    """A deployment, and the version it means now (an alias may have moved, or be gone: then None)."""

    record: DeploymentRecord
    version: int | None


class Deployments:
    """Keeps the wishes and the documents made from them.

    Args:
        store: kept state.
        control: signs the documents; its public half is pinned on the devices.
        outlet: takes changed documents to the broker.
        clock: unix seconds.
    """

    def __init__(self, store: Store, control: SigningKey, outlet: Outlet, *, clock: Clock) -> None:
        self._store = store
        self._control = control
        self._outlet = outlet
        self._clock = clock
        # Documents leave in the order in which they were made: an older one sent last would stay retained.
        self._turn = threading.Lock()

    def deploy(
        self,
        model: str,
        *,
        version: int | None = None,
        alias: str | None = None,
        device: str | None = None,
        created_by: str = "",
    ) -> DeploymentView:
        """Have a device, or all of them (``device=None``), run a version; the newest when neither is named.

        Raises:
            ModelNotFoundError: no such model, version or alias.
            NotFoundError: no such device.
            InputError: both version and alias are named.
        """
        if version is not None and alias is not None:
            raise InputError("name a version or an alias, not both", hint="an alias already stands for a version")
        now = now_ms(self._clock)
        with self._store.write() as tx:
            if device is not None and tx.devices.get(device).role == Role.CONTROL:
                raise NotFoundError(f"there is no device {device!r}")
            wanted = _resolve(tx, model, version, alias)
            record = tx.deployments.add(
                model=model,
                version=None if alias else wanted,
                alias=alias,
                device=device,
                now_ms=now,
                created_by=created_by,
            )
        self.refresh()
        return DeploymentView(record=record, version=wanted)

    def end(self, deployment: int) -> None:
        """Take a wish back; NotFoundError when there is none."""
        with self._store.write() as tx:
            tx.deployments.end(deployment, now_ms=now_ms(self._clock))
        self.refresh()

    def page(self, *, after: int = 0, limit: int = 100) -> Page[DeploymentView]:
        """The wishes that hold, in order of their making."""
        with self._store.read() as tx:
            records = list(tx.deployments.list(after=after, limit=limit + 1))
            views = [DeploymentView(record=record, version=_meaning(tx, record)) for record in records]
        return page_of(views, limit, lambda view: view.record.id)

    def refresh(self, identities: Iterable[str] | None = None) -> int:
        """Make the documents anew that have changed, of these identities or of all; returns how many had."""
        with self._turn:
            with self._store.write() as tx:
                devices = tx.devices.list() if identities is None else [tx.devices.get(name) for name in identities]
                changed = self._update(tx, devices)
            for record in changed:
                self._outlet.announce(record.device, record.envelope)
        if changed:
            log.info("%d desired documents changed", len(changed))
        return len(changed)

    def announce_all(self) -> None:
        """Send every current document again: after the link came back, or when the broker has lost its memory."""
        with self._turn:
            with self._store.read() as tx:
                known = {device.id for device in tx.devices.list()}
                records = [record for record in tx.twins.list_desired() if record.device in known]
            for record in records:
                self._outlet.announce(record.device, record.envelope)

    def _update(self, tx: Transaction, devices: Sequence[DeviceRecord]) -> list[DesiredRecord]:
        if not devices:
            return []
        wishes = _Wishes(tx)
        held = _for_workers(tx.models.in_use())
        changed = []
        for device in devices:
            if device.role == Role.CONTROL or device.enrolled_at_ms is None:
                continue
            models = held if device.role == Role.DISPATCHER else wishes.of(device.id)
            record, is_new = self._put(tx, device.id, models)
            if is_new:
                changed.append(record)
        return changed

    def _put(self, tx: Transaction, device: str, models: tuple[DesiredModel, ...]) -> tuple[DesiredRecord, bool]:
        now = now_ms(self._clock)

        def sealed(epoch: int, version: int) -> bytes:
            desired = Desired(device=device, epoch=epoch, version=version, models=models, issued_at_ms=now)
            return seal(DESIRED_TYPE, desired.to_json(), [self._control])

        return tx.twins.put_desired(device, _content(models), sealed, now_ms=now)


class _Wishes:
    """All deployments that hold, read once for any number of devices."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._by_target: dict[str | None, list[DeploymentRecord]] = {}
        for record in tx.deployments.list():
            self._by_target.setdefault(record.device, []).append(record)
        self._models: dict[tuple[str, int], DesiredModel] = {}

    def of(self, identity: str) -> tuple[DesiredModel, ...]:
        wanted: dict[str, DeploymentRecord] = {}
        for target in dict.fromkeys((None, device_of(identity), identity)):
            wanted.update({record.model: record for record in self._by_target.get(target, [])})
        found = []
        for name in sorted(wanted):
            version = _meaning(self._tx, wanted[name])
            if version is not None:
                found.append(self._model(name, version))
        return tuple(found)

    def _model(self, name: str, version: int) -> DesiredModel:
        if (name, version) not in self._models:
            self._models[name, version] = _desired_model(self._tx.models.version(name, version), default=True)
        return self._models[name, version]


def entitled_blobs(tx: Transaction, identity: str) -> frozenset[str]:
    """Digests of all blobs that an identity's current document needs: manifests and files."""
    desired = tx.twins.desired(identity)
    if desired is None:
        return frozenset()
    digests: set[str] = set()
    for name, version in _named_in(desired.content):
        record = tx.models.version(name, version)
        digests.update((record.manifest_sha256, *record.files))
    return frozenset(digests)


def _content(models: tuple[DesiredModel, ...]) -> str:
    return json.dumps([asdict(model) for model in models], separators=(",", ":"), sort_keys=True)


def _named_in(content: str) -> list[tuple[str, int]]:
    return [(str(item["name"]), int(item["version"])) for item in json.loads(content)]


def _for_workers(versions: Sequence[VersionRecord]) -> tuple[DesiredModel, ...]:
    newest: dict[str, int] = {}
    for record in versions:
        newest[record.model] = max(record.version, newest.get(record.model, 0))
    ordered = sorted(versions, key=lambda record: (record.model, record.version))
    if len(ordered) > MAX_MODELS:
        log.warning(
            "%d versions are in use, a worker holds %d: take back deployments or aliases", len(ordered), MAX_MODELS
        )
        ordered = sorted(ordered, key=lambda record: record.version != newest[record.model])[:MAX_MODELS]
    return tuple(_desired_model(record, default=record.version == newest[record.model]) for record in ordered)


def _desired_model(record: VersionRecord, *, default: bool) -> DesiredModel:
    return DesiredModel(
        name=record.model,
        version=record.version,
        manifest_path=f"/v1/blobs/{record.manifest_sha256}",
        manifest_sha256=record.manifest_sha256,
        default=default,
    )


def _resolve(tx: Transaction, model: str, version: int | None, alias: str | None) -> int:
    if alias is not None:
        return tx.models.resolve(model, alias)
    if version is None:
        version = tx.models.get(model).newest
    return tx.models.version(model, version).version


def _meaning(tx: Transaction, record: DeploymentRecord) -> int | None:
    if record.alias is None:
        return record.version
    return tx.models.get(record.model).aliases.get(record.alias)
