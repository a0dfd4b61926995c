"""Errors as HTTP answers: ``application/problem+json`` (RFC 9457). The only place with HTTP status codes for errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from aimass import errors as e

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[type[e.AimassError], int] = {
    e.AimassError: 500,
    e.ConfigError: 500,
    e.WireError: 400,
    e.FrameTooLargeError: 413,
    e.TrustError: 422,
    e.PackageError: 422,
    e.ModelError: 422,
    e.ModelNotFoundError: 404,
    e.InputError: 400,
    e.OverloadError: 429,
    e.DeadlineError: 504,
    e.CancelledError: 499,
    e.TransportError: 503,
    e.RefusedError: 502,
    e.RemoteError: 502,
    e.IdentityError: 403,
    e.AuthError: 401,
    e.StoreError: 500,
    e.NotFoundError: 404,
    e.ConflictError: 409,
    e.NoSpaceError: 507,
    e.DownloadError: 502,
}

PLAIN = {
    400: ("http.bad_request", "the request cannot be read", "compare it with the OpenAPI page: /docs"),
    404: ("http.not_found", "there is nothing at this address", "the OpenAPI page lists all addresses: /docs"),
    405: ("http.method", "this address does not take this method", "the Allow header lists those it takes"),
}


def status_of(error: e.AimassError) -> int:
    """The HTTP status of an error: that of its nearest class which has one."""
    if isinstance(error, e.ModelInvalidError) and error.details.get("reason") == "too_large":
        return 413
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(status: int, code: str, detail: str, *, hint: str = "", retryable: bool = False, **more: Any) -> Response:
    """One problem document."""
    body = {
        "type": f"urn:aimass:error:{code}",
        "title": code.replace(".", ": ").replace("_", " "),
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": retryable,
        "hint": hint,
        **more,
    }
    headers = {}
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="aimass", Basic realm="aimass"'
    if status in {429, 503}:
        headers["retry-after"] = str(more.get("retry_after_s", 2))
    return Response(json.dumps(body), status, headers, MEDIA_TYPE)


def problem_of(error: e.AimassError) -> Response:
    """The answer to a request that ended in one of our errors."""
    status = status_of(error)
    if status >= 500:
        log.error("a request failed: %s", error.message, exc_info=error)
    known = error.as_dict().get("details", {})
    more = {
        key: value for key, value in known.items() if key in {"reason", "limit_bytes", "size_bytes", "retry_after_s"}
    }
    return problem(status, error.code, error.message, hint=error.hint, retryable=error.retryable, **more)


def install(app: FastAPI) -> None:
    """Have every error of this app answered as a problem document."""
    app.add_exception_handler(e.AimassError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(Exception, _unknown)


def _ours(_request: Request, error: Exception) -> Response:
    assert isinstance(error, e.AimassError)
    return problem_of(error)


def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, e.AimassError):  # raised while the body was read
        return problem_of(error.__cause__)
    code, detail, hint = PLAIN.get(error.status_code, (f"http.{error.status_code}", str(error.detail), ""))
    response = problem(error.status_code, code, detail, hint=hint)
    for name, value in (error.headers or {}).items():
        response.headers.setdefault(name, value)
    return response


def _validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {"field": ".".join(str(part) for part in item["loc"]), "message": str(item["msg"])}
        for item in error.errors()[:20]
    ]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in found)
    hint = "compare the request with the OpenAPI page: /docs"
    return problem(422, e.InputError.code, detail, hint=hint, fields=found)


def _unknown(_request: Request, error: Exception) -> Response:
    log.error("a request met an error nobody named", exc_info=error)
    return problem(500, e.AimassError.code, "the cloud failed in a way nobody foresaw", hint="see the cloud's log")
