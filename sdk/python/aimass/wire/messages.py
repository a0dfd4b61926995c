"""What two sides say to one another about inference: a request, a response, or an error reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from aimass.errors import AimassError, RemoteError
from aimass.wire.tensor import Tensor

Parameter = str | int | float | bool
Parameters = Mapping[str, Parameter]

MAX_MESSAGE_CHARS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """One question to a model.

    Attributes:
        model: its name.
        inputs: tensors, in the order they are sent.
        version: decimal digits, or empty for the one that is active.
        id: the caller's own mark, given back in the answer.
        outputs: names of the outputs wanted; empty for all.
        parameters: the reserved ones are listed in ``sdk/spec/WIRE.md`` (``timeout`` in microseconds remaining, ...).
    """

    model: str
    inputs: tuple[Tensor, ...]
    version: str = ""
    id: str = ""
    outputs: tuple[str, ...] = ()
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class InferResponse:
    """One answer.

    Attributes:
        model: who answered.
        version: which version of it, as text.
        outputs: tensors, in the order they are sent.
        id: the request's.
        parameters: ``served_by``, ``degraded``, timings; see ``sdk/spec/WIRE.md``.
    """

    model: str
    version: str
    outputs: tuple[Tensor, ...]
    id: str = ""
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as it travels.

    Attributes:
        message: one sentence for a person.
        code: one of ``sdk/spec/ERRORS.md``.
        retryable: whether the same request may be sent again.
        hint: what a person can do.
    """

    message: str
    code: str
    retryable: bool
    hint: str = ""

    def to_error(self) -> RemoteError:
        """The exception to raise on the side that asked; ``remote_code`` carries the code."""
        return RemoteError(self.message, hint=self.hint, retryable=self.retryable, remote_code=self.code)

    @classmethod
    def from_error(cls, error: AimassError) -> Self:
        """What to send for an error; one that came from further on keeps its first code."""
        code = error.details.get("remote_code", error.code) if isinstance(error, RemoteError) else error.code
        return cls(error.message[:MAX_MESSAGE_CHARS], str(code), error.retryable, error.hint[:MAX_MESSAGE_CHARS])
