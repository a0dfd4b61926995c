"""Fetch one signed file: resumed after a break, never longer than signed, right to the last bit or not at all.

The size and digest were signed, so nothing here believes the server: it stops at the first byte too many, and the
digest runs over the whole file, over the part from an earlier attempt too.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aimass.device.cloud_http import DeviceHttp
from aimass.device.files import LOCAL_DISK, Disk, disk_errors, remove_file
from aimass.device.pace import DEFAULT_SHARE, Pace
from aimass.errors import (
    AimassError,
    CancelledError,
    DigestMismatchError,
    DownloadError,
    NoSpaceError,
)
from aimass.package.manifest import FileEntry
from aimass.package.trust import check_file

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How hard to try.

    Attributes:
        attempts: in a row without a new byte, before the error is the caller's.
        max_attempts: in all; a server that gives a byte a connection does not hold us for ever.
        first_pause_s: after the first break; doubles with each one that follows.
        max_pause_s: the longest pause.
        reserve_bytes: room that must be left on the disk beside the file, for the outbox and logs.
        core_share: of one core that a transfer may take; requests need the rest.
    """

    attempts: int = 4
    max_attempts: int = 50
    first_pause_s: float = 0.5
    max_pause_s: float = 10.0
    reserve_bytes: int = 16 * 1024 * 1024
    core_share: float = DEFAULT_SHARE


def fetch(
    http: DeviceHttp,
    path: str,
    entry: FileEntry,
    target: Path,
    *,
    stopped: Callable[[float], bool],
    auth_paths: Sequence[str] = (),
    limits: FetchLimits | None = None,
    disk: Disk = LOCAL_DISK,
) -> None:
    """Bring a file here, going on from what an earlier attempt left.

    Args:
        http: the cloud.
        path: where it is there.
        entry: signed size and digest.
        target: where to put it; its folder exists.
        stopped: waits for so many seconds (0: not at all) and says whether to give up.
        auth_paths: paths to ask the token for; ``path`` when left out.
        limits: how hard to try.
        disk: where to write.

    Raises:
        NoSpaceError: too little room; what had arrived is removed.
        DigestMismatchError: not what was signed; removed.
        DownloadError: broken off too often; what arrived stays for the next call.
        CancelledError: ``stopped`` said so; what arrived stays.
        AimassError: what the cloud answered.
    """
    _Fetch(http, path, entry, target, stopped, tuple(auth_paths), limits or FetchLimits(), disk).run()


def check_room(folder: Path, needed_bytes: int, *, reserve_bytes: int, disk: Disk = LOCAL_DISK) -> None:
    """Refuse before the first byte what cannot fit.

    Raises:
        NoSpaceError: less than the signed size plus the reserve is free.
    """
    free_bytes = disk.free_bytes(folder)
    if free_bytes < needed_bytes + reserve_bytes:
        raise NoSpaceError(
            f"{needed_bytes} bytes are needed and {free_bytes} are free (of which {reserve_bytes} stay in reserve)",
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
        )


@dataclass(frozen=True, slots=True)
class _Fetch:
    _http: DeviceHttp
    _path: str
    _entry: FileEntry
    _target: Path
    _stopped: Callable[[float], bool]
    _auth_paths: tuple[str, ...]
    _limits: FetchLimits
    _disk: Disk

    def run(self) -> None:
        resumed = self._present_bytes() > 0
        check_room(
            self._target.parent,
            self._entry.size_bytes - self._present_bytes(),
            reserve_bytes=self._limits.reserve_bytes,
            disk=self._disk,
        )
        while True:
            self._complete()
            try:
                check_file(self._entry, _digest(self._target), self._present_bytes())
                return
            except DigestMismatchError:
                remove_file(self._target, disk=self._disk)
                if not resumed:
                    raise
                # The part from before may have been torn by a power cut; only a whole download tells.
                log.warning("%s: the resumed file is not what was signed; fetching the whole again", self._path)
                resumed = False

    def _complete(self) -> None:
        """Attempt until the file has its full length."""
        failures = attempts = 0
        while not self._is_complete():
            before = self._present_bytes()
            attempts += 1
            error = self._try_once(before)
            if self._is_complete():
                return
            failures = 0 if self._present_bytes() > before else failures + 1
            if failures >= self._limits.attempts or attempts >= self._limits.max_attempts:
                raise error
            self._pause(failures)

    def _try_once(self, present_bytes: int) -> AimassError:
        """One attempt; the error it gives back is one that another attempt may not meet."""
        if present_bytes >= self._entry.size_bytes:  # more than signed, of whatever earlier build
            remove_file(self._target, disk=self._disk)
            present_bytes = 0
        try:
            self._attempt(present_bytes)
        except (DigestMismatchError, NoSpaceError):  # endless data, or no room: what came is of no use
            remove_file(self._target, disk=self._disk)
            raise
        except AimassError as exc:
            if not exc.retryable:
                raise
            if exc.details.get("restart"):
                remove_file(self._target, disk=self._disk)
            return exc
        return DownloadError(f"{self._path}: the transfer ended early")

    def _attempt(self, offset_bytes: int) -> None:
        with self._http.download(self._path, offset_bytes=offset_bytes, auth_paths=self._auth_paths) as body:
            if body.total_bytes is not None and body.total_bytes != self._entry.size_bytes:
                raise DigestMismatchError(
                    f"{self._path}: the cloud offers {body.total_bytes} bytes, {self._entry.size_bytes} were signed"
                )
            if body.start_bytes not in (0, offset_bytes):
                raise DownloadError(f"{self._path}: asked from byte {offset_bytes}, got from {body.start_bytes}")
            with disk_errors(self._target.name):
                again = body.start_bytes == 0  # the first time, or the server does not know ranges
                file = self._disk.create(self._target) if again else self._disk.append(self._target)
                try:
                    room_bytes, pace = self._entry.size_bytes - body.start_bytes, Pace(self._limits.core_share)
                    for chunk in body.chunks:
                        if len(chunk) > room_bytes:
                            raise DigestMismatchError(
                                f"{self._path}: more than the signed {self._entry.size_bytes} bytes"
                            )
                        file.write(chunk)
                        room_bytes -= len(chunk)
                        if self._stopped(pace.rest_s()):
                            raise CancelledError(f"{self._path}: not wanted any more")
                finally:
                    file.close()

    def _pause(self, failures: int) -> None:
        limits = self._limits
        if self._stopped(min(limits.first_pause_s * 2.0 ** max(failures - 1, 0), limits.max_pause_s)):
            raise CancelledError(f"{self._path}: not wanted any more")

    def _is_complete(self) -> bool:
        return self._target.exists() and self._present_bytes() == self._entry.size_bytes

    def _present_bytes(self) -> int:
        try:
            return self._target.stat().st_size
        except FileNotFoundError:
            return 0


def _digest(path: Path) -> str:
    digest: _Hash = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
