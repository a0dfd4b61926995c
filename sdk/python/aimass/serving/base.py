"""What the doors stand on: the runtime behind them, the packages a caller may load, and the doors' own settings."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aimass.placement.policy import Mode, Policy
from aimass.runtime.answer import Answer
from aimass.runtime.models import ModelInfo
from aimass.wire.messages import InferRequest
from aimass.wire.oip import Limits


class Serves(Protocol):
    """What a door needs of a runtime."""

    def submit(
        self, request: InferRequest, *, deadline_s: float | None = None, policy: Policy = ..., mode: Mode = ...
    ) -> concurrent.futures.Future[Answer]:
        """Starts a request through the bounded queue."""

    def models(self) -> Sequence[ModelInfo]:
        """Every model version that answers here."""

    def model(self, name: str, version: str = "") -> ModelInfo:
        """One of them; the default version when none is named."""


class Repository(Protocol):
    """Packages that are installed here. All methods may take long: a door calls them on a thread."""

    def installed(self) -> Sequence[tuple[str, int]]:
        """Name and version of every package, loaded or not."""

    def load(self, name: str, version: int | None = None) -> None:
        """Let an installed, signed version answer; the highest when none is named. One that answers already stays.

        Raises:
            ModelNotFoundError: it is not installed.
            AimassError: it is not signed by a publisher, or no engine here can run it.
        """

    def unload(self, name: str) -> None:
        """Stop answering for a name; one that does not answer is fine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorSettings:
    """What the doors decide by themselves.

    Attributes:
        name: the server's name in `GET /v2`.
        version: its version there.
        limits: bounds on header, message and tensors; compressed bodies count by their full size.
        body_timeout_s: how long a sender may take for one request body.
        max_json_bytes: a request without a binary part; parsing takes many times its size.
        max_pending_bytes: bodies of all requests in flight together; above it new ones are refused as overload.
        compress_from_bytes: answers below this are never compressed, whatever the client accepts: many clients accept
            gzip without wanting to wait for it.
        policy: for requests that name none.
    """

    name: str = "aimass"
    version: str = ""
    limits: Limits = field(default_factory=Limits)
    body_timeout_s: float = 30.0
    max_json_bytes: int = 16 * 1024 * 1024
    max_pending_bytes: int = 256 * 1024 * 1024
    compress_from_bytes: int = 16 * 1024
    policy: Policy = Policy.SAVING
