"""The guard before a loopback TCP door."""

from __future__ import annotations

from typing import Any

import pytest

from aimass.errors import ForbiddenError
from aimass.serving.guard import Guard
from tests.fakes.asgi import AsgiReply, call

TOKEN = "s3cret"
GOOD = {"Host": "127.0.0.1:8317", "Authorization": f"Bearer {TOKEN}"}


async def through(headers: Any) -> AsgiReply:
    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    return await call(Guard(behind, token=TOKEN), "GET", "/v2", headers=headers)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost:8317", "LOCALHOST", "[::1]:8317", "[::1]"])
async def test_a_program_with_the_token_passes(host: str) -> None:
    assert (await through({**GOOD, "Host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8317", "", "[::2]", "localhos"]
)
async def test_a_rebound_name_is_refused_even_with_the_token(host: str) -> None:
    reply = await through({**GOOD, "Host": host})
    assert (reply.status, reply.json()["parameters"]["code"]) == (403, "identity.forbidden")


@pytest.mark.parametrize("hosts", [[], ["127.0.0.1", "evil.example"]])
async def test_host_must_be_there_once(hosts: list[str]) -> None:
    headers = [("host", host) for host in hosts] + [("authorization", f"Bearer {TOKEN}")]
    assert (await through(headers)).status == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:8317"])
async def test_a_web_page_is_refused_even_with_the_token(origin: str) -> None:
    assert (await through({**GOOD, "Origin": origin})).status == 403


@pytest.mark.parametrize("shown", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"bearer {TOKEN}", TOKEN])
async def test_without_the_token_it_is_401(shown: str | None) -> None:
    headers = {"Host": "localhost"} if shown is None else {"Host": "localhost", "Authorization": shown}
    reply = await through(headers)
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")


def test_a_guard_without_a_token_cannot_be_made() -> None:
    with pytest.raises(ForbiddenError):
        Guard(lambda *_: None, token="")  # type: ignore[arg-type, return-value]
