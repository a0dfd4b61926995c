"""``/v1/blobs/{sha256}``: model files and signed manifests, whole or in ranges, streamed from the blob store."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response, StreamingResponse

from aimass_cloud.api.auth import Reader
from aimass_cloud.api.problems import problem
from aimass_cloud.api.ranges import Span, Unsatisfiable, span_of
from aimass_cloud.api.services import Given

router = APIRouter(prefix="/v1/blobs", tags=["blobs"])

Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
# What a digest names never changes.
FOREVER = "private, max-age=31536000, immutable"


@router.head("/{sha256}", include_in_schema=False, response_class=Response)
@router.get("/{sha256}", summary="A blob, or a range of it", response_class=Response)
def read_blob(request: Request, services: Given, reader: Reader, sha256: Digest) -> Response:
    """A device needs a token for this very path; it is entitled to what its desired document names."""
    size = services.blobs.size(sha256)
    etag = f'"{sha256}"'
    headers = {"etag": etag, "accept-ranges": "bytes", "cache-control": FOREVER}
    if etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(None, 304, headers)
    try:
        span = _wanted(request, etag, size)
    except Unsatisfiable:
        answer = problem(416, "http.range", f"the blob has {size} bytes", hint="begin the range before its end")
        answer.headers["content-range"] = f"bytes */{size}"
        return answer
    status = 200 if span is None else 206
    if span is None:
        span = Span(0, size)
    else:
        headers["content-range"] = span.content_range(size)
    headers["content-length"] = str(span.length)
    if request.method == "HEAD":
        return Response(None, status, headers, "application/octet-stream")
    chunks = services.blobs.open(sha256, offset=span.offset, length=span.length)
    return StreamingResponse(chunks, status, headers, "application/octet-stream")


def _wanted(request: Request, etag: str, size: int) -> Span | None:
    asked = request.headers.get("range")
    condition = request.headers.get("if-range")
    if asked is None or (condition is not None and condition.strip() != etag):
        return None
    return span_of(asked, size)
