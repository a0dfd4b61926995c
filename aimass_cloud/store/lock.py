"""One running cloud per state folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aimass.device.files import make_folder
from aimass.errors import ConflictError


@contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Holds the state folder while the block runs; the kernel lets go when the process ends, however it ends.

    Held by ``run`` and by ``restore``; commands that only use the database need no lock.

    Raises:
        ConflictError: another process holds it.
    """
    make_folder(state_dir)
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConflictError(f"a cloud is running on {state_dir}", hint="stop it first") from exc
        yield
    finally:
        os.close(descriptor)
