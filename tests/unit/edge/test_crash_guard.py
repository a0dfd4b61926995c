"""A model that ends the process while it is loaded is not tried for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aimass.errors import ModelLoadError
from aimass.package.manifest import Manifest
from aimass.runtime.models import ModelInfo
from aimass_edge.crash_guard import MAX_DEATHS, CrashGuard
from tests.fakes import onnx_models
from tests.fakes.models import info
from tests.fakes.onnx_models import package


class PowerCut(BaseException):
    """Ends the test's process in the middle of a load, as far as the guard can tell."""


class Host:
    """Loads, refuses, or takes the process with it."""

    def __init__(self, fate: BaseException | None = None) -> None:
        self.fate = fate
        self.calls: list[Any] = []

    def load(self, folder: Path, manifest: Manifest, *, default: bool = True) -> ModelInfo:
        self.calls.append((folder, manifest.name, default))
        if self.fate is not None:
            raise self.fate
        return info(manifest.name, manifest.version)

    def make_default(self, name: str, version: int) -> None:
        self.calls.append(("make_default", name, version))

    def unload(self, name: str, version: int | None = None) -> None:
        self.calls.append(("unload", name, version))

    def models(self) -> list[ModelInfo]:
        return [info()]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return package(tmp_path / "package", onnx_models.add(), name="m").manifest


def die(path: Path, manifest: Manifest) -> None:
    """One life of an agent that ends while it loads: what is on disk then is put back after the unwinding."""
    host = Host()
    guard = CrashGuard(host, path)
    left = b""

    def load(*_: Any, **__: Any) -> ModelInfo:
        nonlocal left
        left = path.read_bytes()
        raise PowerCut

    host.load = load  # type: ignore[method-assign]
    with pytest.raises(PowerCut):
        guard.load(path.parent, manifest)
    path.write_bytes(left)


def test_a_good_model_passes_through(tmp_path: Path, manifest: Manifest) -> None:
    host = Host()
    guard = CrashGuard(host, tmp_path / "loading.json")
    assert guard.load(tmp_path, manifest, default=False).name == "m"
    guard.make_default("m", 1)
    guard.unload("m")
    assert guard.models() == [info()]
    assert host.calls == [(tmp_path, "m", False), ("make_default", "m", 1), ("unload", "m", None)]


def test_after_some_deaths_in_a_row_it_is_not_tried_again(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "loading.json"
    for _ in range(MAX_DEATHS):
        die(path, manifest)
    host = Host()
    with pytest.raises(ModelLoadError, match="in a row") as caught:
        CrashGuard(host, path).load(tmp_path, manifest)
    assert str(path) in caught.value.hint
    assert not host.calls


def test_fewer_deaths_are_forgiven_by_one_good_load(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "loading.json"
    for _ in range(MAX_DEATHS - 1):
        die(path, manifest)
    CrashGuard(Host(), path).load(tmp_path, manifest)
    die(path, manifest)
    assert CrashGuard(Host(), path).load(tmp_path, manifest).name == "m"


def test_an_error_is_no_death(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "loading.json"
    for _ in range(MAX_DEATHS + 1):
        with pytest.raises(ModelLoadError, match="refused"):
            CrashGuard(Host(ModelLoadError("refused")), path).load(tmp_path, manifest)


@pytest.mark.parametrize("content", ["", "[]", "nonsense", '{"m 1": "x"}'])
def test_a_damaged_note_is_begun_anew(tmp_path: Path, manifest: Manifest, content: str) -> None:
    path = tmp_path / "loading.json"
    path.write_text(content)
    assert CrashGuard(Host(), path).load(tmp_path, manifest).name == "m"


def test_a_note_that_cannot_be_written_keeps_no_model_from_answering(tmp_path: Path, manifest: Manifest) -> None:
    guard = CrashGuard(Host(), tmp_path / "nowhere" / "loading.json")
    assert guard.load(tmp_path, manifest).name == "m"
