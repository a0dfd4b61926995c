"""The auction's side of an audition: one child process, asked over pipes, held still while the device is busy.

However the child ends - a crash, too much memory, silence - it becomes one named error, and nothing of it is left.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aimass.errors
from aimass.engine.candidates import Candidate, EngineFacts
from aimass.engine.usage import Usage, usage_of
from aimass.errors import (
    AimassError,
    CancelledError,
    EngineMissingError,
    EngineRunError,
    GoldenMismatchError,
    ModelLoadError,
    OverloadError,
    PackageError,
)

POLL_S = 0.02
"""How soon a child is held when the device becomes busy; looking costs about 20 us."""

MAX_REPLY_BYTES = 4 << 20
LOG_TAIL_BYTES = 400
COMMAND = (sys.executable, "-P", "-m", "aimass.engine.audition")

log = logging.getLogger(__name__)

_FROM_CHILD = (ModelLoadError, GoldenMismatchError, EngineMissingError, EngineRunError, PackageError)
_KINDS: Mapping[str, type[AimassError]] = {kind.code: kind for kind in _FROM_CHILD}


class Pace:
    """When an auction may work, and how long it has worked.

    Args:
        busy: whether the device has something better to do now; asked often, so it must be quick.
        stopped: waits so many seconds and says whether to give the auction up.
        max_pause_s: to wait for a device that is always busy makes no sense after so long.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        busy: Callable[[], bool],
        stopped: Callable[[float], bool],
        max_pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.busy, self._stopped, self._clock = busy, stopped, clock
        self._max_pause_s = max_pause_s
        self._begun_s = clock()
        self.paused_s = 0.0

    @property
    def worked_s(self) -> float:
        """Time since the beginning without the pauses."""
        return self._clock() - self._begun_s - self.paused_s

    def wait_until_idle(self) -> None:
        """Return when the device is not busy.

        Raises:
            CancelledError: the auction is to be given up.
            OverloadError: it was busy for too long.
        """
        while True:
            before = self._clock()
            if not self.busy():
                if self._stopped(0):
                    raise CancelledError("the auction was stopped")
                return
            if self._stopped(POLL_S):
                raise CancelledError("the auction was stopped")
            self.paused_s += self._clock() - before
            if self.paused_s > self._max_pause_s:
                raise OverloadError(f"the device was busy for {self.paused_s:.0f} s of the auction", reason="busy")


@dataclass(frozen=True, slots=True)
class Part:
    """What a candidate shall play: its file and the golden vectors that it must answer."""

    candidate: Candidate
    path: Path
    format: str
    golden: Path
    rtol: float
    atol: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """How loading went. ``memory_bytes``: what the process grew by."""

    load_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Burst:
    """Some runs in a row. ``is_disturbed``: the device became busy meanwhile, so they say nothing."""

    times_us: tuple[float, ...]
    memory_bytes: int
    is_disturbed: bool = False


class Stage(Protocol):
    """Where one candidate plays. After an error only ``usage`` and ``close`` make sense."""

    def load(self, part: Part, timeout_s: float) -> Loaded:
        """Load it and have it answer the golden vectors.

        Raises:
            AimassError: why it cannot take part; details may name a ``reason``: ``crash``, ``timeout``, ``memory``.
        """

    def time(self, for_s: float, max_runs: int, timeout_s: float) -> Burst:
        """Run it again and again, at least once. Raises as ``load`` does."""

    def usage(self) -> Usage:
        """What it has used so far."""

    def close(self) -> None:
        """End it. Harmless when it has ended."""


class ChildStage:
    """A `Stage` in a process of its own, which lives no longer than the thread that opens it.

    Args:
        pace: holds the child still while the device is busy.
        max_memory_bytes: it is ended when more than that is resident.
        command: starts it.

    Raises:
        EngineRunError: the system has no room for another process.
    """

    def __init__(self, pace: Pace, max_memory_bytes: int, command: Sequence[str] = COMMAND) -> None:
        self._pace = pace
        self._max_memory_bytes = max_memory_bytes
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child lives
        self._rest = b""
        self._usage = Usage()
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=_environment(),
                bufsize=0,  # what cannot be written to a dead child must not be tried again when the pipe is closed
                start_new_session=True,
            )
        except OSError as exc:
            self._log.close()
            raise EngineRunError(f"no process can be started: {exc}", reason="allowance") from exc

    def describe(self, engine: str, timeout_s: float) -> EngineFacts:
        """The engine as it is on this machine, its library loaded in the child only."""
        reply, _ = self._ask({"do": "describe", "engine": engine}, timeout_s)
        try:
            formats, providers = (tuple(str(item) for item in reply[key]) for key in ("formats", "providers"))
            return EngineFacts(engine, str(reply["version"]), formats, providers)
        except (KeyError, TypeError) as exc:
            raise self._unreadable() from exc

    def load(self, part: Part, timeout_s: float) -> Loaded:
        """See `Stage.load`."""
        wish = {
            "do": "load",
            "engine": part.candidate.engine,
            "provider": part.candidate.provider,
            "threads": part.candidate.threads,
            "path": str(part.path),
            "format": part.format,
            "golden": str(part.golden),
            "rtol": part.rtol,
            "atol": part.atol,
        }
        reply, _ = self._ask(wish, timeout_s)
        try:
            return Loaded(float(reply["load_s"]), int(reply["memory_bytes"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise self._unreadable() from exc

    def time(self, for_s: float, max_runs: int, timeout_s: float) -> Burst:
        """See `Stage.time`."""
        reply, is_disturbed = self._ask({"do": "time", "for_s": for_s, "max_runs": max_runs}, timeout_s)
        try:
            times_us = tuple(float(time_us) for time_us in reply["times_us"])
            return Burst(times_us, int(reply["memory_bytes"]), is_disturbed)
        except (KeyError, TypeError, ValueError) as exc:
            raise self._unreadable() from exc

    def usage(self) -> Usage:
        """See `Stage.usage`."""
        now = usage_of(self._child.pid) if self._child.returncode is None else Usage()
        if now.memory_bytes:  # nothing when it has ended; what it had used is remembered from the last look
            self._usage = now
        return self._usage

    def close(self) -> None:
        """See `Stage.close`."""
        self.usage()
        if self._child.poll() is None:
            self._signal(signal.SIGKILL)
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._log):
            if pipe is not None and not pipe.closed:
                pipe.close()

    def _ask(self, wish: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, Any], bool]:
        """The answer, and whether the device became busy before it was there."""
        self._pace.wait_until_idle()
        assert self._child.stdin is not None
        rest = json.dumps(wish).encode() + b"\n"
        try:
            while rest:
                rest = rest[os.write(self._child.stdin.fileno(), rest) :]
        except BrokenPipeError as exc:
            raise self._crashed() from exc
        line, is_disturbed = self._line(timeout_s)
        try:
            reply: dict[str, Any] = json.loads(line)
            refusal = _refusal(reply["error"]) if "error" in reply else None
        except (ValueError, TypeError, KeyError) as exc:
            raise self._unreadable() from exc
        if refusal is not None:
            raise refusal
        return reply, is_disturbed

    def _line(self, timeout_s: float) -> tuple[bytes, bool]:
        assert self._child.stdout is not None
        until_s, is_disturbed = self._pace.worked_s + timeout_s, False
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if selector.select(POLL_S):
                    self._read(self._child.stdout.fileno())
                elif self._pace.worked_s > until_s:
                    raise EngineRunError(f"no answer within {timeout_s:.0f} s", reason="timeout")
                self._watch_memory()
                is_disturbed |= self._hold_while_busy()
        line, _, self._rest = self._rest.partition(b"\n")
        return line, is_disturbed

    def _read(self, descriptor: int) -> None:
        data = os.read(descriptor, 1 << 16)
        if not data:
            raise self._crashed()
        self._rest += data
        if len(self._rest) > MAX_REPLY_BYTES:
            raise self._unreadable()

    def _watch_memory(self) -> None:
        used_bytes = self.usage().memory_bytes
        if used_bytes > self._max_memory_bytes:
            message = f"needs {used_bytes >> 20} MiB; the auction may use {self._max_memory_bytes >> 20}"
            raise EngineRunError(message, reason="memory")

    def _hold_while_busy(self) -> bool:
        if not self._pace.busy():
            return False
        self._signal(signal.SIGSTOP)
        try:
            self._pace.wait_until_idle()
        finally:
            self._signal(signal.SIGCONT)
        return True

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            return  # it has ended by itself in this moment

    def _crashed(self) -> EngineRunError:
        code = self._child.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        text = f"the engine ended its process ({how})" + (f": {last[0]}" if last else "")
        return EngineRunError(text, reason="crash")

    def _unreadable(self) -> EngineRunError:
        return EngineRunError("the audition's answer cannot be read", reason="crash")


def describe_engines(names: Sequence[str], pace: Pace, *, timeout_s: float = 60.0) -> tuple[EngineFacts, ...]:
    """The engines of these names as they are on this machine; those that are not are left out.

    Each is asked in a child of its own: looking for devices runs the code of their drivers.
    """
    found = []
    for name in names:
        stage = ChildStage(pace, sys.maxsize)
        try:
            found.append(stage.describe(name, timeout_s))
        except (EngineMissingError, EngineRunError) as exc:
            log.info("engine %s takes no part: %s", name, exc)
        finally:
            stage.close()
    return tuple(found)


def _refusal(error: Mapping[str, Any]) -> AimassError:
    return _KINDS.get(error["code"], EngineRunError)(str(error["message"]))


def _environment() -> dict[str, str]:
    """The parent's, for the sake of drivers and their libraries, without what is only the agent's business."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AIMASS_")}
    package = str(Path(str(aimass.errors.__file__)).parent.parent)
    return {**ours, "PYTHONPATH": os.pathsep.join(filter(None, (package, ours.get("PYTHONPATH", ""))))}
