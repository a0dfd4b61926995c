"""One real child process with a log file, that can be stopped, killed, frozen and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from aimass.cli.waiting import wait_until

TAIL_BYTES = 3000


class Process:
    """A program of a stack.

    It runs in a session of its own, so that Ctrl-C at the terminal reaches only the command that owns the stack, which
    then stops its parts in order.

    Args:
        name: for messages.
        argv: the command.
        log: standard output and error are added to this file.
        env: the whole environment.
    """

    def __init__(self, name: str, argv: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self.env = dict(env)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running (or last) child."""
        assert self._child is not None, f"{self.name} was never started"
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it runs (a frozen one does)."""
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended; negative for a signal; None while it runs."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Start it; does nothing when it runs."""
        if self.alive:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True
            )

    def begin_stop(self) -> None:
        """Ask it to end (SIGTERM); returns at once."""
        self._signal(signal.SIGTERM)

    def stop(self, timeout_s: float = 20) -> None:
        """Ask it to end and wait; SIGKILL when it does not in time."""
        self.begin_stop()
        try:
            self._wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL this one process and wait until it is gone; its children are not touched."""
        self._signal(signal.SIGKILL)
        self._wait(10)

    def freeze(self) -> None:
        """SIGSTOP: it exists, but does nothing at all."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def tail(self) -> str:
        """The end of its log, for error messages."""
        try:
            return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")
        except OSError:
            return ""

    def _wait(self, timeout_s: float) -> None:
        if self._child is not None:
            self._child.wait(timeout_s)

    def _signal(self, number: signal.Signals) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def kill_pid(pid: int, *, timeout_s: float = 10) -> None:
    """SIGKILL a process that is not our direct child and wait until it is gone (or a zombie of its parent)."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), timeout_s=timeout_s, what=f"process {pid} to be gone")


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
