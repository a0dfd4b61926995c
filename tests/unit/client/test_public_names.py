"""`import aimass`: small, quick, and exactly what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib

import pytest

import aimass
from tests.conftest import ROOT

HEAVY = ("onnxruntime", "openvino", "paho", "numpy", "cryptography", "fastapi", "rich", "pydantic", "sqlite3")


def run(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "sdk" / "python")}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_it_brings_in_nothing_heavy() -> None:
    loaded = run(f"import sys, aimass; print([one for one in {HEAVY!r} if one in sys.modules])")
    assert loaded == "[]"


def test_connecting_to_an_agent_needs_neither_engine_nor_mqtt() -> None:
    heavy = tuple(set(HEAVY) - {"numpy"})
    code = f"import sys, aimass; aimass.connect('/nowhere'); print([one for one in {heavy!r} if one in sys.modules])"
    assert run(code) == "[]"


def test_every_public_name_can_be_used_and_is_sorted() -> None:
    assert aimass.__all__ == sorted(aimass.__all__)
    for name in aimass.__all__:
        assert getattr(aimass, name) is not None
    assert set(dir(aimass)) >= set(aimass.__all__)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        aimass.nonsense  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert aimass.__version__ == project["version"]
