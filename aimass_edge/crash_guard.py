"""Keeps a model that kills the process from killing it for ever.

An engine is native code, and a model can end the whole process while it is loaded. The agent would be started again,
load it again, and never come up. So the name of what is being loaded is written down before and taken away after; a
model that was being loaded when the process ended, several times in a row, is not tried again. Several times, because
a power cut or an operator can end the process in that moment too.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

from aimass.device.twin import ModelHost
from aimass.errors import ModelLoadError
from aimass.package.manifest import Manifest
from aimass.runtime.models import ModelInfo

MAX_DEATHS = 3
_log = logging.getLogger(__name__)


class CrashGuard:
    """A `ModelHost` that remembers over restarts what it was loading.

    Args:
        host: what really loads.
        path: a small file of its own.
    """

    def __init__(self, host: ModelHost, path: Path) -> None:
        self._host, self._path = host, path
        self._lock = threading.Lock()
        self._deaths, self._loading = _read(path), set[str]()

    def load(self, folder: Path, manifest: Manifest, *, default: bool = True) -> ModelInfo:
        """Loads, unless loading this version has ended the process too often.

        Raises:
            ModelLoadError: it has; besides whatever the host raises.
        """
        key = f"{manifest.name} {manifest.version}"
        if self._deaths.get(key, 0) >= MAX_DEATHS:
            raise ModelLoadError(
                f"loading {key} ended the agent {self._deaths[key]} times in a row; it is not tried again",
                hint=f"deploy another version, or remove {self._path} and start the agent again",
            )
        self._note(key, is_loading=True)
        try:
            return self._host.load(folder, manifest, default=default)
        finally:
            self._note(key, is_loading=False)

    def make_default(self, name: str, version: int) -> None:
        """See `ModelHost.make_default`."""
        self._host.make_default(name, version)

    def unload(self, name: str, version: int | None = None) -> None:
        """See `ModelHost.unload`."""
        self._host.unload(name, version)

    def models(self) -> list[ModelInfo]:
        """See `ModelHost.models`."""
        return self._host.models()

    def _note(self, key: str, *, is_loading: bool) -> None:
        with self._lock:
            if is_loading:
                self._loading.add(key)
            else:
                self._loading.discard(key)
                self._deaths.pop(key, None)
            # What is being loaded is written as one death more: if the process ends now, it was one.
            deaths = dict(self._deaths)
            for name in self._loading:
                deaths[name] = deaths.get(name, 0) + 1
            self._write(deaths)

    def _write(self, deaths: dict[str, int]) -> None:
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(deaths))
            temporary.replace(self._path)
        except OSError as exc:  # a full disk must not keep a good model from answering
            _log.warning("cannot note what is being loaded: %s", exc)


def _read(path: Path) -> dict[str, int]:
    try:
        parsed: Any = json.loads(path.read_text())
        return {str(key): int(value) for key, value in parsed.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        _log.warning("%s cannot be read and is begun anew: %s", path, exc)
        return {}
