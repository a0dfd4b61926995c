"""The way to the cloud as the runtime sees it: start a call, be told of its end.

`aimass.runtime.offload` is the one over MQTT. The runtime owns deadline, fallback and the decision to ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from aimass.errors import AimassError
from aimass.wire.messages import InferRequest, InferResponse


class RemoteCall(Protocol):
    """One request on its way. Thread-safe."""

    @property
    def correlation(self) -> bytes:
        """Its idempotency key."""

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""

    @property
    def result(self) -> InferResponse | None:
        """The answer; None while there is none, and when it failed."""

    @property
    def error(self) -> AimassError | None:
        """Why there is no answer.

        `NobodyListensError`, `LinkDownError`, `RefusedError`, `OverloadError`, `FrameTooLargeError`: it did not reach
        anybody who could answer. `RemoteError`: the other side said no. `WireError`: its answer was garbage.
        `DeadlineError`: none came in time.
        """

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back with this call when it is done, at once when it is; often on a network thread, so be quick."""

    def cancel(self) -> None:
        """Nobody waits any more; an answer that still comes is dropped. Done with `CancelledError`."""


class Remote(Protocol):
    """Somebody else who can answer requests."""

    @property
    def available(self) -> bool:
        """Whether a call would be sent now."""

    def start(self, request: InferRequest, remaining_s: float, *, correlation: bytes | None = None) -> RemoteCall:
        """Send a request. Never blocks, never raises because of the link: errors come in the call.

        Args:
            request: what to ask.
            remaining_s: time left, from now.
            correlation: of an earlier call, to ask the same again: it is not worked on twice at one place, and both
                calls end with the first answer.
        """
