"""What only ONNX Runtime's adapter has: providers by name, foreign errors, the shared thread pool."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aimass.engine import EngineOptions
from aimass.engine.onnx import OnnxEngine, foreign_errors
from aimass.errors import EngineMissingError, ModelLoadError
from tests.conftest import ROOT
from tests.fakes import onnx_models


def test_every_exception_class_of_onnxruntime_is_known() -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    theirs = {kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert len(theirs) > 5
    assert theirs <= set(foreign_errors())


def test_a_device_number_of_a_provider_that_is_missing_is_named_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_models.add())
    with pytest.raises(EngineMissingError, match="CUDA:1"):
        OnnxEngine().load(path, format="onnx", options=EngineOptions(provider="CUDA:1"))


def test_extra_settings_with_a_dot_go_to_the_session(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_models.add())
    options = EngineOptions(extra={"session.load_model_format": "ORT"})
    with pytest.raises(ModelLoadError):  # it is an ONNX file: the setting arrived
        OnnxEngine().load(path, format="onnx", options=options)


def test_one_thread_pool_serves_all_sessions_of_a_process_that_is_wholly_ours(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_models.mlp())
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from aimass.engine import EngineOptions
        from aimass.engine.onnx import OnnxEngine

        engine = OnnxEngine(shared_threads=2)
        threads = lambda: len(list(Path("/proc/self/task").iterdir()))
        options = EngineOptions(intra_threads=2)
        load = lambda: engine.load(Path(sys.argv[1]), format="onnx", options=options)
        sessions = [load()]
        before = threads()
        sessions += [load() for _ in range(10)]
        for session in sessions:
            session.run({"x": np.ones((1, 4), np.float32)})
        print(threads() - before)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model.onnx")],
        env={"PYTHONPATH": f"{ROOT}/sdk/python"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0"


@pytest.mark.parametrize("module", ["aimass.engine", "aimass.runtime.runtime"])
def test_importing_the_package_imports_no_engine(module: str) -> None:
    script = f"import sys, {module}; print([m for m in ('onnxruntime', 'openvino', 'onnx') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{ROOT}/sdk/python"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
