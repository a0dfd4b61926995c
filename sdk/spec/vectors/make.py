#!/usr/bin/env python3
"""Make the byte vectors of the wire and of signed documents: the same bytes on every machine, every time.

    python sdk/spec/vectors/make.py          write them
    python sdk/spec/vectors/make.py --check  say which would change, and write nothing

Frames are put together here with ``struct`` and ``json`` alone, not with the codec they are to test. Vectors of a
released version are never changed or taken away, only added: every later reader must still read them.

``index.json`` lists each file with what it must become. ``frames``: ``expect`` is the message (elements as hex of
their wire bytes, a float parameter as the hex of its IEEE 754 bits, most significant byte first) or ``error`` the code
of ``ERRORS.md``; ``canonical`` marks those that our encoders write byte for byte. ``affine``: floats (hex of their
wire bytes) with the step, zero point and codes they must get. ``topics``: what a topic says.
``signed``: envelopes, the key that is pinned, what is asked for, and the outcome.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HERE = Path(__file__).parent
U32_MAX = 2**32 - 1
Json = dict[str, Any]


# -- frames: parts -----------------------------------------------------------------------------------------------------


def frame(header: Json | bytes | str, body: bytes = b"", *, pad: bool = True, length: int | None = None) -> bytes:
    """A frame around this header; ``length`` lies about its size."""
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else compact(header)).encode()
    raw += b" " * (-(8 + len(raw)) % 8 if pad else 0)
    return struct.pack("<3sBI", b"AIM", 1, len(raw) if length is None else length) + raw + body


def compact(value: Any) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def request(*inputs: Json, **more: Any) -> Json:
    """A request's header to the model ``m``."""
    return {"model_name": "m", "inputs": list(inputs), **more}


def binary(name: str, datatype: str, shape: list[Any], size: Any) -> Json:
    """A tensor entry whose elements follow the header."""
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def listed(name: str, datatype: str, shape: list[Any], data: Any) -> Json:
    """A tensor entry with its elements in the JSON."""
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def tensor(name: str, datatype: str, shape: list[int], raw: bytes) -> Json:
    """What a tensor must become."""
    return {"name": name, "datatype": datatype, "shape": shape, "bytes": raw.hex()}


def strings(*items: bytes) -> bytes:
    """BYTES elements as they travel."""
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def message(*inputs: Json, **more: Any) -> Json:
    """What a request must become."""
    return {"model": "m", "version": "", "id": "", "inputs": list(inputs), "outputs": [], "parameters": {}, **more}


# -- frames: valid -----------------------------------------------------------------------------------------------------

ELEMENTS = {
    "BOOL": b"\x01\x00",
    "UINT8": b"\x00\xff",
    "UINT16": struct.pack("<2H", 1, 65535),
    "UINT32": struct.pack("<2I", 1, U32_MAX),
    "UINT64": struct.pack("<2Q", 2**53 + 1, 2**64 - 1),
    "INT8": struct.pack("<2b", -128, 127),
    "INT16": struct.pack("<2h", -32768, 32767),
    "INT32": struct.pack("<2i", -(2**31), 2**31 - 1),
    "INT64": struct.pack("<2q", -(2**63), 2**53 + 1),
    "FP16": bytes.fromhex("003c007e"),  # 1, NaN
    "BF16": bytes.fromhex("803f80ff"),  # 1, -Infinity
    "FP32": struct.pack("<2f", 0.1, -0.0),
    "FP64": struct.pack("<2d", 0.1, float("inf")),
    "BYTES": strings(b"a\x00b", b"\xff"),
}


def valid_requests() -> dict[str, tuple[bytes, Json, bool]]:
    """Name -> frame, what it means, whether our encoder writes it so."""
    out: dict[str, tuple[bytes, Json, bool]] = {}
    for datatype, raw in ELEMENTS.items():
        header = request(binary("x", datatype, [2], len(raw)))
        out[f"request_{datatype.lower()}"] = (frame(header, raw), message(tensor("x", datatype, [2], raw)), True)
    f8 = struct.pack("<2f", 1, 2)
    x = tensor("x", "FP32", [2], f8)

    def as_read(name: str, header: Json | bytes | str, body: bytes, expect: Json, **how: Any) -> None:
        out[f"request_{name}"] = (frame(header, body, **how), expect, False)

    full = {
        "model_name": "m",
        "model_version": "3",
        "id": "q-1",
        "parameters": {"timeout": 250000, "policy": "saving", "degraded": False, "ratio": 0.5},
        "inputs": [binary("x", "FP32", [1, 2], 8), binary("n", "BYTES", [], 4), binary("z", "INT64", [0, 3], 0)],
        "outputs": [{"name": "y"}, {"name": "p"}],
    }
    asked: Json = {
        "version": "3",
        "id": "q-1",
        "outputs": ["y", "p"],
        "parameters": {
            "timeout": 250000,
            "policy": "saving",
            "degraded": False,
            "ratio": {"float_bits": struct.pack(">d", 0.5).hex()},
        },
    }
    three = (tensor("x", "FP32", [1, 2], f8), tensor("n", "BYTES", [], strings(b"")), tensor("z", "INT64", [0, 3], b""))
    out["request_full"] = (frame(full, f8 + strings(b"")), message(*three, **asked), True)

    as_read("unpadded", request(binary("x", "FP32", [2], 8)), f8, message(x), pad=False)
    as_read("unknown_keys", request(binary("x", "FP32", [2], 8) | {"later": [{}]}, later={"a": 1}), f8, message(x))
    nulls = request(
        binary("x", "FP32", [2], 8) | {"data": None}, id=None, parameters=None, outputs=None, model_version=None
    )
    as_read("nulls", nulls, f8, message(x))
    as_read("implied_size", request({"name": "x", "shape": [2], "datatype": "FP32", "parameters": {}}), f8, message(x))
    as_read("json_flat", request(listed("x", "FP32", [1, 2], [1, 2.0])), b"", message(x | {"shape": [1, 2]}))
    as_read(
        "json_nested", request(listed("x", "FP32", [1, 2, 1], [[[1], [2]]])), b"", message(x | {"shape": [1, 2, 1]})
    )
    as_read(
        "json_empty", request(listed("x", "FP32", [2, 0], [[], []])), b"", message(tensor("x", "FP32", [2, 0], b""))
    )
    big = ELEMENTS["INT64"]
    exact = request(listed("x", "INT64", [2], [-(2**63), 2**53 + 1]))
    as_read("json_beyond_2_53", exact, b"", message(tensor("x", "INT64", [2], big)))
    nan = '{"model_name":"m","inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":[NaN,Infinity,-Infinity]}]}'
    as_read("json_nan", nan, b"", message(tensor("x", "FP32", [3], bytes.fromhex("0000c07f0000807f000080ff"))))
    words = request(listed("x", "BYTES", [2], ["", "\u00e9\u0000\U0001f600"]))
    as_read("json_text", words, b"", message(tensor("x", "BYTES", [2], strings(b"", "\u00e9\0\U0001f600".encode()))))
    mixed = request(binary("a", "FP32", [2], 8), listed("b", "BOOL", [1], [True]), binary("c", "UINT8", [1], 1))
    parts = (tensor("a", "FP32", [2], f8), tensor("b", "BOOL", [1], b"\x01"), tensor("c", "UINT8", [1], b"\x07"))
    as_read("mixed", mixed, f8 + b"\x07", message(*parts))
    deep = '{"model_name":"m","inputs":[],"later":' + "[" * 98 + "]" * 98 + ',"text":"[[{{\\"[["}'
    as_read("nested_99", deep, b"", message())
    return out


def valid_replies() -> dict[str, tuple[bytes, Json, bool]]:
    """As ``valid_requests``, for what comes back."""
    f8 = struct.pack("<2f", 1, 2)
    fields = {
        "id": "q-1",
        "model_name": "m",
        "model_version": "3",
        "parameters": {"served_by": "cloud", "t_compute_us": 812},
        "outputs": [binary("y", "FP32", [2], 8)],
    }
    answer = {
        "model": "m",
        "version": "3",
        "id": "q-1",
        "parameters": {"served_by": "cloud", "t_compute_us": 812},
        "outputs": [tensor("y", "FP32", [2], f8)],
    }
    error = {"error": "queue full", "parameters": {"code": "overload", "retryable": True, "hint": "ask less"}}
    reply = {"message": "queue full", "code": "overload", "retryable": True, "hint": "ask less"}
    foreign = {"message": "boom", "code": "internal", "retryable": False, "hint": ""}
    nulls = {"model_name": "m", "model_version": None, "id": None, "parameters": None, "outputs": []}
    return {
        "reply_response": (frame(fields, f8), answer, True),
        "reply_nulls": (frame(nulls), {"model": "m", "version": "", "id": "", "parameters": {}, "outputs": []}, False),
        "reply_error": (frame(error), reply, True),
        "reply_error_foreign": (frame({"error": "boom"}), foreign, False),
    }


# -- frames: truncated and hostile -------------------------------------------------------------------------------------


def truncated() -> dict[str, tuple[bytes, str]]:
    """Frames that end too early, each with the code they must raise."""
    whole = frame(request(binary("a", "FP32", [2], 8), binary("b", "BYTES", [1], 7)), bytes(8) + strings(b"abc"))
    body_at = len(whole) - 15
    cuts = {"nothing": 0, "magic": 2, "preamble": 7, "no_header": 8, "header": 40, "padding": body_at - 1}
    cuts |= {"no_tensors": body_at, "first_tensor": body_at + 5, "second_tensor": len(whole) - 1}
    return {f"in_{name}": (whole[:size], "wire.frame") for name, size in cuts.items()}


def hostile_headers() -> dict[str, tuple[bytes, str]]:
    """Frames whose preamble or JSON is wrong."""
    good = compact(request(binary("x", "UINT8", [1], 1)))
    f, big = "wire.frame", "wire.too_large"
    texts = {
        "utf8_broken": good.encode().replace(b'"m"', b'"\xff"'),
        "utf16": good.encode("utf-16"),
        "byte_order_mark": b"\xef\xbb\xbf" + good.encode(),
        "json_broken": good.encode().replace(b"}]", b"]", 1),
        "json_list": b"[1]",
        "json_empty": b"        ",
        "number_of_5000_digits": good.encode().replace(b"{", b'{"n":' + b"9" * 5000 + b",", 1),
        "half_surrogate": good.replace('"m"', '"\\ud800"').encode(),
        "nested_101": good.replace("{", '{"n":' + "[" * 100 + "]" * 100 + ",", 1).encode(),
        "nested_20000": good.replace("{", '{"n":' + "[" * 20000 + "]" * 20000 + ",", 1).encode(),
        "nested_unclosed": b'{"n":' + b"[" * 20000,
    }
    out = {name: (frame(raw, b"\x01"), f) for name, raw in texts.items()}
    whole = frame(good, b"\x01")
    out["magic"] = (b"AIN" + whole[3:], f)
    out["version_2"] = (whole[:3] + b"\x02" + whole[4:], "wire.version")
    out["header_of_4_gib"] = (frame(good, b"\x01", length=U32_MAX), big)
    out["header_beyond_the_end"] = (frame(good, b"\x01", length=1000), f)
    out["body_left_over"] = (frame(good, b"\x01\x02"), f)
    fields: dict[str, Json] = {
        "model_missing": {"inputs": []},
        "model_empty": {"model_name": "", "inputs": []},
        "inputs_missing": {"model_name": "m"},
        "inputs_object": {"model_name": "m", "inputs": {}},
        "inputs_numbers": {"model_name": "m", "inputs": [1]},
        "id_number": request(id=7),
        "id_long": request(id="x" * 1025),
        "name_with_newline": {"model_name": "a\nb", "inputs": []},
        "version_number": request(model_version=3),
        "parameters_list": request(parameters=[]),
        "parameter_list": request(parameters={"a": []}),
        "parameter_null": request(parameters={"a": None}),
        "parameter_nan": request(parameters={"a": float("nan")}),
        "parameter_2_64": request(parameters={"a": 2**64}),
        "output_unnamed": request(outputs=[{}]),
        "output_twice": request(outputs=[{"name": "y"}, {"name": "y"}]),
    }
    out |= {name: (frame(header), f) for name, header in fields.items()}
    out["tensors_257"] = (frame(request(*[listed(f"x{i}", "UINT8", [0], []) for i in range(257)])), big)
    return out


def hostile_tensors() -> dict[str, tuple[bytes, str]]:
    """Frames whose header is well formed and whose tensors are not."""
    t, f = "wire.tensor", "wire.frame"

    def one(entry: Json, body: bytes = b"") -> bytes:
        return frame(request(entry), body)

    u8 = binary("x", "UINT8", [1], 1)
    out = {
        "datatype_unknown": (one(u8 | {"datatype": "FP8"}, b"\1"), t),
        "datatype_list": (one(u8 | {"datatype": ["UINT8"]}, b"\1"), t),
        "name_missing": (one({**u8, "name": None}, b"\1"), t),
        "name_twice": (frame(request(u8, u8), b"\1\2"), t),
        "shape_missing": (one({**u8, "shape": None}, b"\1"), t),
        "shape_negative": (one(u8 | {"shape": [-1]}, b"\1"), t),
        "shape_float": (one(u8 | {"shape": [1.0]}, b"\1"), t),
        "shape_bool": (one(u8 | {"shape": [True]}, b"\1"), t),
        "shape_of_17": (one(u8 | {"shape": [1] * 17}, b"\1"), t),
        "shape_overflow": (one(u8 | {"shape": [2**32, 2**32]}, b"\1"), t),
        "shape_overflow_to_one": (one(u8 | {"shape": [2**32, 2**32, 1]}), t),
        "shape_zero_hides_overflow": (one(binary("x", "UINT8", [0, 2**62, 2**62], 0)), t),
        "shape_of_1_tib": (one(u8 | {"shape": [2**40]}, b"\1"), t),
        "size_negative": (one(binary("x", "UINT8", [1], -1), b"\1"), t),
        "size_bool": (one(binary("x", "UINT8", [1], True), b"\1"), t),
        "size_text": (one(binary("x", "UINT8", [1], "1"), b"\1"), t),
        "size_differs": (one(binary("x", "UINT16", [1], 3), b"\1\2\3"), t),
        "size_of_1_tib": (one(binary("x", "UINT8", [2**40], 2**40), b"\1"), f),
        "size_missing_of_two": (frame(request(u8, {"name": "y", "shape": [1], "datatype": "UINT8"}), b"\1\2"), t),
        "size_and_data": (one(u8 | {"data": [1]}, b"\1"), t),
        "bool_2": (one(binary("x", "BOOL", [2], 2), b"\1\2"), t),
        "bytes_count": (one(binary("x", "BYTES", [2**19], 4), bytes(4)), t),
        "bytes_count_2_30": (one(binary("x", "BYTES", [2**30], 4), bytes(4)), "wire.too_large"),
        "bytes_length": (one(binary("x", "BYTES", [1], 6), struct.pack("<I", 3) + b"ab"), t),
        "bytes_length_4_gib": (one(binary("x", "BYTES", [1], 6), struct.pack("<I", U32_MAX) + b"ab"), t),
        "bytes_left_over": (one(binary("x", "BYTES", [1], 6), struct.pack("<I", 1) + b"ab"), t),
        "bytes_half_a_length": (one(binary("x", "BYTES", [2], 8), struct.pack("<I", 2) + b"abcd"), t),
        "codec_unknown": (one({**u8, "parameters": {"binary_data_size": 1, "codec": "zstd"}}, b"\1"), t),
        "shared_memory": (one({**u8, "parameters": {"shared_memory_region": "r"}}), t),
        "json_fp16": (one(listed("x", "FP16", [1], [1])), t),
        "json_bf16": (one(listed("x", "BF16", [1], [1])), t),
        "json_count": (one(listed("x", "UINT8", [2], [1])), t),
        "json_not_a_list": (one(listed("x", "UINT8", [1], 1)), t),
        "json_ragged": (one(listed("x", "UINT8", [2], [[1], 2])), t),
        "json_int_true": (one(listed("x", "UINT8", [1], [True])), t),
        "json_int_1_0": (one(listed("x", "UINT8", [1], [1.0])), t),
        "json_int_range": (one(listed("x", "UINT8", [1], [256])), t),
        "json_int_negative": (one(listed("x", "UINT64", [1], [-1])), t),
        "json_int_text": (one(listed("x", "INT64", [1], ["1"])), t),
        "json_bool_1": (one(listed("x", "BOOL", [1], [1])), t),
        "json_float_true": (one(listed("x", "FP32", [1], [True])), t),
        "json_float_null": (one(listed("x", "FP32", [1], [None])), t),
        "json_float_range": (one(listed("x", "FP32", [1], [1e39])), t),
        "json_float_400_digits": (one(listed("x", "FP64", [1], [10**400])), t),
        "json_bytes_number": (one(listed("x", "BYTES", [1], [1])), t),
    }
    return {f"tensor_{name}": case for name, case in out.items()}


def hostile_replies() -> dict[str, tuple[bytes, str]]:
    """Frames that are no reply."""
    return {
        "reply_empty": (frame({}), "wire.frame"),
        "reply_error_object": (frame({"error": {"text": "boom"}}), "wire.frame"),
        "reply_error_with_tensors": (frame({"error": "boom"}, b"\1"), "wire.frame"),
        "reply_outputs_text": (frame({"model_name": "m", "outputs": "y"}), "wire.frame"),
    }


# -- codecs ------------------------------------------------------------------------------------------------------------


def coded(datatype: str, shape: list[Any], raw: bytes, codec: Any, **more: Any) -> tuple[Json, bytes]:
    """A tensor entry whose elements follow coded, and those bytes."""
    entry = binary("x", datatype, shape, len(raw))
    return entry | {"parameters": entry["parameters"] | {"codec": codec} | more}, raw


def zstd(raw: bytes, *, stated: int | None = None, repeat: int = 0, head: int = 0b11100000) -> bytes:
    """A zstd frame (RFC 8878) around one block as it is, or one byte repeated; ``stated`` lies about the size."""
    size = repeat or len(raw)
    block = (size << 3 | (0b11 if repeat else 0b01)).to_bytes(3, "little") + raw
    return b"\x28\xb5\x2f\xfd" + bytes([head]) + struct.pack("<Q", size if stated is None else stated) + block


def f32(value: float) -> float:
    """Rounded to binary32; for one +, -, * or / of binary32 values, doing it in binary64 first changes nothing."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def rounded(value: float) -> int:
    """Half away from zero. The sum below is exact: binary64 has room for a binary32 of this size and one half."""
    return int(abs(value) + 0.5) * (1 if value >= 0 else -1)


def quantized(values: list[float], levels: int) -> tuple[int, int, list[int]]:
    """Bits of the step, zero point and codes, by WIRE-6.4 word for word."""
    low, high = min(0.0, *values), max(0.0, *values)
    scale = max(f32(f32(high / levels) - f32(low / levels)), 2.0**-126) if low < high else 1.0
    zero = min(rounded(f32(-low / scale)), levels)
    codes = [min(max(rounded(f32(value / scale)) + zero, 0), levels) for value in values]
    return struct.unpack("<I", struct.pack("<f", scale))[0], zero, codes


def affine() -> list[Json]:
    """Floats and what becomes of them, among them ties, subnormals and both ends of the range."""
    near = [0.49999997, 0.5, 1.4999999, 1.5, 2.5, 254.5, 255.0]
    cases = [
        [0.0, -0.0],
        [0.1, 0.2, 1.0],
        [-1.0, -0.25],
        [-1.0, 0.0, 0.5, 3.0],
        near,
        [-value for value in near],
        [-128.0, -127.5, -0.5, 0.5, 1.5, 126.5, 127.0],
        [-7.5, 7.5, -0.5, 0.5, 0.25],
        [1e-45, 0.0],
        [-1e-40, 1e-38],
        [4e36, -4e36, 3.0],
        [2.0**121, 1.0],
        [math.sin(i) * 1.5**i for i in range(40)],
    ]
    out = []
    for values in ([f32(value) for value in case] for case in cases):
        for levels in (255, 15):
            bits, zero, codes = quantized(values, levels)
            raw = struct.pack(f"<{len(values)}f", *values).hex()
            out.append({"values": raw, "levels": levels, "scale_bits": bits, "zero": zero, "codes": codes})
    return out


def valid_coded() -> dict[str, tuple[bytes, Json, bool]]:
    """As ``valid_requests``; the frames are not the only ones for their meaning, since compressors differ."""
    two, half = struct.pack("<I", 0x40000000), struct.pack("<I", 0x3F000000)
    bits = {"scale_bits": 0x3F000000, "zero": 128}
    signed = struct.pack("<3f", -64.0, 0.0, 63.5)
    by_row = two + half + b"\x00\x03"
    rows = struct.pack("<6f", 0, 2, 30, -1.5, 0, 6)
    eights, fours = bytes([0, 1, 15, 0, 3, 15]), bytes([0x10, 0x0F, 0xF3])
    cases: dict[str, tuple[str, list[int], tuple[Json, bytes], bytes]] = {
        "zstd": ("INT16", [3], coded("INT16", [3], zstd(b"abcdef"), "zstd"), b"abcdef"),
        "zstd_repeat": ("UINT8", [2, 9], coded("UINT8", [2, 9], zstd(b"\7", repeat=18), "zstd"), b"\7" * 18),
        "zstd_bool": ("BOOL", [2], coded("BOOL", [2], zstd(b"\0\1"), "zstd"), b"\0\1"),
        "zstd_empty": ("INT64", [0, 3], coded("INT64", [0, 3], b"", "zstd"), b""),
        "fp16": ("FP32", [2], coded("FP32", [2], bytes.fromhex("003c00fc"), "fp16"), struct.pack("<2f", 1, -math.inf)),
        "fp16_zstd": (
            "FP32",
            [2],
            coded("FP32", [2], zstd(bytes.fromhex("003cff7b")), "fp16+zstd"),
            struct.pack("<2f", 1, 65504),
        ),
        "affine8": ("FP32", [3], coded("FP32", [3], bytes([0, 128, 255]), "affine8", **bits), signed),
        "affine8_scalar": ("FP32", [], coded("FP32", [], b"\x80", "affine8", **bits), bytes(4)),
        "affine8_zstd": ("FP32", [3], coded("FP32", [3], zstd(bytes([0, 128, 255])), "affine8+zstd", **bits), signed),
        "affine8_axis": ("FP32", [2, 3], coded("FP32", [2, 3], by_row + eights, "affine8", axis=0), rows),
        "affine8_axis_zstd": (
            "FP32",
            [2, 3],
            coded("FP32", [2, 3], zstd(by_row + eights), "affine8+zstd", axis=0),
            rows,
        ),
        "affine4_axis": ("FP32", [2, 3], coded("FP32", [2, 3], by_row + fours, "affine4", axis=0), rows),
        "affine4_axis_zstd": (
            "FP32",
            [2, 3],
            coded("FP32", [2, 3], zstd(by_row + fours), "affine4+zstd", axis=0),
            rows,
        ),
        "affine4_odd": (
            "FP32",
            [1, 3],
            coded("FP32", [1, 3], two + b"\x01\x10\x02", "affine4", axis=0),
            struct.pack("<3f", -2, 0, 2),
        ),
    }
    return {
        f"coded_{name}": (frame(request(entry), raw), message(tensor("x", datatype, shape, meant)), False)
        for name, (datatype, shape, (entry, raw), meant) in cases.items()
    }


def hostile_coded() -> dict[str, tuple[bytes, str]]:
    """Frames whose tensors are coded wrongly, among them bombs."""
    t, big = "wire.tensor", "wire.too_large"
    bits = {"scale_bits": 0x3F000000, "zero": 128}
    one = struct.pack("<I", 0x3F800000) + b"\x00"
    packed = zstd(b"abcd")
    cases: dict[str, tuple[tuple[Json, bytes], str]] = {
        "unknown": (coded("UINT8", [1], b"\1", "lzma"), t),
        "name_number": (coded("UINT8", [1], b"\1", 1), t),
        "name_upper": (coded("UINT8", [1], b"\1", "ZSTD"), t),
        "zstd_bytes": (coded("BYTES", [1], zstd(bytes(4)), "zstd"), t),
        "zstd_raw": (coded("UINT8", [4], b"abcd", "zstd"), t),
        "zstd_cut_off": (coded("UINT8", [4], packed[:-1], "zstd"), t),
        "zstd_twice": (coded("UINT8", [4], packed * 2, "zstd"), t),
        "zstd_trailing": (coded("UINT8", [4], packed + b"\0", "zstd"), t),
        "zstd_smaller": (coded("UINT8", [5], packed, "zstd"), t),
        "zstd_larger": (coded("UINT8", [3], packed, "zstd"), t),
        "zstd_states_less": (coded("UINT8", [3], zstd(b"abcd", stated=3), "zstd"), t),
        "zstd_states_more": (coded("UINT8", [5], zstd(b"abcd", stated=5), "zstd"), t),
        "zstd_no_size": (coded("UINT8", [1], b"\x28\xb5\x2f\xfd\x00\x00\x09\x00\x00a", "zstd"), t),
        "zstd_skippable": (coded("UINT8", [4], b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"abcd", "zstd"), t),
        "zstd_dictionary": (
            coded("UINT8", [1], b"\x28\xb5\x2f\xfd\x21\x07\x01" + bytes([9, 0, 0]) + b"a", "zstd"),
            t,
        ),
        "zstd_bool_2": (coded("BOOL", [1], zstd(b"\2"), "zstd"), t),
        "zstd_of_nothing": (coded("UINT8", [1], b"", "zstd"), t),
        "zstd_for_empty": (coded("UINT8", [0], zstd(b""), "zstd"), t),
        "bomb_1_tib": (coded("UINT8", [2**40], zstd(b"\0", repeat=2**17, stated=2**40), "zstd"), big),
        "bomb_65_mib": (coded("FP32", [65 << 18], zstd(b"\0", repeat=2**17), "affine8+zstd", **bits), big),
        "bomb_states_1_tib": (coded("UINT8", [4], zstd(b"\0", repeat=4, stated=2**40), "zstd"), t),
        "fp16_of_fp64": (coded("FP64", [1], bytes(2), "fp16"), t),
        "fp16_size": (coded("FP32", [1], bytes(4), "fp16"), t),
        "affine8_of_int": (coded("INT32", [1], b"\0", "affine8", **bits), t),
        "affine8_size": (coded("FP32", [2], b"\0", "affine8", **bits), t),
        "affine8_no_step": (coded("FP32", [1], b"\0", "affine8", zero=0), t),
        "affine8_no_zero": (coded("FP32", [1], b"\0", "affine8", scale_bits=0x3F000000), t),
        "affine8_step_float": (coded("FP32", [1], b"\0", "affine8", scale_bits=0.5, zero=0), t),
        "affine8_step_true": (coded("FP32", [1], b"\0", "affine8", scale_bits=True, zero=0), t),
        "affine8_step_2_32": (coded("FP32", [1], b"\0", "affine8", scale_bits=2**32, zero=0), t),
        "affine8_step_0": (coded("FP32", [1], b"\0", "affine8", scale_bits=0, zero=0), t),
        "affine8_step_subnormal": (coded("FP32", [1], b"\0", "affine8", scale_bits=0x007FFFFF, zero=0), t),
        "affine8_step_negative": (coded("FP32", [1], b"\0", "affine8", scale_bits=0xBF000000, zero=0), t),
        "affine8_step_above_2_119": (coded("FP32", [1], b"\0", "affine8", scale_bits=0x7B000001, zero=0), t),
        "affine8_step_infinite": (coded("FP32", [1], b"\0", "affine8", scale_bits=0x7F800000, zero=0), t),
        "affine8_step_nan": (coded("FP32", [1], b"\0", "affine8", scale_bits=0x7FC00000, zero=0), t),
        "affine8_zero_256": (coded("FP32", [1], b"\0", "affine8", scale_bits=0x3F000000, zero=256), t),
        "affine8_zero_negative": (coded("FP32", [1], b"\0", "affine8", scale_bits=0x3F000000, zero=-1), t),
        "affine8_axis_negative": (coded("FP32", [1], one + b"\0", "affine8", axis=-1), t),
        "affine8_axis_beyond": (coded("FP32", [1], one + b"\0", "affine8", axis=1), t),
        "affine8_axis_text": (coded("FP32", [1], one + b"\0", "affine8", axis="0"), t),
        "affine8_axis_step_nan": (coded("FP32", [1], struct.pack("<I", 0x7FC00000) + b"\0\0", "affine8", axis=0), t),
        "affine8_axis_table_cut_off": (coded("FP32", [3, 1], one * 2, "affine8", axis=0), t),
        "affine4_no_axis": (coded("FP32", [2], b"\0", "affine4", scale_bits=0x3F800000, zero=0), t),
        "affine4_zero_16": (coded("FP32", [1, 2], one[:4] + b"\x10\0", "affine4", axis=0), t),
        "affine4_half_left_over": (coded("FP32", [1, 1], one + b"\x10", "affine4", axis=0), t),
    }
    out = {f"coded_{name}": (frame(request(entry), raw), code) for name, ((entry, raw), code) in cases.items()}
    data = listed("x", "FP32", [1], [1]) | {"parameters": {"codec": "fp16"}}
    out["coded_data"] = (frame(request(data)), t)
    return out


# -- topics ------------------------------------------------------------------------------------------------------------


def topics() -> list[Json]:
    """Topics with what they say, or the code they must raise."""
    good = {
        "d/gw-1/state": ("state", "gw-1", ""),
        "d/gw-1:app/twin/desired": ("desired", "gw-1:app", ""),
        "d/gw-1/twin/reported": ("reported", "gw-1", ""),
        "d/gw-1/evt/audit": ("event", "gw-1", "audit"),
        "d/gw-1/ack": ("ack", "gw-1", ""),
        "d/a.b_c-9/tele/heartbeat": ("telemetry", "a.b_c-9", "heartbeat"),
        "d/gw-1/cmd/reboot": ("command", "gw-1", "reboot"),
        "d/gw-1/res/reboot": ("result", "gw-1", "reboot"),
        "d/gw-1/call/time": ("call", "gw-1", "time"),
        "d/gw-1/rsp/infer": ("reply", "gw-1", "infer"),
        "d/svc:worker-0/state": ("state", "svc:worker-0", ""),
        f"d/{'x' * 64}/state": ("state", "x" * 64, ""),
        "infer/default/gw-1:app/req": ("infer", "gw-1:app", "default"),
        "cloud/state/svc:control": ("cloud_state", "svc:control", ""),
    }
    bad = [
        "",
        "aimass/v1",
        "aimass/v2/d/gw-1/state",
        "aimass/v1/d/gw-1",
        "aimass/v1/d//state",
        "aimass/v1/d/GW-1/state",
        "aimass/v1/d/+/state",
        "aimass/v1/d/gw-1/#",
        "aimass/v1/d/gw-1/evt/+",
        "aimass/v1/d/gw-1/evt",
        "aimass/v1/d/gw-1/evt/a/b",
        "aimass/v1/d/gw-1/twin",
        "aimass/v1/d/gw-1/state/",
        "aimass/v1/d/../state",
        "aimass/v1/d/svc/state",
        "aimass/v1/d/gw-1:/state",
        "aimass/v1/d/gw-1:a:b/state",
        f"aimass/v1/d/{'x' * 65}/state",
        "aimass/v1/d/gw-1/unknown",
        "aimass/v1/d/gw\n1/state",
        "aimass/v1/infer/default/gw-1/res",
        "aimass/v1/infer/+/gw-1/req",
        "$share/default/aimass/v1/infer/default/+/req",
        "/aimass/v1/d/gw-1/state",
    ]
    said = [
        {"topic": f"aimass/v1/{topic}", "expect": {"kind": kind, "identity": identity, "name": name}}
        for topic, (kind, identity, name) in good.items()
    ]
    return said + [{"topic": topic, "error": "wire.frame"} for topic in bad]


# -- signed documents --------------------------------------------------------------------------------------------------

PUBLISHER = ec.derive_private_key(int.from_bytes(hashlib.sha256(b"aimass vector publisher").digest()), ec.SECP256R1())
STRANGER = ec.derive_private_key(int.from_bytes(hashlib.sha256(b"aimass vector stranger").digest()), ec.SECP256R1())
MANIFEST_TYPE = "application/vnd.aimass.manifest+json"
DESIRED_TYPE = "application/vnd.aimass.desired+json"


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half as PEM."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, spki)


def keyid(key: ec.EllipticCurvePrivateKey) -> str:
    """The first 32 hex digits of the digest of the public key."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_key().public_bytes(serialization.Encoding.DER, spki)).hexdigest()[:32]


def canonical(value: Any) -> bytes:
    """Sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def envelope(kind: str, payload: bytes, key: ec.EllipticCurvePrivateKey, *, named: str = "", shown: str = "") -> bytes:
    """A DSSE envelope; ``named`` lies about the key, ``shown`` about the type."""
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    signature = key.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    signatures = [{"keyid": named or keyid(key), "sig": base64.b64encode(signature).decode()}]
    fields = {"payloadType": shown or kind, "payload": base64.b64encode(payload).decode(), "signatures": signatures}
    return compact(fields).encode()


def manifest_fields() -> Json:
    """A manifest with something in every field, and a key from the future."""
    digest = hashlib.sha256(b"").hexdigest()
    return {
        "schema": 1,
        "name": "digits",
        "version": 3,
        "created_at": "2026-01-02T03:04:05+00:00",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
        "files": {"model.onnx": {"sha256": digest, "size_bytes": 0}, "golden.bin": {"sha256": digest, "size_bytes": 0}},
        "variants": [
            {
                "name": "cpu",
                "format": "onnx",
                "precision": "fp32",
                "file": "model.onnx",
                "files": [],
                "platform": {"os": "linux", "arch": "", "engines": ["onnxruntime"]},
            }
        ],
        "golden": {"file": "golden.bin", "rtol": 0.001, "atol": 1e-05},
        "batching": {"max_batch": 8, "max_delay_ms": 2.0},
        "metrics": {"accuracy": 0.97},
        "labels": ["0", "1"],
        "later": {"a": [1]},
    }


def desired_fields() -> Json:
    """A desired document for ``gw-1``."""
    digest = hashlib.sha256(envelope(MANIFEST_TYPE, canonical(manifest_fields()), PUBLISHER)).hexdigest()
    model = {"name": "digits", "version": 3, "manifest_path": f"/v1/blobs/{digest}", "manifest_sha256": digest}
    return {
        "device": "gw-1",
        "epoch": 1767323045000,
        "version": 7,
        "issued_at_ms": 1767323046000,
        "models": [model | {"default": True}],
    }


def changed(fields: Json, path: str, value: Any) -> bytes:
    """The signed manifest with one field set to something else; ``path`` is dotted."""
    fields = json.loads(json.dumps(fields))
    at: Any = fields
    *way, last = path.split(".")
    for step in way:
        at = at[int(step) if isinstance(at, list) else step]
    at[int(last) if isinstance(at, list) else last] = value
    return envelope(MANIFEST_TYPE, canonical(fields), PUBLISHER)


def signed() -> tuple[dict[str, bytes], list[Json]]:
    """The files and their entries in the index."""
    fields = manifest_fields()
    good = envelope(MANIFEST_TYPE, canonical(fields), PUBLISHER)
    digest = hashlib.sha256(good).hexdigest()
    files: dict[str, bytes] = {"valid/publisher.pem": pem(PUBLISHER)}
    index: list[Json] = []

    def manifest(name: str, raw: bytes, error: str, **asked: Any) -> None:
        path = f"{'hostile' if error else 'valid'}/{name}.json"
        files[path] = raw
        entry = {"file": path, "what": "manifest", "key": "valid/publisher.pem", "name": "digits", "version": 3}
        index.append(entry | {"sha256": None} | asked | ({"error": error} if error else {}))

    def desired(name: str, raw: bytes, error: str, **asked: Any) -> None:
        path = f"{'hostile' if error and not asked else 'valid'}/{name}.json"
        files[path] = raw
        entry = {"file": path, "what": "desired", "key": "valid/publisher.pem", "device": "gw-1", "last": None}
        index.append(entry | asked | ({"error": error} if error else {}))

    signature, package, wrong = "trust.signature", "package", "trust.digest"
    manifest("manifest", good, "", sha256=digest)
    manifest("manifest_other_digest", good + b" ", wrong, sha256=digest)
    manifest("manifest_other_version", changed(fields, "version", 4), package)
    manifest("manifest_other_name", changed(fields, "name", "other"), package)
    manifest("manifest_unsigned", canonical(fields), signature)
    manifest("manifest_stranger", envelope(MANIFEST_TYPE, canonical(fields), STRANGER), signature)
    lying = envelope(MANIFEST_TYPE, canonical(fields), STRANGER, named=keyid(PUBLISHER))
    manifest("manifest_stranger_lies", lying, signature)
    payload = base64.b64encode(canonical(fields | {"version": 4})).decode()
    manifest("manifest_payload_changed", compact(json.loads(good) | {"payload": payload}).encode(), signature)
    manifest("manifest_no_signatures", compact(json.loads(good) | {"signatures": []}).encode(), signature)
    as_desired = envelope(DESIRED_TYPE, canonical(fields), PUBLISHER)
    manifest("manifest_signed_as_desired", as_desired, signature)
    manifest("manifest_type_lies", envelope(DESIRED_TYPE, canonical(fields), PUBLISHER, shown=MANIFEST_TYPE), signature)
    spaced = envelope(MANIFEST_TYPE, json.dumps(fields, sort_keys=True).encode(), PUBLISHER)
    manifest("manifest_not_canonical", spaced, package)
    twice = canonical(fields).replace(b'"version":3', b'"version":4,"version":3')
    manifest("manifest_key_twice", envelope(MANIFEST_TYPE, twice, PUBLISHER), package)
    nan = canonical(fields).replace(b"0.97", b"NaN")
    manifest("manifest_nan", envelope(MANIFEST_TYPE, nan, PUBLISHER), package)
    for name, path, value in (
        ("schema_2", "schema", 2),
        ("name_with_slash", "name", "../x"),
        ("version_0", "version", 0),
        ("version_true", "version", True),
        ("no_time_zone", "created_at", "2026-01-02T03:04:05"),
        ("file_outside", "files", {"../model.onnx": fields["files"]["model.onnx"]}),
        ("file_is_the_manifest", "files", fields["files"] | {"manifest.json": fields["files"]["model.onnx"]}),
        ("file_unlisted", "variants.0.file", "other.onnx"),
        ("golden_unlisted", "golden.file", "other.bin"),
        ("digest_short", "files.model.onnx", {"sha256": "ab", "size_bytes": 0}),
        ("size_negative", "files.golden.bin", {"sha256": "0" * 64, "size_bytes": -1}),
        ("no_variants", "variants", []),
        ("no_inputs", "inputs", []),
        ("datatype_unknown", "inputs.0.datatype", "FP8"),
        ("dim_minus_2", "inputs.0.shape", [-2]),
        ("batching_fixed_shape", "inputs.0.shape", [1, 64]),
        ("labels_text", "labels", "01"),
    ):
        if path.startswith("files.") and path.count(".") == 2:  # file names hold the dot themselves
            raw = envelope(MANIFEST_TYPE, canonical(fields | {"files": fields["files"] | {path[6:]: value}}), PUBLISHER)
        else:
            raw = changed(fields, path, value)
        manifest(f"manifest_{name}", raw, package)

    wanted = desired_fields()
    this = [wanted["epoch"], wanted["version"]]
    document = envelope(DESIRED_TYPE, canonical(wanted), PUBLISHER)
    desired("desired", document, "")
    desired("desired", document, "", last=[this[0], this[1] - 1])
    desired("desired", document, "", last=[this[0] - 1, this[1] + 1000])
    desired("desired", document, "trust.rollback", last=this)
    desired("desired", document, "trust.rollback", last=[this[0], this[1] + 1])
    desired("desired", document, "trust.rollback", last=[this[0] + 1, 0])
    desired("desired", document, signature, device="gw-2")
    desired("desired_stranger", envelope(DESIRED_TYPE, canonical(wanted), STRANGER), signature)
    desired("desired_as_manifest", envelope(MANIFEST_TYPE, canonical(wanted), PUBLISHER), signature)
    elsewhere = wanted["models"][0] | {"manifest_path": "https://example.com/v1/blobs/" + "0" * 64}
    for name, models in (("path_elsewhere", [elsewhere]), ("model_twice", wanted["models"] * 2)):
        desired(f"desired_{name}", envelope(DESIRED_TYPE, canonical(wanted | {"models": models}), PUBLISHER), package)
    return files, index


# -- all of it ---------------------------------------------------------------------------------------------------------


def build() -> dict[str, bytes]:
    """Every file below this folder, by its path."""
    files, envelopes = signed()
    frames: list[Json] = []
    for kind, cases in (("request", valid_requests()), ("request", valid_coded()), ("reply", valid_replies())):
        for name, (raw, expect, is_canonical) in cases.items():
            files[f"valid/{name}.bin"] = raw
            frames.append({"file": f"valid/{name}.bin", "kind": kind, "expect": expect, "canonical": is_canonical})
    for folder, kind, bad in (
        ("truncated", "request", truncated()),
        ("hostile", "request", hostile_headers()),
        ("hostile", "request", hostile_tensors()),
        ("hostile", "request", hostile_coded()),
        ("hostile", "reply", hostile_replies()),
    ):
        for name, (raw, code) in bad.items():
            files[f"{folder}/{name}.bin"] = raw
            frames.append({"file": f"{folder}/{name}.bin", "kind": kind, "error": code})
    index = {"affine": affine(), "frames": frames, "topics": topics(), "signed": envelopes}
    files["index.json"] = json.dumps(index, indent=1, sort_keys=True).encode() + b"\n"
    return files


def stale(folder: Path = HERE) -> list[str]:
    """Paths that differ from what would be written, lack, or are no longer made."""
    made = build()
    kept = {p.relative_to(folder).as_posix() for p in folder.glob("*/*") if p.suffix in {".bin", ".json", ".pem"}}
    wrong = {path for path, raw in made.items() if not (folder / path).is_file() or (folder / path).read_bytes() != raw}
    return sorted(wrong | (kept - made.keys()))


def main() -> int:
    """Write the vectors, or with ``--check`` compare them."""
    if "--check" in sys.argv[1:]:
        wrong = stale()
        sys.stdout.write("".join(f"differs: {path}\n" for path in wrong))
        return 1 if wrong else 0
    for path, raw in build().items():
        target = HERE / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(raw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
