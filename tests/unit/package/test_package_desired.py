"""Desired documents."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aimass.errors import PackageError
from aimass.package.desired import Desired
from tests.unit.package.samples import DESIRED, DIGEST

MODEL = {
    "name": "digits",
    "version": 3,
    "manifest_path": f"/v1/blobs/{DIGEST}",
    "manifest_sha256": DIGEST,
    "default": True,
}


def changed(**fields: Any) -> bytes:
    whole = json.loads(DESIRED.to_json()) | fields
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()


def test_a_document_comes_back() -> None:
    # MAN-5.1
    assert Desired.from_json(DESIRED.to_json()) == DESIRED
    assert Desired.from_json(changed(models=[], later=1)).models == ()


def test_a_service_may_be_told_what_to_hold() -> None:
    assert Desired.from_json(changed(device="svc:worker-0")).device == "svc:worker-0"


def test_a_model_is_the_default_unless_it_says_otherwise() -> None:
    model = {key: value for key, value in MODEL.items() if key != "default"}
    assert Desired.from_json(changed(models=[model])).models[0].default


@pytest.mark.parametrize(
    "fields",
    [
        {"device": "GW"},
        {"device": "a/b"},
        {"device": None},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": 1.0},
        {"version": -1},
        {"version": 2**53},
        {"issued_at_ms": "now"},
        {"models": {}},
        {"models": [1]},
        {"models": [{}]},
        {"models": [MODEL | {"name": "../x"}]},
        {"models": [MODEL | {"version": 0}]},
        {"models": [MODEL | {"default": 1}]},
        {"models": [MODEL | {"manifest_sha256": "ab"}]},
        {"models": [MODEL | {"manifest_path": f"https://elsewhere/v1/blobs/{DIGEST}"}]},
        {"models": [MODEL | {"manifest_path": f"//elsewhere/v1/blobs/{DIGEST}"}]},
        {"models": [MODEL | {"manifest_path": "/v1/blobs/../devices"}]},
        {"models": [MODEL | {"manifest_path": f"/v1/blobs/{DIGEST}?x"}]},
        {"models": [MODEL, MODEL]},
        {"models": [MODEL, MODEL | {"version": 4}]},
        {"models": [MODEL | {"name": f"m{i}"} for i in range(1001)]},
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_refuses_what_does_not_say_what_it_must(fields: dict[str, Any]) -> None:
    # MAN-5.2, MAN-5.3
    with pytest.raises(PackageError):
        Desired.from_json(changed(**fields))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", DESIRED.to_json() + b"\n"])
def test_refuses_what_is_not_canonical(raw: bytes) -> None:
    with pytest.raises(PackageError):
        Desired.from_json(raw)
