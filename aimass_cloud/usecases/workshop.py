"""Where uploaded models are examined: a few places, each a temporary folder that is gone afterwards."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aimass.errors import OverloadError
from aimass_cloud.blobs.base import BlobStore
from aimass_cloud.build.findings import BuildLimits, Findings, Job
from aimass_cloud.usecases.package import GOLDEN_FILE, MAIN_FILE

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Examinations at the same time; each may take a core and gigabytes."""


class Workshop:
    """The places, and what is done there.

    Args:
        folder: where the temporary folders are made.
        blobs: where the uploaded files are.
        limits: bounds of an examination.
        examine: runs one (in a child process, outside of tests).
        unpack: takes an archive apart, in a child process too; returns the names of its files.
    """

    def __init__(
        self,
        folder: Path,
        blobs: BlobStore,
        limits: BuildLimits,
        *,
        examine: Callable[[Job], Findings],
        unpack: Callable[[Job], Sequence[str]],
    ) -> None:
        self.limits = limits
        self._folder = folder
        self._blobs = blobs
        self._examine = examine
        self._unpack = unpack
        self._places = threading.BoundedSemaphore(AT_ONCE)

    @contextmanager
    def place(self) -> Iterator[Path]:
        """One of the places.

        Raises:
            OverloadError: none became free in time.
        """
        if not self._places.acquire(timeout=self.limits.wall_s):
            raise OverloadError("too many models are being examined", hint="send it again in a minute")
        try:
            with tempfile.TemporaryDirectory(prefix="upload-", dir=self._folder) as folder:
                yield Path(folder)
        finally:
            self._places.release()

    def lay_out(self, sha256: str, target: Path, *, may_link: bool) -> None:
        """Put a blob's bytes where an examination expects them.

        A hard link costs nothing, but the checker takes weight files with several links for an attack.
        """
        with self._blobs.as_file(sha256) as path:
            if may_link:
                try:
                    os.link(path, target)
                    return
                except OSError:
                    log.debug("cannot link %s, copying it", path)
            shutil.copyfile(path, target)

    def unpack(self, folder: Path, archive: str) -> list[str]:
        """Take an archive in that folder apart; the names of its files."""
        return list(self._unpack(Job(str(folder), archive, (), "", "", self.limits)))

    def examine(self, folder: Path, files: Sequence[str], model: str) -> Findings:
        """Examine what lies in that folder: the model, and further files by these names."""
        return self._examine(Job(str(folder), MAIN_FILE, tuple(files), model, GOLDEN_FILE, self.limits))
