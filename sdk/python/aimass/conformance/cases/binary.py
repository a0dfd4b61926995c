"""The binary tensor extension: framing, both directions, mixed forms, raw requests."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from aimass.conformance.connection import Reply, expect
from aimass.conformance.lab import Lab, refused, value_of
from aimass.conformance.suite import Run, Section
from aimass.conformance.tensors import FRAMING, Answer, compose, pack, read_answer

SECTION = Section("B", "Binary tensors")
VALUES = [1.5, -2.0, 0.0, 3.25]
_RAW = pack("FP32", VALUES)
_OUT = {"binary_data_output": True}


def _framed(lab: Lab, headers: dict[str, str] | None = None, *, name: str = FRAMING, **top: Any) -> Reply:
    model = lab.identity()
    body, framing = compose([value_of(model, VALUES, is_binary=True)], **top)
    return lab.endpoint.post(f"{model.path}/infer", body, {name: framing[FRAMING], **(headers or {})})


def _check(answer: Answer, *, is_binary: bool) -> None:
    output = answer.only()
    expect(output.values == VALUES, f"the values came back as {output.values}")
    expect(output.is_binary == is_binary, f"the output is {'JSON' if is_binary else 'binary'}")


@SECTION.case("binary in, binary out, with no Content-Type (the default of tritonclient)")
def _(lab: Lab) -> None:
    _check(read_answer(_framed(lab, parameters=_OUT)), is_binary=True)


@SECTION.case("the framing header in lower case, and in upper case")
def _(lab: Lab) -> None:
    for name in (FRAMING.lower(), FRAMING.upper()):
        _check(read_answer(_framed(lab, name=name, parameters=_OUT)), is_binary=True)


@SECTION.case("the framing header counts whatever the Content-Type says")
def _(lab: Lab) -> None:
    for kind in ("application/octet-stream", "application/json", "text/plain"):
        _check(read_answer(_framed(lab, {"Content-Type": kind}, parameters=_OUT)), is_binary=True)


@SECTION.case("a binary answer has the framing header and the Content-Type application/octet-stream")
def _(lab: Lab) -> None:
    headers = _framed(lab, parameters=_OUT).headers
    kind = headers.get("content-type", "")
    expect(kind == "application/octet-stream", f"Content-Type is {kind!r}")
    expect(headers.get(FRAMING.lower(), "").isdigit(), "there is no framing header")


@SECTION.case("binary in, JSON out where nothing else is asked")
def _(lab: Lab) -> None:
    _check(read_answer(_framed(lab)), is_binary=False)


@SECTION.case("JSON in, binary out by binary_data_output")
def _(lab: Lab) -> None:
    _check(lab.infer(lab.identity(), [value_of(lab.identity(), VALUES)], parameters=_OUT), is_binary=True)


@SECTION.case("JSON in, binary out by the output's own binary_data")
def _(lab: Lab) -> None:
    model = lab.identity()
    wish = {"name": model.outputs[0].name, "parameters": {"binary_data": True}}
    _check(lab.infer(model, [value_of(model, VALUES)], outputs=[wish]), is_binary=True)


@SECTION.case("the output's binary_data wins over the request's binary_data_output")
def _(lab: Lab) -> None:
    model = lab.identity()
    wish = {"name": model.outputs[0].name, "parameters": {"binary_data": False}}
    _check(lab.infer(model, [value_of(model, VALUES)], outputs=[wish], parameters=_OUT), is_binary=False)


@SECTION.case("JSON and binary inputs in one request, in either order")
def _(lab: Lab) -> None:
    for kinds in ((True, False), (False, True)):
        inputs = [lab.pair(is_binary=kind)[number] for number, kind in enumerate(kinds)]
        answer = lab.infer(lab.probe("add_sub"), inputs, outputs=[{"name": "SUM"}])
        expect(answer.only().values == [11.0, 22.0, 33.0, 44.0], f"SUM is {answer.only().values}")


@SECTION.case("JSON and binary outputs in one response")
def _(lab: Lab) -> None:
    outputs = [
        {"name": "SUM", "parameters": {"binary_data": False}},
        {"name": "DIFFERENCE", "parameters": {"binary_data": True}},
    ]
    answer = lab.infer(lab.probe("add_sub"), lab.pair(), outputs=outputs)
    found = {one.name: (one.is_binary, one.values[0]) for one in answer.outputs}
    expect(found == {"SUM": (False, 11.0), "DIFFERENCE": (True, 9.0)}, f"{found}")


@SECTION.case("binary outputs lie in the order in which the response lists them")
def _(lab: Lab) -> None:
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in ("DIFFERENCE", "SUM")]
    answer = lab.infer(lab.probe("add_sub"), lab.pair(is_binary=True), outputs=outputs)
    found = {one.name: one.values[0] for one in answer.outputs}
    expect(found == {"SUM": 11.0, "DIFFERENCE": 9.0}, f"{found}")


@SECTION.case("a binary tensor without elements is legal, both ways")
def _(lab: Lab) -> None:
    output = lab.infer(lab.identity(), [value_of(lab.identity(), [], is_binary=True)], parameters=_OUT).only()
    expect(output.shape == [0] and output.is_binary, f"{output}")


@SECTION.case("BYTES with zero bytes and empty elements")
def _(lab: Lab) -> None:
    model, values = lab.identity("BYTES"), [b"", b"\x00", b"a\x00\x00b", b""]
    output = lab.infer(model, [value_of(model, values, is_binary=True)], parameters=_OUT).only()
    expect(output.values == values, f"they came back as {output.values}")


@SECTION.case("a megabyte goes both ways")
def _(lab: Lab) -> None:
    values = [float(one % 1000) for one in range(262_144)]
    output = lab.infer(lab.identity(), [value_of(lab.identity(), values, is_binary=True)], parameters=_OUT).only()
    expect(output.values == values, "values were changed")


@SECTION.case("the only binary input may leave out its size", required=False)
def _(lab: Lab) -> None:
    model = lab.identity()
    head = json.dumps({"inputs": [{"name": model.inputs[0].name, "shape": [4], "datatype": "FP32"}]}).encode()
    reply = lab.endpoint.post(f"{model.path}/infer", head + _RAW, {FRAMING: str(len(head))})
    _check(read_answer(reply), is_binary=False)


@SECTION.case("raw request (framing 0): the body is the only input, the answer is binary", required=False)
def _(lab: Lab) -> None:
    reply = lab.endpoint.post(f"{lab.identity().path}/infer", _RAW, {FRAMING: "0"})
    _check(read_answer(reply), is_binary=True)


@SECTION.case("raw request of BYTES: the body is one text, without a length", required=False)
def _(lab: Lab) -> None:
    reply = lab.endpoint.post(f"{lab.identity('BYTES').path}/infer", b"just text", {FRAMING: "0"})
    output = read_answer(reply).only()
    expect(output.values == [b"just text"], f"it came back as {output.values}")


@SECTION.case("raw request to a model with two inputs is refused", required=False)
def _(lab: Lab) -> None:
    refused(lab.endpoint.post(f"{lab.probe('add_sub').path}/infer", bytes(32), {FRAMING: "0"}))


@SECTION.case("raw request of a broken size is refused", required=False)
def _(lab: Lab) -> None:
    refused(lab.endpoint.post(f"{lab.identity().path}/infer", bytes(7), {FRAMING: "0"}))


Change = Callable[[bytes, dict[str, str]], tuple[bytes, dict[str, str]]]


def _broken(change: Change) -> Run:
    """A binary request that is right but for one change."""

    def run(lab: Lab) -> None:
        model = lab.identity()
        body, headers = change(*compose([value_of(model, VALUES, is_binary=True)]))
        refused(lab.endpoint.post(f"{model.path}/infer", body, headers))

    return run


_BROKEN: dict[str, Change] = {
    "a framing length beyond the body is refused": lambda body, _: (body, {FRAMING: str(len(body) + 1)}),
    "a negative framing length is refused": lambda body, _: (body, {FRAMING: "-1"}),
    "a framing length that is no number is refused": lambda body, _: (body, {FRAMING: "many"}),
    "a framing length that cuts the JSON is refused": lambda body, given: (
        body,
        {FRAMING: str(int(given[FRAMING]) - 1)},
    ),
    "bytes left behind the last tensor are refused": lambda body, given: (body + b"\x00", given),
    "a tensor with fewer bytes than declared is refused": lambda body, given: (body[:-1], given),
    "a size that does not fit the shape is refused": lambda body, given: (body.replace(b"[4]", b"[3]", 1), given),
}
for _sentence, _change in _BROKEN.items():
    SECTION.add(_sentence, _broken(_change))


@SECTION.case("a BYTES element that is longer than its tensor is refused")
def _(lab: Lab) -> None:
    model = lab.identity("BYTES")
    raw = struct.pack("<I", 1000) + b"abc"
    entry = {"name": model.inputs[0].name, "shape": [1], "datatype": "BYTES"}
    head = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    refused(lab.endpoint.post(f"{model.path}/infer", head + raw, {FRAMING: str(len(head))}))
