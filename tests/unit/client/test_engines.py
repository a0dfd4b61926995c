"""Engines that are imported when a model asks for them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from aimass.client.engines import LazyEngine, open_engines, versions_of
from aimass.engine import open_engine
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_it_says_of_itself_what_the_engine_says(name: str) -> None:
    lazy, real = LazyEngine(name), open_engine(name)
    assert lazy.version.split("-")[0] in real.version
    assert (lazy.name, lazy.formats, lazy.providers()) == (real.name, real.formats, real.providers())


def test_knowing_versions_imports_nothing() -> None:
    code = (
        "import sys; from aimass.client.engines import open_engines, versions_of\n"
        "assert versions_of(open_engines(['onnxruntime', 'openvino']))\n"
        "print('onnxruntime' in sys.modules, 'openvino' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "sdk" / "python")}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout == "False False\n"


def test_one_that_is_not_installed_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        engines = open_engines(["no-such-engine", "onnxruntime"])
    assert list(versions_of(engines)) == ["onnxruntime"]
    assert "pip install" in caplog.text
