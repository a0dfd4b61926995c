"""The agent's Unix socket, made so that it is not open to others for a moment.

* It is bound under another name, given its mode, and renamed: it never exists with a wider mode.
* A socket file that a killed agent left is replaced; one that somebody still answers on is not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from aimass.errors import ConfigError, ConflictError

SOCKET_MODE = 0o660
_BACKLOG = 512
_PROBE_TIMEOUT_S = 1.0


def bind_socket(path: Path) -> socket.socket:
    """A listening Unix socket with mode 0660.

    Raises:
        ConflictError: somebody listens there already.
        ConfigError: the path holds something that is not a socket, or its folder cannot be used.
    """
    _refuse_foreign(path)
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        temporary.unlink(missing_ok=True)
        with _mask(~SOCKET_MODE & 0o777):
            sock.bind(str(temporary))
        temporary.chmod(SOCKET_MODE)
        sock.listen(_BACKLOG)
        temporary.rename(path)
    except OSError as exc:
        sock.close()
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot listen on {path}: {exc}", hint="set socket_path to a folder of your own") from exc
    return sock


def remove_socket(path: Path) -> None:
    """Takes the socket's file away when the agent ends."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _refuse_foreign(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} is not a socket; it is not touched", hint="remove it, or set socket_path elsewhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except OSError as exc:
            if exc.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return  # left by an agent that was killed
            # A full backlog (EAGAIN), no permission: somebody is there.
            raise ConflictError(f"{path} is in use: {exc}", hint="stop what listens there") from exc
    raise ConflictError(f"another process answers on {path}", hint="stop it, or set socket_path elsewhere")


@contextlib.contextmanager
def _mask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)
