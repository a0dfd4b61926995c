"""What the agent carries: every library that is not needed to run is not there."""

from __future__ import annotations

import subprocess
import sys

from tests.fakes.homes import clean_env

NOT_AT_RUN = ("rich", "fastapi", "starlette", "onnxruntime", "openvino", "onnx", "httpx", "sqlalchemy", "sklearn")


def test_the_agent_imports_no_table_no_framework_and_no_engine() -> None:
    code = f"import sys, aimass_edge.agent; print([one for one in {NOT_AT_RUN!r} if one in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, env=clean_env()
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_command_line_alone_imports_next_to_nothing() -> None:
    heavy = (*NOT_AT_RUN, "numpy", "uvicorn", "paho", "pydantic", "cryptography", "psutil")
    code = f"import sys, aimass_edge.__main__; print([one for one in {heavy!r} if one in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, env=clean_env()
    )
    assert done.stdout.strip() == "[]", done.stderr
