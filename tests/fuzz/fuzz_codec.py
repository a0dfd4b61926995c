"""Invariant: any bytes are a message or raise the one error of their decoder - nothing else, in bounded memory.

``fuzz_one`` is the target for atheris or any libFuzzer driver:

    python -m tests.fuzz.fuzz_codec CORPUS_FOLDER     (needs atheris; vectors of sdk/spec are a good first corpus)

``test_codec_fuzz.py`` drives the same function with seeded mutations under plain pytest.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from contextlib import suppress

from aimass.errors import FrameError, PackageError, SignatureError, WireError
from aimass.package.desired import Desired
from aimass.package.envelope import MANIFEST_TYPE, open_envelope
from aimass.package.golden import unpack_golden
from aimass.package.manifest import Manifest
from aimass.wire import frame, topics
from aimass.wire.messages import ErrorReply, InferRequest, InferResponse
from aimass.wire.oip import Limits, decode_request, decode_response, wants_binary
from tests.unit.wire.canonical import canonical

LIMITS = Limits(max_message_bytes=1 << 20, max_strings=1 << 12)

TOKENS = (
    b'"data":',
    b'"shape":[',
    b'"datatype":"BYTES"',
    b'"parameters":{"binary_data_size":',
    b'"codec":"zstd",',
    b'"codec":"affine8",',
    b'"codec":"affine4+zstd","axis":0,',
    b'"scale_bits":1065353216,"zero":7,',
    b"\x28\xb5\x2f\xfd",
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"9007199254740993",
    b"18446744073709551616",
    b"-1",
    b"null",
    b"true",
    b"\\ud800",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"[" * 101,
    b"]" * 101,
    b"{}",
    b"[]",
    b'"',
    b"\\",
    b"AIM\x01",
    b"aimass/v1/d/",
)


def fuzz_one(data: bytes) -> None:
    """Give the bytes to every decoder; what one of them takes must survive being written and read again."""
    with suppress(WireError):
        _again(frame.unpack_request(data, LIMITS))
    with suppress(WireError):
        _again(frame.unpack_reply(data, LIMITS))
    split = data[0] if data else 0
    with suppress(WireError):
        _again(decode_request(data[1 : 1 + split], data[1 + split :], model="m", limits=LIMITS))
    with suppress(WireError):
        _again(decode_response(data, limits=LIMITS))
    with suppress(FrameError):
        wants_binary({"parameters": {"binary_data_output": data}}, "y")
    with suppress(FrameError):
        topics.parse(data.decode("latin-1"))
    with suppress(FrameError):
        topics.answer_topic(data.decode("utf-8", "replace"))
    with suppress(SignatureError):
        open_envelope(data, payload_type=MANIFEST_TYPE, keys=[])
    with suppress(PackageError):
        assert Manifest.from_json(Manifest.from_json(data).to_json())
    with suppress(PackageError):
        assert Desired.from_json(Desired.from_json(data).to_json())
    with suppress(PackageError):
        unpack_golden(data, LIMITS)


def mutated(dice: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One of the corpus, changed in one to four places."""
    data = bytearray(dice.choice(corpus))
    for _ in range(dice.randint(1, 4)):
        at = dice.randint(0, len(data))
        match dice.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << dice.randrange(8)
            case 1 if data:
                data[at % len(data)] = dice.randrange(256)
            case 2:
                data[at:at] = dice.choice(TOKENS)
            case 3:
                del data[at : at + dice.randint(1, 16)]
            case 4:
                data[at : at + dice.randint(1, 16)] = dice.choice(TOKENS)
            case 5:
                other = dice.choice(corpus)
                start = dice.randint(0, len(other))
                data[at:] = other[start : start + 400]
            case _:
                data[at:at] = data[at : at + dice.randint(1, 64)]
    return bytes(data)


def _again(message: InferRequest | InferResponse | ErrorReply) -> None:
    match message:
        case InferRequest():
            again: InferRequest | InferResponse | ErrorReply = frame.unpack_request(frame.pack_request(message))
        case InferResponse():
            again = frame.unpack_reply(frame.pack_response(message))
        case ErrorReply():
            again = frame.unpack_reply(frame.pack_error(message))
    if canonical(again) != canonical(message):
        raise AssertionError(f"{canonical(message)} became {canonical(again)}")


def main() -> None:
    """Fuzz until stopped or until something is found."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
