"""A runtime without engines, for tests of doors: it answers what the test says, and writes down what it was asked."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import numpy as np

from aimass.errors import AimassError, ModelNotFoundError
from aimass.runtime.answer import Answer
from aimass.runtime.models import ModelInfo
from aimass.wire.messages import InferRequest
from aimass.wire.tensor import Datatype, TensorSpec


def info(name: str = "double", version: int = 1, **changes: Any) -> ModelInfo:
    """A model that takes x and gives y, both (-1, 2) FP32."""
    values: dict[str, Any] = {
        "inputs": (TensorSpec("x", Datatype.FP32, (-1, 2)),),
        "outputs": (TensorSpec("y", Datatype.FP32, (-1, 2)),),
        "engine": "fake",
        "provider": "CPU",
        "variant": "fp32",
        **changes,
    }
    return ModelInfo(name=name, version=version, **values)


def doubled(request: InferRequest) -> Answer:
    """Twice the input."""
    outputs = {"y": request.inputs[0].data * np.float32(2)}
    return Answer(outputs, request.model, request.version or "1", engine="fake", timings_ms={"total": 0.5})


class FakeRuntime:
    """Answers at once, or when the test settles the future itself (`answer=None`)."""

    def __init__(
        self, *models: ModelInfo, answer: Callable[[InferRequest], Answer | AimassError] | None = doubled
    ) -> None:
        self._models = list(models or [info()])
        self._answer = answer
        self.asked: list[tuple[InferRequest, dict[str, Any]]] = []
        self.futures: list[concurrent.futures.Future[Answer]] = []

    def submit(self, request: InferRequest, **how: Any) -> concurrent.futures.Future[Answer]:
        self.asked.append((request, how))
        future: concurrent.futures.Future[Answer] = concurrent.futures.Future()
        self.futures.append(future)
        if self._answer is not None:
            answer = self._answer(request)
            if isinstance(answer, AimassError):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        return future

    def models(self) -> list[ModelInfo]:
        return self._models

    def model(self, name: str, version: str = "") -> ModelInfo:
        for one in self._models:
            if one.name == name and version in ("", str(one.version)):
                return one
        raise ModelNotFoundError(f"no model {name!r} {version}")
