"""The workers of this machine: who they are, how they are let in, and their processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aimass.device.files import remove_tree
from aimass.device.identity import Identity
from aimass.errors import IdentityError
from aimass.wire.ids import SERVICE_PREFIX
from aimass_cloud.fleet.workers import WorkerProcess


class LocalPool:
    """Workers ``worker-0``, ``worker-1``, ... with their homes below ``workers/`` in the state folder.

    Args:
        state_dir: of the cloud.
        pool: the pool they answer for.
        count: how many.
        is_good: whether an identity's certificate with this serial is still good here; one from before a restore, or
            that ended too long ago, is not.
        new_token: makes an enrol-token for an identity.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        pool: str,
        count: int,
        is_good: Callable[[str, str], bool],
        new_token: Callable[[str], str],
    ) -> None:
        self._state_dir = state_dir
        self._pool = pool
        self._is_good = is_good
        self._new_token = new_token
        self._workers = [self._worker(name) for name in names(count)]

    def start(self) -> None:
        """Begin to keep them running."""
        for worker in self._workers:
            worker.start()

    def begin_stop(self) -> None:
        """Ask all to end; returns at once."""
        for worker in self._workers:
            worker.begin_stop()

    def stop(self) -> None:
        """End all, at the same time."""
        self.begin_stop()
        for worker in self._workers:
            worker.stop()

    def restarts(self) -> Mapping[str, int]:
        """How often each was started again."""
        return {worker.name: worker.restarts for worker in self._workers}

    def _worker(self, name: str) -> WorkerProcess:
        return WorkerProcess(name, lambda: self._command(name))

    def _command(self, name: str) -> tuple[Sequence[str], str]:
        """The command of its next life; a token on standard input when it is to enrol (never as an argument)."""
        home, identity = self._state_dir / "workers" / name, f"{SERVICE_PREFIX}{name}"
        argv = [sys.executable, "-m", "aimass_cloud", "--dir", str(self._state_dir), "worker", "--home", str(home)]
        argv += ["--token", "-", "--pool", self._pool, "--with-parent"]
        if self._knows(identity, home):
            return argv, "\n"
        remove_tree(home / "identity")
        return argv, self._new_token(identity) + "\n"

    def _knows(self, identity: str, home: Path) -> bool:
        try:
            return self._is_good(identity, Identity.load(home).serial)
        except IdentityError:
            return False


def names(count: int) -> list[str]:
    """The names of this machine's workers."""
    return [f"worker-{number}" for number in range(count)]
