"""What an application sees of AI Mass: one interface, whether an agent answers or its own process does.

    client = aimass.connect()               # through the agent on this machine
    client = aimass.embed(home="app-home")  # the same runtime inside this process

    answer = client.infer("digits", image, deadline_ms=50)
    answer.outputs["scores"], answer.served_by, answer.degraded

`deadline_ms` is the time that remains from the moment of the call. There is an answer or a named error when it is
over: the fallback from cloud to device happens behind this interface, and no caller writes a retry loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy.typing as npt

from aimass.placement.policy import Mode, Policy
from aimass.runtime.answer import Answer
from aimass.runtime.models import ModelInfo

DEFAULT_DEADLINE_MS = 1000.0

Inputs = npt.ArrayLike | Mapping[str, npt.ArrayLike]


@runtime_checkable
class Client(Protocol):
    """Answers of models, and records for the cloud.

    All methods may be called from any thread at once.
    """

    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | int = "",
        outputs: Sequence[str] = (),
        deadline_ms: float | None = None,
        policy: Policy | str | None = None,
        mode: Mode | str | None = None,
    ) -> Answer:
        """An answer before the deadline.

        Args:
            model: the model's name.
            inputs: one array for each input by name; a bare array where the model has one input. Arrays must have
                the model's datatype; Python numbers and lists take it.
            version: a version's number; empty for the one the cloud wants here.
            outputs: names of the outputs wanted; all when empty.
            deadline_ms: remaining time; the client's default when left out.
            policy: `never_worse` or `saving`.
            mode: `auto`, `edge` or `cloud`.

        Raises:
            InputError: name, datatype or shape of an input does not fit the model.
            ModelNotFoundError: no such model or version here.
            DeadlineError: no answer was possible in time.
            OverloadError: refused at once, too much is running.
            ConnectError: there is no agent.
        """

    async def infer_async(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | int = "",
        outputs: Sequence[str] = (),
        deadline_ms: float | None = None,
        policy: Policy | str | None = None,
        mode: Mode | str | None = None,
    ) -> Answer:
        """The same as `infer`, without blocking the event loop."""

    def models(self) -> list[ModelInfo]:
        """Every model version that answers on this device."""

    def model(self, name: str) -> ModelInfo:
        """The default version of a model.

        Raises:
            ModelNotFoundError: there is none.
        """

    def record(self, stream: str, data: Mapping[str, Any], kind: str = "event") -> int:
        """Keeps a record until the cloud has it; it survives power cuts from the moment this returns.

        Args:
            stream: what the record belongs to; `[a-z0-9._-]{1,64}`.
            data: plain JSON values by name.
            kind: what sort of record it is.

        Returns:
            Its sequence number in the stream.

        Raises:
            InputError: a name or the data cannot be kept.
            NoSpaceError: the disk or the stream is full.
            ConnectError: there is no agent, or it went away and did not come back in time.
            DeadlineError: the agent did not answer in time. After these two the record may be kept or not; as long as
                the call itself goes on it is repeated, and kept once.
        """

    def status(self) -> dict[str, Any]:
        """How this party stands: identity, link, models, outbox, counts."""

    def close(self) -> None:
        """Lets go of everything; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
