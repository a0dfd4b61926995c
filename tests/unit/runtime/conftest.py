"""A runtime for each test, closed at its end, and the packages it loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aimass.engine import open_engine
from aimass.runtime.runtime import Runtime
from tests.fakes import onnx_models
from tests.fakes.onnx_models import Package

MakeRuntime = Callable[..., Runtime]
MakePackage = Callable[..., Package]


@pytest.fixture
def runtime_of() -> Iterator[MakeRuntime]:
    """Makes runtimes; ONNX Runtime when no engines are given."""
    made: list[Runtime] = []

    def make(*engines: Any, **options: Any) -> Runtime:
        made.append(Runtime(engines or [open_engine("onnxruntime")], **options))
        return made[-1]

    yield make
    for runtime in made:
        runtime.close()


@pytest.fixture
def package(tmp_path: Path) -> MakePackage:
    """Writes packages; the model adds 1 to x when none is given."""
    count = iter(range(1000))

    def make(data: bytes | None = None, **options: Any) -> Package:
        return onnx_models.package(
            tmp_path / f"package-{next(count)}", onnx_models.add() if data is None else data, **options
        )

    return make
