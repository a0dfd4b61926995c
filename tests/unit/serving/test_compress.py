"""Compressed bodies: what they stand for, and never more of it than allowed."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import Any

import numpy as np
import pytest

from aimass.errors import FrameError, FrameTooLargeError, OverloadError
from aimass.runtime.answer import Answer
from aimass.serving.asgi import Refusal
from aimass.serving.base import DoorSettings
from aimass.serving.compress import accepted_coding, coding_of, deflate, inflate
from aimass.serving.oip import OipDoor
from aimass.wire.oip import Limits
from tests.fakes.asgi import call
from tests.fakes.models import FakeRuntime

INFER = "/v2/models/double/infer"
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, -2.0]}]}).encode()


async def whole(body: bytes, coding: str = "gzip", max_bytes: int = 1 << 24) -> bytes:
    return await inflate(body, coding, max_bytes=max_bytes, grow=lambda _: None)


@pytest.mark.parametrize(("coding", "shorten"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("size", [0, 1, 70_000, 9_000_000])
async def test_long_and_short_bodies_come_back_whole(coding: str, shorten: Any, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert await whole(shorten(body), coding) == body


@pytest.mark.parametrize("max_bytes", [0, 1, 999, 65_536, 9_999_999])
async def test_more_than_allowed_is_refused_and_exactly_that_much_is_not(max_bytes: int) -> None:
    assert len(await whole(gzip.compress(bytes(max_bytes)), max_bytes=max_bytes)) == max_bytes
    with pytest.raises(FrameTooLargeError):
        await whole(gzip.compress(bytes(max_bytes + 1)), max_bytes=max_bytes)


async def test_a_bomb_is_given_up_at_the_limit_and_every_step_was_counted() -> None:
    engine = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    bomb = b"".join(engine.compress(bytes(1 << 20)) for _ in range(64)) + engine.flush()
    grown: list[int] = []
    with pytest.raises(FrameTooLargeError):
        await inflate(bomb, "gzip", max_bytes=10 << 20, grow=grown.append)
    assert sum(grown) <= 10 << 20


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"plain",
        gzip.compress(BODY)[:-1],
        gzip.compress(BODY)[:15],
        gzip.compress(BODY) + b"x",
        gzip.compress(b"") * 2,
    ],
)
async def test_what_is_not_one_whole_gzip_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        await whole(body)


async def test_random_bytes_are_refused_or_inflate_and_nothing_else() -> None:
    chance = random.Random(7)
    for _ in range(300):
        body = bytearray(gzip.compress(BODY * 20))
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        try:
            await whole(bytes(body))
        except FrameError:
            continue


@pytest.mark.parametrize(
    ("value", "coding"),
    [(None, ""), (b"", ""), (b"identity", ""), (b" GZIP ", "gzip"), (b"x-gzip", "gzip"), (b"deflate", "deflate")],
)
def test_codings_by_name(value: bytes | None, coding: str) -> None:
    assert coding_of(value) == coding


@pytest.mark.parametrize("value", [b"br", b"gzip, gzip", b"\xff"])
def test_other_codings_are_refused(value: bytes) -> None:
    with pytest.raises(Refusal):
        coding_of(value)


@pytest.mark.parametrize(
    ("value", "coding"),
    [
        (None, ""), (b"", ""), (b"identity", ""), (b"gzip, deflate, br", "gzip"), (b"deflate;q=0.5", "deflate"),
        (b"gzip;q=0, deflate", "deflate"), (b"*", "gzip"), (b"*;q=0", ""), (b"br;q=1.0, *;q=0", ""),
    ],
)  # fmt: skip
def test_what_a_client_accepts(value: bytes | None, coding: str) -> None:
    assert accepted_coding(value) == coding


async def test_noise_is_sent_as_it_is() -> None:
    assert await deflate(random.Random(1).randbytes(200_000), "gzip") is None
    shorter = await deflate(bytes(200_000), "gzip")
    assert shorter is not None
    assert gzip.decompress(shorter) == bytes(200_000)


@pytest.mark.parametrize(("coding", "shorten"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_request_is_answered(coding: str, shorten: Any) -> None:
    reply = await call(OipDoor(FakeRuntime()), "POST", INFER, shorten(BODY), {"Content-Encoding": coding})
    assert reply.json()["outputs"][0]["data"] == [3.0, -4.0]


async def test_a_body_too_large_when_inflated_is_413_and_gives_its_room_back() -> None:
    door = OipDoor(FakeRuntime(), settings=DoorSettings(limits=Limits(max_message_bytes=10_000)))
    for _ in range(3):
        reply = await call(door, "POST", INFER, gzip.compress(bytes(20_000)), {"Content-Encoding": "gzip"})
        assert (reply.status, reply.json()["parameters"]["code"]) == (413, "wire.too_large")
    assert (await call(door, "POST", INFER, BODY)).status == 200


async def test_inflated_bodies_count_against_what_all_requests_may_hold() -> None:
    def refuse(_: int) -> None:
        raise OverloadError("full")

    with pytest.raises(OverloadError):
        await inflate(gzip.compress(bytes(1000)), "gzip", max_bytes=10_000, grow=refuse)


class TestAnswers:
    LARGE = Answer({"y": np.zeros(20_000, np.float32)}, "double", "1")

    async def ask(self, accept: str | None, **settings: Any) -> Any:
        door = OipDoor(FakeRuntime(answer=lambda _: self.LARGE), settings=DoorSettings(**settings))
        return await call(door, "POST", INFER, BODY, {} if accept is None else {"Accept-Encoding": accept})

    async def test_a_large_answer_is_compressed_for_those_who_ask(self) -> None:
        reply = await self.ask("gzip, deflate")
        assert (reply.headers["content-encoding"], reply.headers["vary"]) == ("gzip", "accept-encoding")
        assert len(json.loads(gzip.decompress(reply.body))["outputs"][0]["data"]) == 20_000

    async def test_nobody_else_gets_it_compressed(self) -> None:
        for accept in (None, "identity", "br"):
            assert "content-encoding" not in (await self.ask(accept)).headers

    async def test_a_small_answer_is_never_compressed(self) -> None:
        assert "content-encoding" not in (await self.ask("gzip", compress_from_bytes=10_000_000)).headers
