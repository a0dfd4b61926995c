"""Packages of the application's own, and what an embedded client refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aimass
from aimass.errors import (
    DigestMismatchError,
    EnrolError,
    IdentityError,
    ModelNotFoundError,
    PackageError,
    SignatureError,
)
from aimass.package.keys import SigningKey
from tests.fakes import onnx_models
from tests.fakes.onnx_models import Package, package


@pytest.fixture
def made(tmp_path: Path) -> Package:
    return package(tmp_path / "add", onnx_models.add(), name="add")


def test_an_unsigned_folder_is_refused_until_the_caller_says_otherwise(made: Package) -> None:
    (made.folder / "manifest.json").write_bytes(made.manifest.to_json())
    with pytest.raises(SignatureError) as caught:
        aimass.embed(models=[made.folder])
    assert "allow_unsigned" in caught.value.hint
    with aimass.embed(models=[made.folder], allow_unsigned=True) as client:
        assert client.infer("add", np.ones((1, 2), np.float32)).outputs["y"].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("allow_unsigned", [False, True])
def test_a_foreign_signature_is_refused_even_where_none_is_needed(made: Package, allow_unsigned: bool) -> None:
    stranger = SigningKey.generate().public
    with pytest.raises(SignatureError):
        aimass.embed(models=[made.folder], publisher_keys=[stranger], allow_unsigned=allow_unsigned)


def test_a_changed_file_is_refused(made: Package) -> None:
    (made.folder / "model.onnx").write_bytes(onnx_models.add(2))
    with pytest.raises(DigestMismatchError):
        aimass.embed(models=[made.folder], publisher_keys=[made.key.public])


def test_a_missing_file_is_named(made: Package) -> None:
    (made.folder / "model.onnx").unlink()
    with pytest.raises(PackageError, match=r"model\.onnx"):
        aimass.embed(models=[made.folder], publisher_keys=[made.key.public])


def test_a_folder_without_a_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=str(tmp_path)):
        aimass.embed(models=[tmp_path])


def test_a_home_that_is_not_enrolled_stays_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(IdentityError) as caught:
        aimass.embed(home=tmp_path)
    assert "enrol" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_enrolling_takes_a_path_as_text_and_refuses_a_damaged_token(tmp_path: Path) -> None:
    with pytest.raises(EnrolError):
        aimass.enrol("aimass1.nonsense", str(tmp_path / "home"))
    assert not (tmp_path / "home").exists()
