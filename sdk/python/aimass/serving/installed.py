"""The packages of this device as a repository: only what is installed, signed and checked can be loaded."""

from __future__ import annotations

from collections.abc import Sequence

from aimass.device.store import PackageStore
from aimass.device.twin_models import ModelHost
from aimass.errors import ModelNotFoundError


class InstalledModels:
    """A `Repository` over a package store.

    The desired document of the cloud stays above it: what a caller loads or unloads by hand holds until the document
    changes or the process starts again.

    Args:
        store: the packages; opening one checks signature and digests again.
        host: where they run.
    """

    def __init__(self, store: PackageStore, host: ModelHost) -> None:
        self._store, self._host = store, host

    def installed(self) -> Sequence[tuple[str, int]]:
        """See `Repository.installed`."""
        return self._store.installed()

    def load(self, name: str, version: int | None = None) -> None:
        """See `Repository.load`."""
        wanted = self._version(name, version)
        if self._answers(name, wanted):
            return
        package = self._store.open(name, wanted)
        self._host.load(package.folder, package.manifest)

    def unload(self, name: str) -> None:
        """See `Repository.unload`."""
        try:
            self._host.unload(name)
        except ModelNotFoundError:  # the end that was asked for is reached
            return

    def _version(self, name: str, version: int | None) -> int:
        known = [number for one, number in self._store.installed() if one == name]
        if not known or (version is not None and version not in known):
            asked = f"'{name[:100]}'" if version is None else f"'{name[:100]}' version {version}"
            raise ModelNotFoundError(f"model {asked} is not installed here", hint="deploy it to this device first")
        return max(known) if version is None else version

    def _answers(self, name: str, version: int) -> bool:
        found = (one for one in self._host.models() if (one.name, one.version) == (name, version))
        return any(one.state == "running" and one.default for one in found)
