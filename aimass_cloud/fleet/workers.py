"""The pool's processes on this machine: started, watched, started again, ended with us.

A worker is a party like any device: it enrols with a token, holds its models through the same twin, and its process is
its own, so that a model which takes it down takes nothing else.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
HEALTHY_AFTER_S = 60.0
STOP_S = 5.0


class WorkerProcess:
    """Keeps one worker running.

    Args:
        name: for the log.
        command: gives the command and what its standard input is to read (a token, or nothing), anew for each start.
        pauses: first and longest pause before it is started again.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], tuple[Sequence[str], str]],
        *,
        pauses: tuple[float, float] = (FIRST_PAUSE_S, MAX_PAUSE_S),
    ) -> None:
        self.name = name
        self.restarts = 0
        self._command = command
        self._first_pause_s, self._max_pause_s = pauses
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        # The kernel ends a child when the thread that made it ends (PR_SET_PDEATHSIG): one thread for all its lives.
        self._thread = threading.Thread(target=self._run, name=f"worker-{name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """Its process id, or None while there is none."""
        with self._lock:
            return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Begin to keep it running."""
        self._thread.start()

    def begin_stop(self) -> None:
        """Ask it to end; returns at once."""
        self._closed.set()
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()

    def stop(self) -> None:
        """End it: it drains; after a few seconds it is killed."""
        self.begin_stop()
        if not self._thread.is_alive():
            return
        self._thread.join(STOP_S)
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
        self._thread.join()

    def _run(self) -> None:
        pause_s = self._first_pause_s
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                code = self._live()
                if self._closed.is_set():
                    return
                log.warning("worker %s ended with code %s", self.name, code)
            except Exception:  # the loop must go on: without its worker the pool answers nobody
                log.exception("worker %s cannot be started", self.name)
            self.restarts += 1
            if time.monotonic() - began > HEALTHY_AFTER_S:
                pause_s = self._first_pause_s
            self._closed.wait(pause_s)
            pause_s = min(self._max_pause_s, pause_s * 2)

    def _live(self) -> int:
        argv, said = self._command()
        with self._lock:
            if self._closed.is_set():
                return 0
            process = self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
        assert process.stdin is not None
        try:
            process.stdin.write(said.encode())
            process.stdin.close()
        except BrokenPipeError:
            log.debug("worker %s did not read its standard input", self.name)
        return process.wait()
