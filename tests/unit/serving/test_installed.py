"""The repository over a real package store: installed and signed, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aimass.device.store import PackageStore
from aimass.errors import DigestMismatchError, ModelNotFoundError, SignatureError
from aimass.package.keys import SigningKey
from aimass.runtime.runtime import Runtime, RuntimeSettings
from aimass.serving.installed import InstalledModels
from tests.fakes.engines import FakeEngine
from tests.fakes.onnx_models import add, package

KEY = SigningKey.generate()


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime([FakeEngine()], settings=RuntimeSettings(engine_order=("fake",))) as made:
        yield made


@pytest.fixture
def models(tmp_path: Path, runtime: Runtime) -> InstalledModels:
    for version in (1, 2):
        package(tmp_path / "plus" / str(version), add(), name="plus", version=version, key=KEY)
    return InstalledModels(PackageStore(tmp_path, publishers=[KEY.public]), runtime)


def running(runtime: Runtime) -> list[tuple[str, int]]:
    return [(one.name, one.version) for one in runtime.models()]


def test_the_highest_installed_version_is_loaded_once(models: InstalledModels, runtime: Runtime) -> None:
    assert models.installed() == [("plus", 1), ("plus", 2)]
    models.load("plus")
    models.load("plus")
    assert running(runtime) == [("plus", 2)]
    assert runtime.metrics.snapshot().get("swaps", 0) == 0


def test_a_version_by_its_number_takes_the_others_place(models: InstalledModels, runtime: Runtime) -> None:
    models.load("plus", 2)
    models.load("plus", 1)
    assert running(runtime) == [("plus", 1)]


def test_unloading_twice_is_fine(models: InstalledModels, runtime: Runtime) -> None:
    models.load("plus")
    models.unload("plus")
    models.unload("plus")
    assert running(runtime) == []


@pytest.mark.parametrize(("name", "version"), [("stranger", None), ("plus", 3), ("../plus", None)])
def test_what_is_not_installed_is_not_found(models: InstalledModels, name: str, version: int | None) -> None:
    with pytest.raises(ModelNotFoundError):
        models.load(name, version)


def test_what_another_signed_or_somebody_changed_is_refused(
    models: InstalledModels, runtime: Runtime, tmp_path: Path
) -> None:
    package(tmp_path / "foreign" / "1", add(), name="foreign", key=SigningKey.generate())
    with pytest.raises(SignatureError):
        models.load("foreign")
    (tmp_path / "plus" / "2" / "model.onnx").write_bytes(add(9.0))
    with pytest.raises(DigestMismatchError):
        models.load("plus")
    assert running(runtime) == []
