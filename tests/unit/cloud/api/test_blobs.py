"""Blobs: whole, in ranges, conditional; after RFC 9110."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_cloud.api.ranges import Span, Unsatisfiable, span_of
from tests.fakes.cloud import CloudInMemory

CONTENT = bytes(range(256)) * 4


@pytest.fixture
def path(cloud: CloudInMemory) -> str:
    return f"/v1/blobs/{cloud.blobs.put([CONTENT]).sha256}"


def etag(path: str) -> str:
    return f'"{path.rsplit("/", 1)[1]}"'


async def test_a_blob_comes_whole_with_its_digest_as_etag(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(path)
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["etag"] == etag(path)
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-length"] == "1024"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=1000-", 1000, 1023),
        ("bytes=-24", 1000, 1023),
        ("bytes=1000-9999", 1000, 1023),
        ("bytes=-9999", 0, 1023),
        ("BYTES=0-1", 0, 1),
    ],
)
async def test_a_range_is_206(http: httpx.AsyncClient, path: str, asked: str, first: int, last: int) -> None:
    response = await http.get(path, headers={"range": asked})
    assert (response.status_code, response.content) == (206, CONTENT[first : last + 1])
    assert response.headers["content-range"] == f"bytes {first}-{last}/1024"


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5000-6000", "bytes=-0"])
async def test_a_range_behind_the_end_is_416(http: httpx.AsyncClient, path: str, asked: str) -> None:
    response = await http.get(path, headers={"range": asked})
    assert response.status_code == 416
    assert response.headers["content-range"] == "bytes */1024"
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=1-2", "bytes=5-2", "bytes=-", "nonsense", "bytes=a-b"])
async def test_what_is_no_single_range_gives_the_whole(http: httpx.AsyncClient, path: str, asked: str) -> None:
    response = await http.get(path, headers={"range": asked})
    assert (response.status_code, response.content) == (200, CONTENT)


async def test_if_range_with_the_same_etag_gives_the_range_and_else_the_whole(
    http: httpx.AsyncClient, path: str
) -> None:
    same = await http.get(path, headers={"range": "bytes=5-", "if-range": etag(path)})
    assert (same.status_code, same.content) == (206, CONTENT[5:])
    other = await http.get(path, headers={"range": "bytes=5-", "if-range": '"other"'})
    assert (other.status_code, other.content) == (200, CONTENT)


async def test_if_none_match_gives_304(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(path, headers={"if-none-match": f'"x", {etag(path)}'})
    assert (response.status_code, response.content) == (304, b"")


async def test_head_tells_the_size_and_sends_nothing(http: httpx.AsyncClient, path: str) -> None:
    response = await http.head(path)
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "1024")
    part = await http.head(path, headers={"range": "bytes=0-9"})
    assert (part.status_code, part.headers["content-length"]) == (206, "10")


async def test_an_empty_blob_can_be_fetched(http: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    path = f"/v1/blobs/{cloud.blobs.put([b'']).sha256}"
    assert (await http.get(path)).content == b""
    assert (await http.get(path, headers={"range": "bytes=0-"})).status_code == 416


@given(st.text(max_size=40), st.integers(0, 10_000))
def test_no_range_header_reaches_outside_of_the_file(header: str, size: int) -> None:
    try:
        span = span_of(header, size)
    except Unsatisfiable:
        return
    assert span is None or (span.offset >= 0 and span.length > 0 and span.offset + span.length <= size)


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 1500))
def test_ranges_mean_what_they_say(first: int, length: int, size: int) -> None:
    last = first + length
    if first >= size:
        with pytest.raises(Unsatisfiable):
            span_of(f"bytes={first}-{last}", size)
    else:
        assert span_of(f"bytes={first}-{last}", size) == Span(first, min(last, size - 1) - first + 1)
