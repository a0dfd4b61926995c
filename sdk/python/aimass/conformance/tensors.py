"""Tensors of the protocol, written and read by the standard library alone: an oracle independent of our own codec."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aimass.conformance.connection import Failed, Reply, expect

FRAMING = "Inference-Header-Content-Length"

#: How `struct` calls each datatype; BF16 is a bit pattern here.
FORMATS = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i",
    "INT64": "q", "FP16": "e", "BF16": "H", "FP32": "f", "FP64": "d",
}  # fmt: skip

#: Values at the edges of each datatype.
EDGES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "UINT8": [0, 1, 255],
    "UINT16": [0, 1, 65535],
    "UINT32": [0, 1, 2**32 - 1],
    "UINT64": [0, 2**53 + 1, 2**64 - 1],
    "INT8": [-128, 0, 127],
    "INT16": [-32768, 0, 32767],
    "INT32": [-(2**31), 0, 2**31 - 1],
    "INT64": [-(2**63), 2**53 + 1, 2**63 - 1],
    "FP16": [0.5, -65504.0, 6e-08],
    "BF16": [0x3F80, 0xC000, 0x7F7F],
    "FP32": [0.5, -3.4028234663852886e38, 1.401298464324817e-45],
    "FP64": [0.1, -1.7976931348623157e308, 5e-324],
    "BYTES": [b"plain", "Grüße, 世界".encode(), b"a\x00b", b""],
}


def pack(datatype: str, values: Iterable[Any]) -> bytes:
    """Values as the bytes of a binary tensor."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(one)) + one for one in values)
    flat = list(values)
    return struct.pack(f"<{len(flat)}{FORMATS[datatype]}", *flat)


def unpack(datatype: str, raw: bytes) -> list[Any]:
    """The values in a binary tensor."""
    if datatype == "BYTES":
        return _unpack_texts(raw)
    width = struct.calcsize("<" + FORMATS[datatype])
    expect(len(raw) % width == 0, f"{len(raw)} bytes are no whole number of {datatype}")
    return list(struct.unpack(f"<{len(raw) // width}{FORMATS[datatype]}", raw))


def _unpack_texts(raw: bytes) -> list[bytes]:
    items, at = [], 0
    while at < len(raw):
        expect(at + 4 <= len(raw), "a BYTES tensor ends inside a length")
        end = at + 4 + struct.unpack_from("<I", raw, at)[0]
        expect(end <= len(raw), "a BYTES element is longer than its tensor")
        items.append(raw[at + 4 : end])
        at = end
    return items


@dataclass(frozen=True, slots=True)
class Input:
    """An input to send."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: Sequence[Any]
    is_binary: bool = False
    data: Any = None  #: sent as `data` in place of the flat values
    more: Mapping[str, Any] = field(default_factory=dict)


def compose(inputs: Sequence[Input], **top: Any) -> tuple[bytes, dict[str, str]]:
    """Body and framing header of an infer request; all further keys go to the top level."""
    entries, parts = [], []
    for one in inputs:
        entry: dict[str, Any] = {"name": one.name, "shape": list(one.shape), "datatype": one.datatype}
        if one.is_binary:
            parts.append(pack(one.datatype, one.values))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = _json_values(one) if one.data is None else one.data
        entries.append({**entry, **one.more})
    head = json.dumps({"inputs": entries, **top}).encode()
    return head + b"".join(parts), {FRAMING: str(len(head))} if parts else {}


def _json_values(one: Input) -> list[Any]:
    return [value.decode() for value in one.values] if one.datatype == "BYTES" else list(one.values)


@dataclass(frozen=True, slots=True)
class Output:
    """An output that came back."""

    name: str
    datatype: str
    shape: list[int]
    values: list[Any]
    is_binary: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """An infer response whose framing was found right."""

    fields: dict[str, Any]
    outputs: list[Output]

    def only(self) -> Output:
        """Its one output."""
        expect(len(self.outputs) == 1, f"one output expected, {len(self.outputs)} came")
        return self.outputs[0]


def read_answer(reply: Reply) -> Answer:
    """The response in a reply; framing, sizes and element counts are checked on the way."""
    expect(reply.status == 200, f"status {reply.status}: {reply.body[:160]!r}")
    framing = reply.headers.get(FRAMING.lower())
    head, tail = reply.body, b""
    if framing is not None:
        expect(framing.isdigit() and int(framing) <= len(reply.body), f"{FRAMING} is {framing}")
        head, tail = reply.body[: int(framing)], reply.body[int(framing) :]
    try:
        fields = json.loads(head)
    except ValueError as exc:
        raise Failed(f"the JSON part is not JSON: {head[:80]!r}") from exc
    expect(type(fields) is dict and type(fields.get("outputs")) is list, "the response has no list of outputs")
    outputs = []
    for entry in fields["outputs"]:
        output, tail = _output(entry, tail)
        outputs.append(output)
    expect(not tail, f"{len(tail)} bytes are left behind the last output")
    return Answer(fields, outputs)


def _output(entry: dict[str, Any], tail: bytes) -> tuple[Output, bytes]:
    name, datatype, shape = (entry.get(key) for key in ("name", "datatype", "shape"))
    expect(type(name) is str and type(shape) is list and datatype in EDGES, f"an output is not described: {entry}")
    assert isinstance(datatype, str)
    assert isinstance(shape, list)
    size = (entry.get("parameters") or {}).get("binary_data_size")
    if size is None:
        values = entry.get("data")
        expect(type(values) is list, f"output {name!r} has neither data nor binary_data_size")
        assert isinstance(values, list)
        expect(not any(type(one) is list for one in values), f"the data of output {name!r} is not flat")
        values = [one.encode() if type(one) is str else one for one in values] if datatype == "BYTES" else values
    else:
        expect(type(size) is int and size <= len(tail), f"output {name!r} has fewer bytes than it declares")
        values, tail = unpack(datatype, tail[:size]), tail[size:]
    expect(len(values) == math.prod(shape), f"output {name!r} {shape} has {len(values)} elements")
    return Output(str(name), datatype, shape, values, size is not None), tail
