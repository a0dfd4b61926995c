"""Request bodies: each bounded in size and time, and all of them together bounded in memory."""

from __future__ import annotations

from collections.abc import Mapping

from aimass.errors import OverloadError
from aimass.serving.asgi import Receive, check_declared, read_undeclared
from aimass.serving.base import DoorSettings
from aimass.serving.compress import coding_of, inflate


class Hold:
    """What one request holds of the memory for bodies; given back by ``release``."""

    __slots__ = ("_intake", "_size_bytes")

    def __init__(self, intake: Intake, size_bytes: int) -> None:
        self._intake = intake
        self._size_bytes = size_bytes

    def grow(self, size_bytes: int) -> None:
        """Holds more.

        Raises:
            OverloadError: all requests together would hold too much.
        """
        self._intake.take(size_bytes)
        self._size_bytes += size_bytes

    def release(self) -> None:
        """Gives everything back. The request must have let its body go, or be about to."""
        self._intake.pending_bytes -= self._size_bytes
        self._size_bytes = 0


class Intake:
    """Shared by all doors of a process, so that their bounds hold for them together. For one event loop.

    Attributes:
        pending_bytes: what all requests in flight hold.

    Args:
        settings: the bounds.
    """

    def __init__(self, settings: DoorSettings) -> None:
        self._settings = settings
        self.pending_bytes = 0

    def hold(self, headers: Mapping[bytes, bytes]) -> Hold:
        """Counts a body before it is read; one of unknown length counts as the largest that is allowed.

        Raises:
            FrameTooLargeError: its declared length is more than allowed.
            FrameError: its declared length is no number.
            OverloadError: all requests together would hold too much.
        """
        declared = headers.get(b"content-length")
        limit = self._settings.limits.max_message_bytes
        check_declared(declared, limit)
        size = limit if declared is None else int(declared)
        self.take(size)
        return Hold(self, size)

    def take(self, size_bytes: int) -> None:
        """Counts bytes that are about to be kept; a single request always fits."""
        if self.pending_bytes and self.pending_bytes + size_bytes > self._settings.max_pending_bytes:
            raise OverloadError("too many large requests at once", limit_bytes=self._settings.max_pending_bytes)
        self.pending_bytes += size_bytes

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive, hold: Hold) -> bytes:
        """The whole body, inflated if it came compressed.

        Raises:
            Refusal: it is compressed in a way that is not understood.
            FrameTooLargeError: it is longer than allowed, as sent or when inflated.
            FrameError: its compression is broken.
            DeadlineError: the sender was too slow.
            CancelledError: the sender went away.
            OverloadError: all requests together would hold too much.
        """
        coding = coding_of(headers.get(b"content-encoding"))
        limit = self._settings.limits.max_message_bytes
        body = await read_undeclared(receive, max_bytes=limit, timeout_s=self._settings.body_timeout_s)
        if not coding:
            return body
        return await inflate(body, coding, max_bytes=limit, grow=hold.grow)
