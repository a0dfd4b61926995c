"""The byte vectors of ``sdk/spec``: each file means what the index says, and is what the generator makes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from aimass.errors import FrameError, WireError
from aimass.wire import frame, topics
from aimass.wire.messages import ErrorReply, InferRequest, InferResponse
from tests.unit.wire.canonical import canonical

VECTORS = Path(__file__).parents[3] / "sdk" / "spec" / "vectors"
INDEX: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "index.json").read_bytes())


def read(case: dict[str, Any]) -> InferRequest | InferResponse | ErrorReply:
    raw = (VECTORS / case["file"]).read_bytes()
    return frame.unpack_request(raw) if case["kind"] == "request" else frame.unpack_reply(raw)


def of(cases: list[dict[str, Any]], key: str) -> list[Any]:
    return [pytest.param(case, id=case.get("file") or case["topic"][:40]) for case in cases if key in case]


@pytest.mark.parametrize("case", of(INDEX["frames"], "expect"))
def test_valid_frames_mean_what_the_index_says(case: dict[str, Any]) -> None:
    assert canonical(read(case)) == case["expect"]


@pytest.mark.parametrize("case", of([c for c in INDEX["frames"] if c.get("canonical")], "expect"))
def test_we_write_the_canonical_ones_byte_for_byte(case: dict[str, Any]) -> None:
    match read(case):
        case InferRequest() as request:
            written = frame.pack_request(request)
        case InferResponse() as response:
            written = frame.pack_response(response)
        case ErrorReply() as reply:
            written = frame.pack_error(reply)
    assert written == (VECTORS / case["file"]).read_bytes()


@pytest.mark.parametrize("case", of(INDEX["frames"], "error"))
def test_broken_frames_raise_their_code(case: dict[str, Any]) -> None:
    with pytest.raises(WireError) as caught:
        read(case)
    assert caught.value.code == case["error"]


@pytest.mark.parametrize("case", of(INDEX["topics"], "expect"))
def test_topics_say_what_the_index_says(case: dict[str, Any]) -> None:
    found = topics.parse(case["topic"])
    assert {"kind": str(found.kind), "identity": found.identity, "name": found.name} == case["expect"]


@pytest.mark.parametrize("case", of(INDEX["topics"], "error"))
def test_broken_topics_raise_their_code(case: dict[str, Any]) -> None:
    with pytest.raises(FrameError) as caught:
        topics.parse(case["topic"])
    assert caught.value.code == case["error"]


def test_the_files_are_what_the_generator_makes() -> None:
    spec = importlib.util.spec_from_file_location("aimass_vectors_make", VECTORS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.stale() == [], "run: python sdk/spec/vectors/make.py"


def test_every_code_of_the_wire_is_provoked() -> None:
    assert {case["error"] for case in INDEX["frames"] if "error" in case} == {
        "wire.frame",
        "wire.tensor",
        "wire.too_large",
        "wire.version",
    }
