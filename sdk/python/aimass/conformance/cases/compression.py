"""gzip and deflate, of requests and of answers."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

from aimass.conformance.connection import Failed, Reply, expect
from aimass.conformance.lab import Lab, refused, value_of
from aimass.conformance.suite import Run, Section
from aimass.conformance.tensors import FRAMING, compose, read_answer

SECTION = Section("C", "Compression")
VALUES = [1.5, -2.0, 0.0, 3.25]
_SHORTEN: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
_RESTORE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
_MANY = 100_000


def _request(coding: str, *, is_binary: bool) -> Run:
    def run(lab: Lab) -> None:
        model = lab.identity()
        wish = {"binary_data_output": is_binary}
        body, headers = compose([value_of(model, VALUES, is_binary=is_binary)], parameters=wish)
        reply = lab.endpoint.post(
            f"{model.path}/infer", _SHORTEN[coding](body), {**headers, "Content-Encoding": coding}
        )
        expect(read_answer(_plain(reply)).only().values == VALUES, "values were changed")

    return run


def _response(coding: str, *, is_binary: bool) -> Run:
    def run(lab: Lab) -> None:
        reply = _large(lab, {"Accept-Encoding": coding}, is_binary=is_binary)
        found = reply.headers.get("content-encoding", "identity")
        expect(found in (coding, "identity"), f"the answer came as {found}")
        expect(found == coding or len(reply.body) < 1_000_000, f"{len(reply.body)} bytes came uncompressed")
        output = read_answer(_plain(reply)).only()
        expect(output.values == [0.0] * _MANY and output.is_binary == is_binary, "values were changed")

    return run


def _large(lab: Lab, headers: dict[str, str], *, is_binary: bool) -> Reply:
    model = lab.identity()
    parameters = {"binary_data_output": is_binary}
    body, framing = compose([value_of(model, [0.0] * _MANY, is_binary=True)], parameters=parameters)
    return lab.endpoint.post(f"{model.path}/infer", body, {**framing, **headers})


def _plain(reply: Reply) -> Reply:
    """The reply as it was before it was compressed; its framing counts in that."""
    coding = reply.headers.get("content-encoding", "identity")
    try:
        body = _RESTORE.get(coding, bytes)(reply.body)
    except (OSError, EOFError, zlib.error) as exc:
        raise Failed(f"the answer is not {coding}: {exc}") from exc
    return Reply(reply.status, reply.headers, body, reply.duration_s)


for _coding in _SHORTEN:
    for _is_binary, _form in ((False, "JSON"), (True, "binary")):
        SECTION.add(f"a {_form} request in {_coding}", _request(_coding, is_binary=_is_binary))
for _coding in _SHORTEN:
    for _is_binary, _form in ((False, "JSON"), (True, "binary")):
        SECTION.add(f"a large {_form} answer where {_coding} is accepted", _response(_coding, is_binary=_is_binary))


@SECTION.case("nothing is compressed for a client that does not accept it")
def _(lab: Lab) -> None:
    for headers in ({}, {"Accept-Encoding": "identity"}, {"Accept-Encoding": "gzip;q=0, deflate;q=0"}):
        found = _large(lab, headers, is_binary=True).headers.get("content-encoding", "identity")
        expect(found == "identity", f"{headers} was answered in {found}")


@SECTION.case("an unknown Content-Encoding is refused, and the answer names those that are known")
def _(lab: Lab) -> None:
    reply = lab.endpoint.post(f"{lab.identity().path}/infer", b"x", {"Content-Encoding": "made-up"})
    refused(reply, 400, 415, 501)
    expect("accept-encoding" in reply.headers, "there is no Accept-Encoding header")


def _broken(lab: Lab, body: bytes) -> None:
    refused(lab.endpoint.post(f"{lab.identity().path}/infer", body, {"Content-Encoding": "gzip"}))


@SECTION.case("a body that is not the gzip it claims to be is refused")
def _(lab: Lab) -> None:
    _broken(lab, b"plain text")


@SECTION.case("a gzip body that is cut off is refused")
def _(lab: Lab) -> None:
    _broken(lab, gzip.compress(bytes(5000))[:-9])


@SECTION.case("a framing length beyond the inflated body is refused")
def _(lab: Lab) -> None:
    model = lab.identity()
    body, _ = compose([value_of(model, VALUES, is_binary=True)])
    headers = {"Content-Encoding": "gzip", FRAMING: str(len(body) + 1)}
    refused(lab.endpoint.post(f"{model.path}/infer", gzip.compress(body), headers))


@SECTION.case("a gzip bomb of 256 MiB is refused, and the server lives on")
def _(lab: Lab) -> None:
    engine = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    bomb = b"".join(engine.compress(bytes(1 << 20)) for _ in range(256)) + engine.flush()
    _broken(lab, bomb)
    expect(lab.endpoint.get("/v2/health/live").status == 200, "it does not")
