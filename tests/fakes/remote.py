"""A cloud for tests of the runtime: it answers what and when the test says, and counts what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aimass.errors import AimassError, CancelledError
from aimass.transport.completion import Completion
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.tensor import Tensor

Outcome = InferResponse | AimassError
Script = Callable[[InferRequest], Outcome | None]


def cloud_says(amount: float = 1000.0, **parameters: Any) -> Script:
    """A cloud that adds an amount to x: a thousand shows that the answer is not the device's."""

    def answer(request: InferRequest) -> InferResponse:
        told = {"served_by": "edge", "engine": "cloud engine", "t_total_us": 100, "t_compute_us": 40, **parameters}
        output = Tensor.from_array("y", request.inputs[0].data + np.float32(amount))
        return InferResponse(request.model, "7", (output,), request.id, told)

    return answer


def refuses(error: AimassError) -> Script:
    return lambda _: error


def silent(_: InferRequest) -> None:
    """Nothing ever comes."""


class FakeCall(Completion[InferResponse]):
    def __init__(self, request: InferRequest, remaining_s: float, correlation: bytes) -> None:
        super().__init__()
        self.request = request
        self.remaining_s = remaining_s
        self.correlation = correlation
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.complete(error=CancelledError("taken back"))

    def end(self, outcome: Outcome) -> None:
        if isinstance(outcome, InferResponse):
            self.complete(outcome)
        else:
            self.complete(error=outcome)


class FakeRemote:
    """Ends each call at once with what the script says; where it says None the call stays open, for the test to end."""

    def __init__(self, script: Script = silent) -> None:
        self.script = script
        self.available = True
        self.calls: list[FakeCall] = []

    def start(self, request: InferRequest, remaining_s: float, *, correlation: bytes | None = None) -> FakeCall:
        call = FakeCall(request, remaining_s, correlation or b"%016d" % len(self.calls))
        self.calls.append(call)
        outcome = self.script(request)
        if outcome is not None:
            call.end(outcome)
        return call
