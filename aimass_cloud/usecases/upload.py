"""One upload: files received one after the other, examined and published together, or gone without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from aimass.errors import InputError, ModelInvalidError
from aimass_cloud.blobs.base import Blob
from aimass_cloud.build.findings import Findings
from aimass_cloud.store.records import VersionRecord
from aimass_cloud.usecases.holds import BlobHolds
from aimass_cloud.usecases.package import GOLDEN_FILE, MAIN_FILE, UploadForm, check_form, check_names
from aimass_cloud.usecases.workshop import Workshop

ARCHIVE_ENDINGS = (".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """One file of an upload: its plain name and where its bytes are."""

    name: str
    blob: Blob


@dataclass(frozen=True, slots=True)
class Parts:
    """All that a manifest is made from."""

    files: Mapping[str, Blob]
    found: Findings
    form: UploadForm


class Upload:
    """The files of one upload, first received, then published together.

    Attributes:
        digests: of every blob it holds; when it is closed, those that no version needs are removed.
        notes: what the uploader should know about a published model.
    """

    def __init__(
        self,
        holds: BlobHolds,
        workshop: Workshop,
        *,
        publish: Callable[[Parts, str], VersionRecord],
        refused: Callable[[], None],
    ) -> None:
        self._holds = holds
        self._workshop = workshop
        self._publish = publish
        self._refused = refused
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
        self._holds.release(digests)

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
        left = self._workshop.limits.max_model_bytes - self.received_bytes
        self._keep(name, self._holds.put(chunks, left))

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
            with self._workshop.place() as folder:
                if self._files[0].name.endswith(ARCHIVE_ENDINGS):
                    form = self._unpack(folder, form)
                return self._publish(self._examine(folder, form), created_by)
        except (ModelInvalidError, InputError):
            self._refused()
            raise

    def _examine(self, folder: Path, form: UploadForm) -> Parts:
        main, *others = self._files
        check_names([file.name for file in others])
        self._workshop.lay_out(main.blob.sha256, folder / MAIN_FILE, may_link=True)
        for file in others:
            self._workshop.lay_out(file.blob.sha256, folder / file.name, may_link=False)
        found = self._workshop.examine(folder, [file.name for file in others], form.name)
        files = {MAIN_FILE: main.blob, **{file.name: file.blob for file in others}}
        if found.tolerance is not None:
            files[GOLDEN_FILE] = self._hold(self._holds.put_file(folder / GOLDEN_FILE))
        if found.golden_skipped:
            self.notes.append(f"no golden vectors: {found.golden_skipped}")
        if found.batching_refused:
            self.notes.append(f"no batching: {found.batching_refused}")
        return Parts(files, found, form)

    def _unpack(self, folder: Path, form: UploadForm) -> UploadForm:
        """Replace the archive by the files in it; a ``manifest.json`` among them says what the form did not."""
        archive = self._files.pop(0)
        if self._files:
            raise InputError("an archive comes alone", hint="put all files into the archive")
        inside = folder / "archive"
        inside.mkdir()
        self._workshop.lay_out(archive.blob.sha256, inside / "archive.tar.gz", may_link=True)
        names = self._workshop.unpack(inside, "archive.tar.gz")
        if "manifest.json" in names:
            names.remove("manifest.json")
            form = form.or_else(UploadForm.from_json((inside / "manifest.json").read_bytes()))
        models = [name for name in names if name.endswith(".onnx")]
        if len(models) != 1:
            hint = "put one .onnx file, its weight files and, if you like, a manifest.json into it"
            raise InputError(f"the archive holds {len(models)} .onnx files instead of one", hint=hint)
        for name in sorted(names, key=lambda name: name != models[0]):
            self._keep(name, self._holds.put_file(inside / name))
        return form

    def _keep(self, name: str, blob: Blob) -> None:
        self._files.append(UploadedFile(name, self._hold(blob)))

    def _hold(self, blob: Blob) -> Blob:
        self.digests.append(blob.sha256)
        return blob
