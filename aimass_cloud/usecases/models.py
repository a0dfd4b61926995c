"""Models: taken in, checked, signed, listed, named by aliases.

An upload's files go to the blob store while they arrive; a child process examines them; what is good becomes the next
version with a manifest that our publisher key signs. Whatever fails leaves nothing: blobs that no version needs are
removed when the upload ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from aimass.errors import ConflictError, InputError
from aimass.package.envelope import MANIFEST_TYPE, seal
from aimass.package.keys import SigningKey
from aimass.package.manifest import Manifest
from aimass.wire.ids import is_name
from aimass_cloud.blobs.base import Blob
from aimass_cloud.store.base import Store
from aimass_cloud.store.records import ModelRecord, VersionRecord
from aimass_cloud.usecases.base import Clock, Page, now_ms, page_of
from aimass_cloud.usecases.holds import BlobHolds
from aimass_cloud.usecases.package import make_manifest
from aimass_cloud.usecases.upload import Parts, Upload
from aimass_cloud.usecases.workshop import Workshop

log = logging.getLogger(__name__)


class Models:
    """The cloud's models. ``published`` and ``refused`` count uploads since start.

    Args:
        store: kept state.
        holds: the blobs of uploads under way.
        publisher: signs manifests.
        workshop: examines uploads.
        on_changed: called after a version or an alias has changed (desired documents are made anew then).
        clock: unix seconds.
    """

    def __init__(
        self,
        store: Store,
        holds: BlobHolds,
        publisher: SigningKey,
        workshop: Workshop,
        *,
        on_changed: Callable[[], object],
        clock: Clock,
    ) -> None:
        self._store = store
        self._holds = holds
        self._publisher = publisher
        self._workshop = workshop
        self._on_changed = on_changed
        self._clock = clock
        self.published = 0
        self.refused = 0

    @property
    def max_upload_bytes(self) -> int:
        """The most that the files of one upload may have together."""
        return self._workshop.limits.max_model_bytes

    # uploads

    def begin(self) -> Upload:
        """A new upload; close it (or use it as a context) whatever becomes of it."""
        return Upload(self._holds, self._workshop, publish=self._publish, refused=self._count_refused)

    def _publish(self, parts: Parts, created_by: str) -> VersionRecord:
        """Sign and store the next version. Its number is taken last, so that failed uploads leave no holes."""
        draft = make_manifest(parts.files, parts.found, parts.form, created_at=self._today())
        with self._store.write() as tx:
            version = tx.models.next_version(draft.name, now_ms=now_ms(self._clock))
        manifest = replace(draft, version=version)
        envelope = seal(MANIFEST_TYPE, manifest.to_json(), [self._publisher])
        blob = self._holds.put([envelope], len(envelope))
        try:
            record = self._record(manifest, blob, created_by)
            with self._store.write() as tx:
                tx.models.add_version(record)
        finally:
            self._holds.release([blob.sha256])
        log.info("%s version %d is published (%d bytes)", record.model, record.version, record.size_bytes)
        self.published += 1
        self._on_changed()
        return record

    def _count_refused(self) -> None:
        self.refused += 1

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")

    # looking and naming

    def page(self, *, after: str = "", limit: int = 100) -> Page[ModelRecord]:
        """All models, by name."""
        with self._store.read() as tx:
            return page_of(list(tx.models.list(after=after, limit=limit + 1)), limit, lambda record: record.name)

    def get(self, model: str) -> ModelRecord:
        """One model; ModelNotFoundError when there is none."""
        with self._store.read() as tx:
            return tx.models.get(model)

    def versions(self, model: str, *, after: int = 0, limit: int = 100) -> Page[VersionRecord]:
        """Its versions, by number."""
        with self._store.read() as tx:
            records = list(tx.models.versions(model, after=after, limit=limit + 1))
        return page_of(records, limit, lambda record: record.version)

    def version(self, model: str, version: int) -> VersionRecord:
        """One version; ModelNotFoundError when there is none."""
        with self._store.read() as tx:
            return tx.models.version(model, version)

    def set_alias(self, model: str, alias: str, version: int) -> ModelRecord:
        """Point an alias at a version; devices whose deployment names the alias follow at once.

        Raises:
            ModelNotFoundError: no such version.
            InputError: not a name for an alias.
        """
        if not is_name(alias) or alias.isdigit():
            raise InputError(
                f"{alias[:100]!r} is not an alias: 1 to 64 of [a-z0-9._-], not a number", hint="e.g. champion"
            )
        with self._store.write() as tx:
            tx.models.set_alias(model, alias, version, now_ms=now_ms(self._clock))
            record = tx.models.get(model)
        self._on_changed()
        return record

    def remove_alias(self, model: str, alias: str) -> None:
        """Take an alias away.

        Raises:
            ModelNotFoundError: there is none.
            ConflictError: a deployment still follows it.
        """
        with self._store.write() as tx:
            users = [item.id for item in tx.deployments.list() if (item.model, item.alias) == (model, alias)]
            if users:
                hint = "end those deployments first, or point the alias at another version"
                raise ConflictError(f"alias {alias!r} of {model} is used by deployments {users[:10]}", hint=hint)
            tx.models.remove_alias(model, alias)
        self._on_changed()

    def _record(self, manifest: Manifest, envelope: Blob, created_by: str) -> VersionRecord:
        return VersionRecord(
            model=manifest.name,
            version=manifest.version,
            created_at_ms=now_ms(self._clock),
            created_by=created_by,
            manifest_sha256=envelope.sha256,
            manifest_json=manifest.to_json().decode(),
            files=tuple(sorted({entry.sha256 for entry in manifest.files.values()})),
            size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
            labels=manifest.labels,
            metrics=manifest.metrics,
        )
