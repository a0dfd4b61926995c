"""Requests that are wrong: each must be a 4xx with the error object, never a 5xx, never a dead server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aimass.conformance.connection import Reply, expect
from aimass.conformance.lab import Lab, refused
from aimass.conformance.suite import Run, Section

SECTION = Section("E", "Wrong requests")


def _body(lab: Lab, **changes: Any) -> bytes:
    """A right request but for these keys of its only input; a key that is None is left out."""
    entry = {"name": lab.identity().inputs[0].name, "shape": [2], "datatype": "FP32", "data": [1.0, 2.0], **changes}
    return json.dumps({"inputs": [{key: value for key, value in entry.items() if value is not None}]}).encode()


def _post(lab: Lab, body: bytes) -> Reply:
    return lab.endpoint.post(f"{lab.identity().path}/infer", body)


def _top(**changes: Any) -> Callable[[Lab], bytes]:
    return lambda lab: json.dumps({**json.loads(_body(lab)), **changes}).encode()


def _input(**changes: Any) -> Callable[[Lab], bytes]:
    return lambda lab: _body(lab, **changes)


def _exactly(body: bytes) -> Callable[[Lab], bytes]:
    return lambda _: body


_WRONG: dict[str, Callable[[Lab], bytes]] = {
    "an empty body": _exactly(b""),
    "a body that is not JSON": _exactly(b"{inputs: nonsense"),
    "JSON that is no object": _exactly(b"[1, 2]"),
    "JSON that is not UTF-8": _exactly(b'{"inputs": "\xff\xfe"}'),
    "no inputs": _exactly(b"{}"),
    "inputs that are no list": _exactly(b'{"inputs": {"name": "x"}}'),
    "an empty list of inputs": _exactly(b'{"inputs": []}'),
    "an id that is a number": _top(id=7),
    "an input of an unknown name": _input(name="no_such_input"),
    "an input without a name": _input(name=None),
    "an input without a shape": _input(shape=None),
    "an input without a datatype": _input(datatype=None),
    "an input without data": _input(data=None),
    "an unknown datatype": _input(datatype="FP99"),
    "another datatype than the model's": _input(datatype="INT32", data=[1, 2]),
    "fewer elements than the shape has": _input(shape=[3]),
    "more elements than the shape has": _input(shape=[1]),
    "a shape that is no list": _input(shape=2),
    "a dimension that is a fraction": _input(shape=[2.5]),
    "a negative dimension": _input(shape=[-2]),
    "dimensions whose product overflows 64 bits": _input(shape=[2**33, 2**33]),
    "dimensions far beyond the data": _input(shape=[2**40]),
    "nested rows of different sizes": _input(shape=[2, 2], data=[[1.0, 2.0], [3.0]]),
    "an input that is given twice": lambda lab: json.dumps({"inputs": json.loads(_body(lab))["inputs"] * 2}).encode(),
    "an unknown output": _top(outputs=[{"name": "no_such_output"}]),
    "outputs that are no list": _top(outputs="all"),
    "parameters that are no object": _top(parameters=[1]),
}


def _refusal(make: Callable[[Lab], bytes]) -> Run:
    def run(lab: Lab) -> None:
        refused(_post(lab, make(lab)))

    return run


for _what, _make in _WRONG.items():
    SECTION.add(f"{_what} is refused", _refusal(_make))


@SECTION.case("an input that is missing is refused, and the error names it or the number wanted")
def _(lab: Lab) -> None:
    text = refused(lab.post(lab.probe("add_sub"), lab.pair()[:1]))
    expect("B" in text or "2" in text, f"the error is {text!r}")


@SECTION.case("a shape without the batch dimension is refused, and the error repeats the shape expected")
def _(lab: Lab) -> None:
    entries = [{"name": name, "shape": [4], "datatype": "FP32", "data": [1.0] * 4} for name in "AB"]
    body = json.dumps({"inputs": entries}).encode()
    text = refused(lab.endpoint.post(f"{lab.probe('add_sub').path}/infer", body))
    expect("[-1,4]" in text.replace(" ", ""), f"the error is {text!r}")


@SECTION.case("lists nested 100,000 deep are refused")
def _(lab: Lab) -> None:
    body = _body(lab).replace(b"[1.0, 2.0]", b"[" * 100_000 + b"1.0" + b"]" * 100_000)
    refused(_post(lab, body))


@SECTION.case("a declared length of a terabyte is refused before the body comes", required=False)
def _(lab: Lab) -> None:
    reply = lab.endpoint.post(f"{lab.identity().path}/infer", b"", {"Content-Length": str(1 << 40)})
    lab.endpoint.close()
    refused(reply)


@SECTION.case("after all of that the server still answers")
def _(lab: Lab) -> None:
    expect(_post(lab, _body(lab)).status == 200, "it does not")
