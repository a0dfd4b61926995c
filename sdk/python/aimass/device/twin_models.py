"""Brings the models of a desired document to run, each on its own account.

Two rounds: first all that is on disk already, so that a slow download never keeps an installed model from running;
then the downloads. A version that runs is unloaded only when all wanted versions of its model run.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from aimass.device.install import Installer
from aimass.device.store import ActiveModel, InstalledPackage, Key, PackageStore
from aimass.errors import AimassError, CancelledError, DigestMismatchError, PackageError, StoreError, TrustError
from aimass.package.desired import Desired, DesiredModel
from aimass.package.manifest import Manifest
from aimass.runtime.models import ModelInfo

log = logging.getLogger(__name__)

_MAX_DIGEST_ATTEMPTS = 3  # damage on the way passes, a wrong blob does not
_NEVER_S = 3600.0


class ModelHost(Protocol):
    """What runs models: the runtime, or a guard around it."""

    def load(self, folder: Path, manifest: Manifest, *, default: bool = True) -> ModelInfo:
        """Load a version; as default it takes the place of the former default, which is closed when it is drained.

        Raises:
            ModelError: it does not run here; what ran still does.
        """

    def make_default(self, name: str, version: int) -> None:
        """Let a loaded version answer requests that name none."""

    def unload(self, name: str, version: int | None = None) -> None:
        """Stop answering for a version."""

    def models(self) -> list[ModelInfo]:
        """What is loaded."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A version that runs; ``sha256`` of its manifest's envelope tells two builds of one version apart."""

    sha256: str
    engine: str
    variant: str


@dataclass(frozen=True, slots=True)
class _Task:
    """A version that shall run and does not yet.

    Attributes:
        stage: ``downloading``, ``loading`` or ``failed``.
        sha256: of the build that is wanted; empty when only the disk's was tried.
        error: why the last attempt failed.
        attempts: failed ones in a row.
        retry_at: monotonic seconds of the next attempt; None for no further one.
    """

    stage: str
    sha256: str
    error: AimassError | None = None
    attempts: int = 0
    retry_at: float | None = 0.0


class ModelWork:
    """The models of one party and the work to be done on them. Worked on by one thread, read by any.

    Args:
        store: the packages on disk.
        installer: brings others there.
        host: what runs them. Models that others gave it are left alone.
        first_pause_s: before a failed model is tried again; doubles each time.
        max_pause_s: the longest such pause.
        clock: monotonic seconds.
        rng: for the spread of pauses.
        stopped: says, waiting no time for 0, whether to leave the work at hand.
        on_change: called when the report changed.
    """

    def __init__(
        self,
        store: PackageStore,
        installer: Installer,
        host: ModelHost,
        *,
        first_pause_s: float,
        max_pause_s: float,
        clock: Callable[[], float],
        rng: random.Random,
        stopped: Callable[[float], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._store, self._installer, self._host = store, installer, host
        self._first_pause_s, self._max_pause_s = first_pause_s, max_pause_s
        self._clock, self._rng, self._stopped, self._on_change = clock, rng, stopped, on_change
        self._lock = threading.Lock()
        self._loaded: dict[Key, _Loaded] = {}
        self._tasks: dict[Key, _Task] = {}
        self._defaults: dict[str, int] = {}

    def report(self) -> list[dict[str, Any]]:
        """The models as the report lists them; a build that runs while another one is fetched is ``running``."""
        with self._lock:
            loaded, tasks = dict(self._loaded), dict(self._tasks)
        return [_entry(key, loaded.get(key), tasks.get(key)) for key in sorted({*loaded, *tasks})]

    def load_last_good(self) -> list[ActiveModel]:
        """Load what ran last, from disk alone; the version before it where that fails."""
        for model in self._store.active():
            if self._load_from_disk(model) or not model.default:
                continue
            version = self._store.previous(model.name)
            if version is not None:
                log.warning("%s %d does not run; going back to version %d", model.name, model.version, version)
                self._load_from_disk(ActiveModel(model.name, version))
        return self._running()

    def begin(self, desired: Desired) -> None:
        """A new document was accepted: whoever deployed it wants every model of it tried again."""
        for model in desired.models:
            key = (model.name, model.version)
            task = self._tasks.get(key)
            if task is not None and task.stage == "failed":
                self._set_task(key, replace(task, attempts=0, retry_at=0.0))

    def retry_now(self) -> None:
        """Do not wait any longer where another attempt may help."""
        with self._lock:
            for key, task in self._tasks.items():
                if task.retry_at is not None:
                    self._tasks[key] = replace(task, retry_at=0.0)

    def reconcile(self, desired: Desired) -> float:
        """Do what is due for this document.

        Returns:
            Seconds until the next attempt is due.
        """
        due = [model for model in desired.models if self._is_due(model)]
        waiting = [model for model in due if not self._attempt(model, desired, from_disk=True)]
        self._settle(desired)
        self._tidy(desired)  # also makes room for the downloads
        for model in waiting:
            if self._stopped(0):
                return 0.0
            self._attempt(model, desired, from_disk=False)
            self._settle(desired)
        if waiting:
            self._tidy(desired)
        return self._next_due_s(desired)

    def _is_due(self, model: DesiredModel) -> bool:
        key = (model.name, model.version)
        loaded, task = self._loaded.get(key), self._tasks.get(key)
        if loaded is not None and loaded.sha256 == model.manifest_sha256:
            return False
        if task is None or task.sha256 != model.manifest_sha256:
            return True
        return task.retry_at is not None and task.retry_at <= self._clock()

    def _next_due_s(self, desired: Desired) -> float:
        tasks = (self._tasks.get((model.name, model.version)) for model in desired.models)
        times = [task.retry_at for task in tasks if task is not None and task.retry_at is not None]
        return max(min(times) - self._clock(), 0.0) if times else _NEVER_S

    def _attempt(self, model: DesiredModel, desired: Desired, *, from_disk: bool) -> bool:
        """Try to get one model to run; False when it is to come from the disk and is not there."""
        key = (model.name, model.version)
        known = self._tasks.get(key)
        attempts = known.attempts if known is not None and known.sha256 == model.manifest_sha256 else 0
        task = _Task("loading", model.manifest_sha256, attempts=attempts)
        try:
            package = self._installer.installed(model) if from_disk else None
            if package is None:
                if from_disk:
                    return False
                task = replace(task, stage="downloading")
                self._set_task(key, task)
                package = self._installer.download(model)
                task = replace(task, stage="loading")
            self._set_task(key, task)
            self._load(package, model, desired)
        except CancelledError:
            log.info("%s %d: left for something newer", *key)
        except AimassError as exc:
            self._failed(key, task, exc)
        except OSError as exc:
            self._failed(key, task, StoreError(f"{model.name} {model.version}: {exc}", retryable=True))
        except Exception:  # supervisor: one model's surprise is not the others' end
            log.exception("%s %d failed in an unforeseen way", *key)
            self._failed(key, task, AimassError("failed in an unforeseen way; see the log"))
        return True

    def _load(self, package: InstalledPackage, model: DesiredModel, desired: Desired) -> None:
        """Load beside what runs. The former default is closed with the switch, unless it is wanted, too."""
        name, version = model.name, model.version
        others = {other.version for other in desired.models if other.name == name} - {version}
        former = self._defaults.get(name)
        takes_over = model.default and former not in others
        info = self._host.load(package.folder, package.manifest, default=takes_over)
        if model.default and not takes_over:
            self._host.make_default(name, version)
        if takes_over and former is not None and former != version:
            self._forget((name, former))
        if model.default:
            self._defaults[name] = version
        self._now_runs((name, version), _Loaded(package.sha256, info.engine, info.variant))

    def _load_from_disk(self, model: ActiveModel) -> bool:
        key = (model.name, model.version)
        try:
            package = self._store.open(*key)
            info = self._host.load(package.folder, package.manifest, default=model.default)
        except (AimassError, OSError) as exc:
            error = exc if isinstance(exc, AimassError) else StoreError(f"{model.name} {model.version}: {exc}")
            log.warning("%s %d, which ran last, does not start: %s", *key, error)
            self._set_task(key, _Task("failed", "", error=error))
            return False
        if model.default:
            self._defaults[model.name] = model.version
        self._now_runs(key, _Loaded(package.sha256, info.engine, info.variant))
        return True

    def _settle(self, desired: Desired) -> None:
        """Unload what is not wanted any more, and remember what runs."""
        wanted: dict[str, dict[int, bool]] = {}
        for model in desired.models:
            wanted.setdefault(model.name, {})[model.version] = model.default
        for name, version in self._unwanted(wanted):
            if (name, version) not in self._loaded:
                self._forget((name, version))
            elif all((name, other) in self._loaded for other in wanted.get(name, {})):
                self._unload(name, version)
        for name, versions in wanted.items():
            for version, is_default in versions.items():
                if is_default and (name, version) in self._loaded and self._defaults.get(name) != version:
                    self._host.make_default(name, version)
                    self._defaults[name] = version
        try:
            self._store.set_active(self._running())
        except StoreError as exc:
            log.warning("what runs could not be remembered: %s", exc)

    def _unwanted(self, wanted: dict[str, dict[int, bool]]) -> Iterator[Key]:
        for name, version in sorted({*self._loaded, *self._tasks}):
            if version not in wanted.get(name, {}):
                yield name, version

    def _unload(self, name: str, version: int) -> None:
        try:
            self._host.unload(name, version)
        except AimassError as exc:  # somebody else has: it is gone, which is what was wanted
            log.warning("%s %d could not be unloaded: %s", name, version, exc)
        self._forget((name, version))

    def _tidy(self, desired: Desired) -> None:
        keep = {(model.name, model.version) for model in desired.models}
        try:
            for name, version in self._store.prune(keep):
                log.info("package %s %d is not needed any more and was removed", name, version)
            self._store.prune_staging(keep)
        except (StoreError, OSError) as exc:
            log.warning("old packages could not be removed: %s", exc)

    def _failed(self, key: Key, task: _Task, error: AimassError) -> None:
        attempts = task.attempts + 1
        retry_at = None
        if _may_help(error, task.stage, attempts):
            pause_s = min(self._first_pause_s * 2.0 ** min(attempts - 1, 30), self._max_pause_s)
            retry_at = self._clock() + pause_s * self._rng.uniform(0.5, 1.0)
        log.warning("%s %d: %s failed: %s", *key, task.stage, error)
        self._set_task(key, _Task("failed", task.sha256, error, attempts, retry_at))

    def _running(self) -> list[ActiveModel]:
        return [ActiveModel(name, version, self._defaults.get(name) == version) for name, version in self._loaded]

    def _now_runs(self, key: Key, loaded: _Loaded) -> None:
        with self._lock:
            self._loaded[key] = loaded
            self._tasks.pop(key, None)
        self._on_change()

    def _set_task(self, key: Key, task: _Task) -> None:
        with self._lock:
            self._tasks[key] = task
        self._on_change()

    def _forget(self, key: Key) -> None:
        with self._lock:
            self._loaded.pop(key, None)
            self._tasks.pop(key, None)
        if self._defaults.get(key[0]) == key[1]:
            del self._defaults[key[0]]
        self._on_change()


def _may_help(error: AimassError, stage: str, attempts: int) -> bool:
    """Whether another attempt may end otherwise."""
    if isinstance(error, DigestMismatchError):
        return attempts < _MAX_DIGEST_ATTEMPTS
    if isinstance(error, TrustError | PackageError):
        return False
    # Whatever the cloud refuses (a blob not there yet, a right not given yet) may be put right there at any time.
    return error.retryable or stage == "downloading"


def _entry(key: Key, loaded: _Loaded | None, task: _Task | None) -> dict[str, Any]:
    return {
        "name": key[0],
        "version": key[1],
        "state": "running" if loaded is not None else task.stage if task is not None else "failed",
        "engine": "" if loaded is None else loaded.engine,
        "variant": "" if loaded is None else loaded.variant,
        "error": None if task is None or task.error is None else task.error.as_dict(),
    }
