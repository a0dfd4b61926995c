"""One loaded version of a model: its session, who is using it, and how long it takes."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from aimass.engine.base import Session
from aimass.package.manifest import Manifest
from aimass.placement.estimate import LatencyEstimate
from aimass.runtime.check import InputCheck
from aimass.runtime.models import ModelInfo

log = logging.getLogger(__name__)


class LoadedModel:
    """A version in use.

    Whoever runs it calls ``enter`` before and ``leave`` after. ``retire`` lets those in progress finish and no new ones
    in, so that a swap never takes a session away from a request.

    Args:
        manifest: what was signed about it.
        session: the loaded variant; closed by ``close``.
        variant: the variant's name.
        latency: what warming up has taught about its run time.
    """

    def __init__(self, manifest: Manifest, session: Session, variant: str, latency: LatencyEstimate) -> None:
        self.name = manifest.name
        self.number = manifest.version
        self.version = str(manifest.version)
        self.session = session
        self.batching = manifest.batching
        self.check = InputCheck(manifest.name, manifest.inputs, manifest.outputs)
        self.outputs = tuple(spec.name for spec in manifest.outputs)
        self.datatypes = {spec.name: spec.datatype for spec in manifest.outputs}
        self.engine = session.engine
        self.p95_s = latency.p95_s
        self._info = ModelInfo(
            name=manifest.name,
            version=manifest.version,
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            engine=session.engine,
            provider=session.provider,
            variant=variant,
            labels=manifest.labels,
        )
        self._latency = latency
        self._lock = threading.Lock()
        self._in_progress = 0
        self._retired = False
        self._drained = threading.Event()

    def info(self, *, default: bool) -> ModelInfo:
        """What a caller may know."""
        return replace(self._info, default=default, state="draining" if self._retired else "running")

    def enter(self) -> bool:
        """Begin using the session; False when it is retired, and its successor must be looked up."""
        with self._lock:
            if self._retired:
                return False
            self._in_progress += 1
            return True

    def leave(self, compute_s: float | None = None) -> None:
        """Stop using it.

        Args:
            compute_s: how long the run took; None when there was none, or it says nothing about the usual one.
        """
        with self._lock:
            self._in_progress -= 1
            if compute_s is not None:
                self._latency.add(compute_s)
                self.p95_s = self._latency.p95_s
            if self._retired and not self._in_progress:
                self._drained.set()

    def retire(self) -> None:
        """Let nobody in any more."""
        with self._lock:
            self._retired = True
            if not self._in_progress:
                self._drained.set()

    def close(self, drain_timeout_s: float) -> None:
        """Retire, wait for those in progress, and give the session's memory back."""
        self.retire()
        if not self._drained.wait(drain_timeout_s):
            log.warning("%s version %s still answers after %.1f s; closed", self.name, self.version, drain_timeout_s)
        self.session.close()
