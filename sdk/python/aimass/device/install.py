"""Brings one package from the cloud into the store."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from aimass.device.cloud_http import DeviceHttp
from aimass.device.download import FetchLimits, check_room, fetch
from aimass.device.store import InstalledPackage, PackageStore, StagedPackage
from aimass.errors import DigestMismatchError, FrameTooLargeError, NoSpaceError, NotFoundError, TrustError
from aimass.package.desired import DesiredModel

log = logging.getLogger(__name__)

_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_PATHS_A_TOKEN = 32


class Installer:
    """Installs what a desired document names.

    Args:
        store: where packages are kept.
        http: where they come from.
        limits: how hard a single file is tried.
        stopped: waits so many seconds and says whether to leave the work at hand.
    """

    def __init__(
        self, store: PackageStore, http: DeviceHttp, *, limits: FetchLimits, stopped: Callable[[float], bool]
    ) -> None:
        self._store, self._http, self._limits, self._stopped = store, http, limits, stopped

    def installed(self, model: DesiredModel) -> InstalledPackage | None:
        """The package, checked, when the very build that is wanted is on disk.

        Raises:
            PackageError: no variant of it fits this machine.
        """
        try:
            return self._store.open(model.name, model.version, sha256=model.manifest_sha256)
        except NotFoundError:
            return None
        except TrustError as exc:
            log.warning("%s %d on disk is not what is wanted (%s); it is fetched again", model.name, model.version, exc)
            return None

    def download(self, model: DesiredModel) -> InstalledPackage:
        """Fetch what is missing, check it, and install it in one step.

        Raises:
            TrustError, PackageError: it is not what was signed, or makes no sense.
            NoSpaceError: no room; what had arrived is removed.
            DownloadError: broken off too often; what arrived stays for the next call.
            CancelledError: ``stopped`` said so; what arrived stays.
            AimassError: what the cloud answered.
        """
        try:
            staged = self._store.stage(model, self._fetch_manifest(model))
            self._fetch_files(staged)
            return self._store.commit(staged)
        except NoSpaceError:
            self._store.discard_staged(model.name, model.version)
            raise

    def _fetch_files(self, staged: StagedPackage) -> None:
        missing = staged.missing()
        paths = tuple(f"/v1/blobs/{entry.sha256}" for _, entry in missing)
        needed_bytes = sum(entry.size_bytes - _present_bytes(staged.folder / name) for name, entry in missing)
        check_room(staged.folder, needed_bytes, reserve_bytes=self._limits.reserve_bytes, disk=self._store.disk)
        for at, (name, entry) in enumerate(missing):
            group = at - at % _PATHS_A_TOKEN
            fetch(
                self._http,
                paths[at],
                entry,
                staged.folder / name,
                stopped=self._stopped,
                auth_paths=tuple(dict.fromkeys(paths[group : group + _PATHS_A_TOKEN])),
                limits=self._limits,
                disk=self._store.disk,
            )

    def _fetch_manifest(self, model: DesiredModel) -> bytes:
        envelope = bytearray()
        with self._http.download(model.manifest_path) as body:
            for chunk in body.chunks:
                envelope += chunk
                if len(envelope) > _MAX_MANIFEST_BYTES:
                    raise FrameTooLargeError(f"the manifest of {model.name} is above {_MAX_MANIFEST_BYTES} bytes")
        if hashlib.sha256(envelope).hexdigest() != model.manifest_sha256:
            raise DigestMismatchError(f"the manifest of {model.name} {model.version} is not the one the cloud named")
        return bytes(envelope)


def _present_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
