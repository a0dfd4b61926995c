"""Every datatype through JSON and through the binary form, at its edges."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

from aimass.conformance.connection import Reply, Skipped, expect
from aimass.conformance.lab import Lab, refused, value_of
from aimass.conformance.suite import Run, Section
from aimass.conformance.tensors import EDGES, compose, pack, read_answer

SECTION = Section("T", "Datatypes")
_BINARY_ONLY = ("FP16", "BF16")


def _round_trip(datatype: str, *, is_binary: bool) -> Run:
    def run(lab: Lab) -> None:
        model, values = lab.identity(datatype), EDGES[datatype]
        wish = {"binary_data_output": True} if is_binary else {}
        output = lab.infer(model, [value_of(model, values, is_binary=is_binary)], parameters=wish).only()
        expect(output.datatype == datatype, f"it came back as {output.datatype}")
        expect(output.is_binary == is_binary, "it came back in the other form")
        same = pack(datatype, output.values) == pack(datatype, values)
        expect(same and [*map(type, output.values)] == [*map(type, values)], f"{values} came back as {output.values}")

    return run


for _datatype in EDGES:
    if _datatype not in _BINARY_ONLY:
        SECTION.add(f"{_datatype} comes back unchanged as JSON", _round_trip(_datatype, is_binary=False))
for _datatype in EDGES:
    SECTION.add(f"{_datatype} comes back unchanged in binary form", _round_trip(_datatype, is_binary=True))


def _post(lab: Lab, datatype: str, data: Any, shape: list[int] | None = None) -> Reply:
    model = lab.identity(datatype)
    count = len(data) if shape is None else shape[0]
    entry = {"name": model.inputs[0].name, "shape": [count], "datatype": datatype, "data": data}
    return lab.endpoint.post(f"{model.path}/infer", json.dumps({"inputs": [entry]}).encode())


@SECTION.case("FP32 is printed so that it reads back equal")
def _(lab: Lab) -> None:
    values = [struct.unpack("<f", struct.pack("<I", bits))[0] for bits in (0x3DCCCCCD, 0x3DA64F1C, 0x40490FDB, 1)]
    output = lab.infer(lab.identity(), [value_of(lab.identity(), values)]).only()
    expect(pack("FP32", output.values) == pack("FP32", values), f"{values} came back as {output.values}")


@SECTION.case("NaN and Infinity in JSON are taken, and written as these tokens")
def _(lab: Lab) -> None:
    values = read_answer(_post(lab, "FP32", [math.nan, math.inf, -math.inf])).only().values
    is_right = len(values) == 3 and type(values[0]) is float and math.isnan(values[0])
    expect(is_right and values[1:] == [math.inf, -math.inf], f"they came back as {values}")


@SECTION.case("NaN and Infinity in binary form come back unchanged")
def _(lab: Lab) -> None:
    model, values = lab.identity(), [math.nan, math.inf, -math.inf, -0.0]
    output = lab.infer(model, [value_of(model, values, is_binary=True)], parameters={"binary_data_output": True}).only()
    expect(pack("FP32", output.values) == pack("FP32", values), f"they came back as {output.values}")


@SECTION.case("whole numbers are taken where floats are wanted")
def _(lab: Lab) -> None:
    expect(read_answer(_post(lab, "FP32", [1, 2])).only().values == [1.0, 2.0], "they came back as others")


@SECTION.case("texts with escapes, quotes and other scripts come back unchanged")
def _(lab: Lab) -> None:
    texts = ['"quoted"', "back\\slash", "tab\tand\nline", "世界 🌍", "\u0000zero", ""]
    values = read_answer(_post(lab, "BYTES", texts)).only().values
    expect(values == [one.encode() for one in texts], f"they came back as {values}")


@SECTION.case("bytes that are not UTF-8 come back unchanged in binary form", required=False)
def _(lab: Lab) -> None:
    model, values = lab.identity("BYTES"), [b"\xff\xfe\x00\x80", bytes(range(256))]
    body, headers = compose([value_of(model, values, is_binary=True)], parameters={"binary_data_output": True})
    reply = lab.endpoint.post(f"{model.path}/infer", body, headers)
    if reply.status != 200 and reply.fields().get("error"):
        raise Skipped(f"the model does not take them: {reply.fields()['error']}"[:160])
    expect(read_answer(reply).only().values == values, "they came back as others")


def _refusal(sentence: str, datatype: str, data: list[Any], *, required: bool = True) -> None:
    def run(lab: Lab) -> None:
        refused(_post(lab, datatype, data))

    SECTION.add(sentence, run, required=required)


for _datatype in _BINARY_ONLY:
    _refusal(f"{_datatype} as JSON is refused", _datatype, [1.0])
_refusal("a text where a number is wanted is refused", "FP32", ["1.0"])
_refusal("a fraction where a whole number is wanted is refused", "INT32", [1.5])
_refusal("a number outside the range of its datatype is refused", "UINT8", [256])
_refusal("a negative number for an unsigned datatype is refused", "UINT32", [-1])
_refusal("a number where a text is wanted is refused", "BYTES", [7])
_refusal("an object among the data is refused", "FP32", [{"a": 1}])
_refusal("null among the data is refused", "FP32", [None])
_refusal("a number where true or false is wanted is refused", "BOOL", [2], required=False)
