"""Models: taken in, checked, signed, listed, named by aliases.

An upload's files go to the blob store while they arrive; a child process examines them; what is good becomes the next
version with a manifest that our publisher key signs. Whatever fails leaves nothing: blobs that no version needs are
removed when the upload ends.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from aimass.errors import ConflictError, InputError, ModelInvalidError, OverloadError
from aimass.package.envelope import MANIFEST_TYPE, seal
from aimass.package.keys import SigningKey
from aimass.package.manifest import Manifest
from aimass.wire.ids import is_name
from aimass_cloud.blobs.base import Blob, BlobStore
from aimass_cloud.build.findings import BuildLimits, Findings, Job
from aimass_cloud.store.base import Store
from aimass_cloud.store.records import ModelRecord, VersionRecord
from aimass_cloud.usecases.base import Clock, Page, now_ms, page_of
from aimass_cloud.usecases.package import GOLDEN_FILE, MAIN_FILE, UploadForm, check_form, check_names, make_manifest

log = logging.getLogger(__name__)

ARCHIVE_ENDINGS = (".tar.gz", ".tgz")
AT_ONCE = 2
"""Examinations at the same time; each may take a core and gigabytes."""


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """One file of an upload: its plain name and where its bytes are."""

    name: str
    blob: Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What the models' use case works with.

    Attributes:
        examine: runs one examination (in a child process, outside of tests).
        unpack: takes an archive apart, in a child process too; returns the names of its files.
        folder: where examinations have their temporary folders.
        limits: bounds of an examination.
    """

    examine: Callable[[Job], Findings]
    unpack: Callable[[Job], Sequence[str]]
    folder: Path
    limits: BuildLimits


class Models:
    """The cloud's models. ``published`` and ``refused`` count uploads since start.

    Args:
        store: kept state.
        blobs: files and signed manifests.
        publisher: signs manifests.
        workshop: examines uploads.
        on_changed: called after a version or an alias has changed (desired documents are made anew then).
        clock: unix seconds.
    """

    def __init__(
        self,
        store: Store,
        blobs: BlobStore,
        publisher: SigningKey,
        workshop: Workshop,
        *,
        on_changed: Callable[[], object],
        clock: Clock,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._publisher = publisher
        self._workshop = workshop
        self._on_changed = on_changed
        self._clock = clock
        self._examinations = threading.BoundedSemaphore(AT_ONCE)
        self._held: Counter[str] = Counter()
        self.published = 0
        self.refused = 0
        self._hold_lock = threading.Lock()

    @property
    def max_upload_bytes(self) -> int:
        """The most that the files of one upload may have together."""
        return self._workshop.limits.max_model_bytes

    def begin(self) -> Upload:
        """A new upload; close it (or use it as a context) whatever becomes of it."""
        return Upload(self)

    def sweep(self) -> int:
        """Remove blobs that no version needs, left by a crash; only while nothing is uploaded. Returns how many."""
        with self._store.read() as tx:
            needed = tx.models.blobs()
        return sum(self._blobs.delete(blob.sha256) for blob in list(self._blobs.list()) if blob.sha256 not in needed)

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

    # the parts of an upload

    def receive(self, chunks: Iterable[bytes], max_bytes: int) -> Blob:
        """Store bytes as they come; the blob is held until it is released."""
        blob = self._blobs.put(chunks, max_bytes=max_bytes)
        self._hold(blob.sha256)
        return blob

    def hold_file(self, path: Path) -> Blob:
        """As ``receive``, from a file."""
        blob = self._blobs.put_file(path)
        self._hold(blob.sha256)
        return blob

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """A temporary folder and one of the places for examinations.

        Raises:
            OverloadError: no place became free in time.
        """
        if not self._examinations.acquire(timeout=self._workshop.limits.wall_s):
            raise OverloadError("too many models are being examined", hint="send it again in a minute")
        try:
            with tempfile.TemporaryDirectory(prefix="upload-", dir=self._workshop.folder) as folder:
                yield Path(folder)
        finally:
            self._examinations.release()

    def lay_out(self, file: UploadedFile, target: Path, *, may_link: bool) -> None:
        """Put a blob's bytes where an examination expects them.

        A hard link costs nothing, but the checker takes weight files with several links for an attack.
        """
        with self._blobs.as_file(file.blob.sha256) as path:
            if may_link:
                try:
                    os.link(path, target)
                    return
                except OSError:
                    log.debug("cannot link %s, copying it", path)
            shutil.copyfile(path, target)

    def unpack(self, folder: Path, archive: str) -> Sequence[str]:
        """Take an archive in that folder apart."""
        return self._workshop.unpack(Job(str(folder), archive, (), "", "", self._workshop.limits))

    def examine(self, folder: Path, files: Sequence[str], model: str) -> Findings:
        """Examine what lies in that folder."""
        return self._workshop.examine(
            Job(str(folder), MAIN_FILE, tuple(files), model, GOLDEN_FILE, self._workshop.limits)
        )

    def publish(self, draft: Manifest, *, created_by: str, held: list[str]) -> VersionRecord:
        """Sign and store this manifest as the next version. The number is taken last: failed uploads leave no holes."""
        with self._store.write() as tx:
            version = tx.models.next_version(draft.name, now_ms=now_ms(self._clock))
        manifest = replace(draft, version=version)
        envelope = seal(MANIFEST_TYPE, manifest.to_json(), [self._publisher])
        blob = self.receive([envelope], len(envelope))
        held.append(blob.sha256)
        record = self._record(manifest, blob, created_by)
        with self._store.write() as tx:
            tx.models.add_version(record)
        log.info("%s version %d is published (%d bytes)", record.model, record.version, record.size_bytes)
        self.published += 1
        self._on_changed()
        return record

    def today(self) -> str:
        """Now, as manifests have it."""
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")

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

    def _hold(self, digest: str) -> None:
        with self._hold_lock:
            self._held[digest] += 1

    def release(self, digests: Sequence[str]) -> None:
        """Let go of blobs; those that nobody holds and no version needs are removed."""
        with self._hold_lock:
            self._held.subtract(digests)
            free = {digest for digest in digests if self._held[digest] <= 0}
            for digest in free:
                del self._held[digest]
            if not free:
                return
            with self._store.read() as tx:
                needed = tx.models.blobs()
            for digest in free - needed:
                self._blobs.delete(digest)


class Upload:
    """The files of one upload, first received, then published together.

    Attributes:
        digests: of every blob it holds; when it is closed, those that no version needs are removed.
        notes: what the uploader should know about a published model.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._files: list[UploadedFile] = []
        self.digests: list[str] = []
        self.notes: list[str] = []

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the blobs. May be called again."""
        digests, self.digests = self.digests, []
        self._models.release(digests)

    @property
    def received_bytes(self) -> int:
        """Sum of all files so far."""
        return sum(file.blob.size_bytes for file in self._files)

    @property
    def fingerprints(self) -> list[str]:
        """Names and digests of the files, to tell one upload from another."""
        return [f"{file.name}={file.blob.sha256}" for file in self._files]

    def receive(self, name: str, chunks: Iterable[bytes]) -> None:
        """One file as it arrives.

        Raises:
            FrameTooLargeError: all files together are above the limit.
            NoSpaceError: the disk is full.
        """
        left = self._models.max_upload_bytes - self.received_bytes
        self._keep(name, self._models.receive(chunks, left))

    def publish(self, form: UploadForm, *, created_by: str = "") -> VersionRecord:
        """Examine the files and publish them as the next version. The first file is the model.

        Raises:
            ModelInvalidError: see :mod:`aimass_cloud.build`.
            InputError: form or file names make no sense.
            OverloadError: too many uploads at once.
        """
        if not self._files:
            raise InputError("the upload has no model file", hint="send the ONNX file as multipart field 'model'")
        form = check_form(form, self._files[0].name)
        try:
            with self._models.workplace() as folder:
                if self._files[0].name.endswith(ARCHIVE_ENDINGS):
                    form = self._unpack(folder, form)
                return self._examine_and_publish(folder, form, created_by)
        except (ModelInvalidError, InputError):
            self._models.refused += 1
            raise

    def _examine_and_publish(self, folder: Path, form: UploadForm, created_by: str) -> VersionRecord:
        main, *others = self._files
        check_names([file.name for file in others])
        self._models.lay_out(main, folder / MAIN_FILE, may_link=True)
        for file in others:
            self._models.lay_out(file, folder / file.name, may_link=False)
        found = self._models.examine(folder, [file.name for file in others], form.name)
        files = {MAIN_FILE: main.blob, **{file.name: file.blob for file in others}}
        if found.tolerance is not None:
            golden = self._models.hold_file(folder / GOLDEN_FILE)
            self.digests.append(golden.sha256)
            files[GOLDEN_FILE] = golden
        if found.golden_skipped:
            self.notes.append(f"no golden vectors: {found.golden_skipped}")
        if found.batching_refused:
            self.notes.append(f"no batching: {found.batching_refused}")
        draft = make_manifest(files, found, form, created_at=self._models.today())
        return self._models.publish(draft, created_by=created_by, held=self.digests)

    def _unpack(self, folder: Path, form: UploadForm) -> UploadForm:
        """Replace the archive by the files in it; a ``manifest.json`` among them says what the form did not."""
        archive = self._files.pop(0)
        if self._files:
            raise InputError("an archive comes alone", hint="put all files into the archive")
        inside = folder / "archive"
        inside.mkdir()
        self._models.lay_out(archive, inside / "archive.tar.gz", may_link=True)
        names = [str(name) for name in self._models.unpack(inside, "archive.tar.gz")]
        if "manifest.json" in names:
            names.remove("manifest.json")
            form = form.or_else(UploadForm.from_json((inside / "manifest.json").read_bytes()))
        models = [name for name in names if name.endswith(".onnx")]
        if len(models) != 1:
            hint = "put one .onnx file, its weight files and, if you like, a manifest.json into it"
            raise InputError(f"the archive holds {len(models)} .onnx files instead of one", hint=hint)
        for name in sorted(names, key=lambda name: name != models[0]):
            self._keep(name, self._models.hold_file(inside / name))
        return form

    def _keep(self, name: str, blob: Blob) -> None:
        self.digests.append(blob.sha256)
        self._files.append(UploadedFile(name, blob))
