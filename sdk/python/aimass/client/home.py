"""The home folder of an enrolled party: where it is when nobody says otherwise, and that one process alone uses it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from aimass.errors import ConflictError

SYSTEM_HOME = Path("/var/lib/aimass")
SOCKET_NAME = "agent.sock"
SOCKET_VARIABLE = "AIMASS_SOCKET"


def default_home() -> Path:
    """The system's folder for root, the user's own data folder for everybody else."""
    if os.geteuid() == 0:
        return SYSTEM_HOME
    return Path.home() / ".local" / "share" / "aimass"


def default_socket() -> Path:
    """The agent's socket: from AIMASS_SOCKET, else of the user's own agent where one is, else of the system's."""
    named = os.environ.get(SOCKET_VARIABLE)
    if named:
        return Path(named)
    own = default_home() / SOCKET_NAME
    return own if own.exists() else SYSTEM_HOME / SOCKET_NAME


class HomeLock:
    """Holds a home folder for this process; the lock goes with the process however it ends, so none can be stale.

    Args:
        home: the folder; it exists.

    Raises:
        ConflictError: on entering, when another process holds it.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / "home.lock"
        self._fd = -1

    def __enter__(self) -> Self:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise ConflictError(
                f"{self._path.parent} is in use already (by process {holder or 'unknown'})",
                hint="stop that one first, or use a home of its own for each",
            ) from exc
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
