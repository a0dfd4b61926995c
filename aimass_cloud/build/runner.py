"""Examining an uploaded model without touching it: a child process does, under limits of time and memory.

However the child ends - an answer, a refusal, a crash, silence, too much memory - the caller gets findings or one
``ModelInvalidError`` that says what happened.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aimass.errors
import aimass_cloud
from aimass.errors import CancelledError, FrameError, ModelInvalidError
from aimass_cloud.build.findings import BuildLimits, Findings, Job
from aimass_cloud.build.unpack import FILE_NAME

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 1 << 20
LOG_NAME = "examination.log"
LOG_TAIL_BYTES = 2000
HOSTILE_HINT = "such a file is broken or was made to break the checker; export the model again"


class Examiner:
    """Runs examinations. Its methods may be called from many threads; each call has a child process of its own."""

    def __init__(self) -> None:
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def examine(self, job: Job) -> Findings:
        """Examine the model in ``job.folder``; blocks until the child ends.

        Side effects: the child writes ``job.golden_file`` where golden vectors could be made, and a log.

        Raises:
            ModelInvalidError: it is no usable model, or examining it took too much.
            CancelledError: closed meanwhile.
        """
        try:
            return Findings.from_dict(self._run(job)["findings"])
        except (KeyError, FrameError) as exc:
            raise _invalid("crash", "the checker's answer cannot be read", HOSTILE_HINT) from exc

    def unpack(self, job: Job) -> list[str]:
        """Take the archive ``job.main_file`` apart; the names of its files, which lie beside it.

        Raises:
            ModelInvalidError: it is no archive that can be used.
            CancelledError: closed meanwhile.
        """
        names = self._run(replace(job, is_archive=True)).get("unpacked")
        if not isinstance(names, list) or not all(
            isinstance(name, str) and FILE_NAME.fullmatch(name) for name in names
        ):
            raise _invalid("crash", "the checker's answer cannot be read", HOSTILE_HINT)
        return names

    def close(self) -> None:
        """End what is under way, at once; nothing more is begun."""
        with self._lock:
            self._closed = True
            for child in self._children:
                _kill(child)

    def _run(self, job: Job) -> dict[str, Any]:
        """Run the child; its answer, when it is none of the refusals."""
        child = self._spawn(job)
        try:
            answer = _talk(child, job)
        finally:
            _kill(child)
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None and not pipe.closed:
                    pipe.close()
            with self._lock:
                self._children.discard(child)
                closed = self._closed
        if answer is None and closed:
            raise CancelledError("the cloud is stopping", hint="send it again when it is back", retryable=True)
        if answer is None:
            raise _how_it_died(child.returncode, job)
        return _answer(answer, job.limits)

    def _spawn(self, job: Job) -> subprocess.Popen[bytes]:
        with self._lock, (Path(job.folder) / LOG_NAME).open("wb") as log_file:
            if self._closed:
                raise CancelledError("the cloud is stopping", hint="send it again when it is back", retryable=True)
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "aimass_cloud.build.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                cwd=job.folder,
                env=_environment(job.folder),
                start_new_session=True,
            )
            self._children.add(child)
            return child


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)


def _environment(folder: str) -> dict[str, str]:
    """What the child may know: where our packages are, and nothing of the parent's secrets."""
    packages = (Path(str(package.__file__)).parent.parent for package in (aimass.errors, aimass_cloud))
    return {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(str(path) for path in packages)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": folder,
        "TMPDIR": folder,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _talk(child: subprocess.Popen[bytes], job: Job) -> bytes | None:
    """Hand over the job and read the answer; None if the child ended without one."""
    assert child.stdin is not None
    assert child.stdout is not None
    deadline = time.monotonic() + job.limits.wall_s
    try:
        child.stdin.write(job.to_json().encode() + b"\n")
        child.stdin.close()
    except BrokenPipeError:
        log.warning("the examination's child process died before it took its job")
    answer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while not answer.endswith(b"\n") and len(answer) < MAX_ANSWER_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise _invalid("timeout", f"examining the model took more than {job.limits.wall_s:g} s", HOSTILE_HINT)
            part = os.read(child.stdout.fileno(), 65536)
            if not part:
                break
            answer += part
    return answer if answer.endswith(b"\n") else None


def _answer(answer: bytes, limits: BuildLimits) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = json.loads(answer)
        if "error" not in raw:
            return raw
        error = raw["error"]
        reason, message, hint = str(error["reason"]), str(error["message"]), str(error["hint"])
    except (ValueError, KeyError, TypeError) as exc:
        raise _invalid("crash", "the checker's answer cannot be read", HOSTILE_HINT) from exc
    if reason == "memory":
        raise _out_of_memory(limits)
    if reason == "crash":
        raise _invalid(reason, f"the checker could not handle the model: {message}", HOSTILE_HINT)
    raise _invalid(reason, message, hint or None)


def _how_it_died(code: int, job: Job) -> ModelInvalidError:
    tail = (Path(job.folder) / LOG_NAME).read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
    log.warning("the examination of %s ended with code %d: %s", job.model, code, tail)
    if code in {-signal.SIGXCPU, -signal.SIGKILL}:
        return _invalid("timeout", f"examining the model took more than {job.limits.cpu_s} s of CPU", HOSTILE_HINT)
    if any(word in tail for word in ("bad_alloc", "MemoryError", "annot allocate", "failed to map")):
        return _out_of_memory(job.limits)
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return _invalid("crash", f"the model made the checker crash ({name})", HOSTILE_HINT)


def _out_of_memory(limits: BuildLimits) -> ModelInvalidError:
    message = f"examining the model needs more than {limits.memory_bytes >> 20} MiB of memory"
    return _invalid("memory", message, "quantize or split the model, or raise uploads.check_memory_bytes")


def _invalid(reason: str, message: str, hint: str | None) -> ModelInvalidError:
    return ModelInvalidError(message, hint=hint, reason=reason)
