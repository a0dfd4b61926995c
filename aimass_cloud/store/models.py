"""Models, their versions and aliases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import CompoundSelect, func, select, union
from sqlalchemy.orm import Session

from aimass.errors import ConflictError, ModelNotFoundError
from aimass_cloud.store.records import ModelRecord, VersionRecord
from aimass_cloud.store.tables import AliasRow, DeploymentRow, ModelRow, VersionRow


class SqlModels:
    """Fulfils :class:`~aimass_cloud.store.base.ModelStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self, *, after: str = "", limit: int | None = None) -> Sequence[ModelRecord]:
        """In order of name; a model whose first upload failed is not one yet."""
        published = select(VersionRow.model).distinct()
        query = select(ModelRow).where(ModelRow.name > after, ModelRow.name.in_(published)).order_by(ModelRow.name)
        return self._records(self._session.scalars(query.limit(limit)).all())

    def get(self, model: str) -> ModelRecord:
        """The record; ModelNotFoundError when there is none."""
        row = self._session.get(ModelRow, model)
        records = [] if row is None else self._records([row])
        if not records or not records[0].newest:
            raise ModelNotFoundError(f"no model {model!r}")
        return records[0]

    def next_version(self, model: str, *, now_ms: int) -> int:
        """Takes the next number; it is never given out twice."""
        row = self._session.get(ModelRow, model)
        if row is None:
            row = ModelRow(name=model, created_at_ms=now_ms, last_version=0)
            self._session.add(row)
        row.last_version += 1
        self._session.flush()
        return row.last_version

    def add_version(self, record: VersionRecord) -> None:
        """Publishes a version."""
        if self._session.get(VersionRow, (record.model, record.version)) is not None:
            raise ConflictError(f"{record.model} {record.version} exists already")
        row = self._session.get(ModelRow, record.model)
        if row is None or record.version > row.last_version:
            raise ConflictError(f"version {record.version} of {record.model!r} was not given out by next_version")
        self._session.add(
            VersionRow(
                model=record.model,
                version=record.version,
                created_at_ms=record.created_at_ms,
                created_by=record.created_by,
                manifest_sha256=record.manifest_sha256,
                manifest_json=record.manifest_json,
                files=[*record.files],
                size_bytes=record.size_bytes,
                labels=[*record.labels],
                metrics=dict(record.metrics),
            )
        )
        self._session.flush()

    def version(self, model: str, version: int) -> VersionRecord:
        """The record; ModelNotFoundError when there is none."""
        row = self._session.get(VersionRow, (model, version))
        if row is None:
            raise ModelNotFoundError(f"no version {version} of model {model!r}")
        return _version(row)

    def versions(self, model: str, *, after: int = 0, limit: int | None = None) -> Sequence[VersionRecord]:
        """In order of number."""
        self.get(model)
        query = select(VersionRow).where(VersionRow.model == model, VersionRow.version > after)
        return [_version(row) for row in self._session.scalars(query.order_by(VersionRow.version).limit(limit))]

    def set_alias(self, model: str, alias: str, version: int, *, now_ms: int) -> None:
        """Points an alias at a version."""
        self.version(model, version)
        self._session.merge(AliasRow(model=model, alias=alias, version=version, updated_at_ms=now_ms))
        self._session.flush()

    def remove_alias(self, model: str, alias: str) -> None:
        """Takes an alias away."""
        self._session.delete(self._alias(model, alias))
        self._session.flush()

    def resolve(self, model: str, alias: str) -> int:
        """The version an alias points at."""
        return self._alias(model, alias).version

    def in_use(self) -> Sequence[VersionRecord]:
        """Every version that is newest, aliased or deployed, of every model."""
        wanted: CompoundSelect[*tuple[Any, ...]] = union(
            select(VersionRow.model, func.max(VersionRow.version)).group_by(VersionRow.model),
            select(AliasRow.model, AliasRow.version),
            select(DeploymentRow.model, DeploymentRow.version).where(
                DeploymentRow.ended_at_ms.is_(None), DeploymentRow.version.is_not(None)
            ),
        )
        keys = sorted((model, version) for model, version in self._session.execute(wanted))
        return [self.version(model, version) for model, version in keys]

    def blobs(self) -> frozenset[str]:
        """Digests of all blobs that some version needs."""
        rows = self._session.execute(select(VersionRow.manifest_sha256, VersionRow.files))
        return frozenset(digest for manifest, files in rows for digest in (manifest, *files))

    def _alias(self, model: str, alias: str) -> AliasRow:
        row = self._session.get(AliasRow, (model, alias))
        if row is None:
            raise ModelNotFoundError(f"model {model!r} has no alias {alias!r}")
        return row

    def _records(self, rows: Iterable[ModelRow]) -> Sequence[ModelRecord]:
        rows = [*rows]
        names = [row.name for row in rows]
        newest = select(VersionRow.model, func.max(VersionRow.version)).where(VersionRow.model.in_(names))
        newest_of = {row[0]: row[1] for row in self._session.execute(newest.group_by(VersionRow.model))}
        aliases: dict[str, dict[str, int]] = {name: {} for name in names}
        for alias in self._session.scalars(select(AliasRow).where(AliasRow.model.in_(names)).order_by(AliasRow.alias)):
            aliases[alias.model][alias.alias] = alias.version
        return [
            ModelRecord(
                name=row.name,
                created_at_ms=row.created_at_ms,
                newest=newest_of.get(row.name, 0),
                aliases=aliases[row.name],
            )
            for row in rows
        ]


def _version(row: VersionRow) -> VersionRecord:
    return VersionRecord(
        model=row.model,
        version=row.version,
        created_at_ms=row.created_at_ms,
        created_by=row.created_by,
        manifest_sha256=row.manifest_sha256,
        manifest_json=row.manifest_json,
        files=tuple(row.files),
        size_bytes=row.size_bytes,
        labels=tuple(row.labels),
        metrics=dict(row.metrics),
    )
