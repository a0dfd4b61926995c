"""The signed vectors of ``sdk/spec``: each is accepted, or refused with the code in the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aimass.errors import AimassError
from aimass.package.keys import PublicKey
from aimass.package.trust import accept_desired, accept_manifest

VECTORS = Path(__file__).parents[3] / "sdk" / "spec" / "vectors"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "index.json").read_bytes())["signed"]


def accept(case: dict[str, Any]) -> None:
    envelope = (VECTORS / case["file"]).read_bytes()
    keys = [PublicKey.from_pem((VECTORS / case["key"]).read_bytes())]
    if case["what"] == "manifest":
        asked = {key: case[key] for key in ("sha256", "name", "version")}
        accept_manifest(envelope, publishers=keys, **asked)
    else:
        last = None if case["last"] is None else (case["last"][0], case["last"][1])
        accept_desired(envelope, keys=keys, device=case["device"], last=last)


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{i}-{case['file']}") for i, case in enumerate(CASES)])
def test_signed_vectors_end_as_the_index_says(case: dict[str, Any]) -> None:
    if "error" not in case:
        accept(case)
        return
    with pytest.raises(AimassError) as caught:
        accept(case)
    assert caught.value.code == case["error"]
