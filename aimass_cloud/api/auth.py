"""Who is calling: an api-key as bearer or as Basic password (any user name), or a device token."""

from __future__ import annotations

import base64
import hashlib
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from aimass.errors import AuthError, OverloadError
from aimass_cloud.api.services import Given, Services
from aimass_cloud.store.records import ApiKeyRecord
from aimass_cloud.usecases.device_auth import TOKEN_PREFIX

MAX_CREDENTIAL_CHARS = 16_384
"""A device token names up to 64 paths."""

# Only for the OpenAPI page: which credentials there are. They are read by `credential`.
_API_KEY = HTTPBearer(auto_error=False, scheme_name="api-key", description="An api-key, from 'aimass-cloud init'")
_DEVICE = HTTPBearer(auto_error=False, scheme_name="device token", description="From POST /v1/device/token")


class FailureLimit:
    """Slows down whoever tries keys: after ``most`` failures within ``window_s`` an address must wait.

    A caller whose key was good lately is let through all the same, so that a neighbour behind the same address
    cannot lock others out. Bounded: the longest silent addresses are forgotten first.
    """

    def __init__(
        self, clock: Callable[[], float], *, most: int = 20, window_s: float = 60.0, room: int = 10_000
    ) -> None:
        self._clock = clock
        self._most = most
        self._window_s = window_s
        self._room = room
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, address: str, key: str) -> None:
        """Whether this address may try this key now.

        Raises:
            OverloadError: too many failures; ``retry_after_s`` says how long to wait.
        """
        with self._lock:
            recent = self._recent(address)
            if len(recent) < self._most or _digest(key) in self._good:
                return
            wait_s = math.ceil(recent[0] + self._window_s - self._clock())
        message = "too many wrong credentials from this address"
        raise OverloadError(message, hint=f"wait {wait_s} s, then use a valid api-key", retry_after_s=max(1, wait_s))

    def failed(self, address: str) -> None:
        """A key was wrong."""
        with self._lock:
            recent = self._recent(address)
            recent.append(self._clock())
            self._failures[address] = recent
            self._failures.move_to_end(address)
            while len(self._failures) > self._room:
                self._failures.popitem(last=False)

    def succeeded(self, key: str) -> None:
        """A key was right."""
        with self._lock:
            self._good[_digest(key)] = None
            self._good.move_to_end(_digest(key))
            while len(self._good) > self._room:
                self._good.popitem(last=False)

    def _recent(self, address: str) -> deque[float]:
        recent = self._failures.get(address, deque(maxlen=self._most))
        while recent and recent[0] <= self._clock() - self._window_s:
            recent.popleft()
        return recent


def credential(request: Request) -> str:
    """What the Authorization header carries: the bearer, or the password of Basic.

    Raises:
        AuthError: no header, or one that cannot be read.
    """
    scheme, _, value = request.headers.get("authorization", "").strip().partition(" ")
    value = value.strip()
    if not value or len(value) > MAX_CREDENTIAL_CHARS:
        raise AuthError("this needs an api-key", hint="send 'Authorization: Bearer KEY', or KEY as Basic password")
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError as exc:
            raise AuthError("the Basic credential cannot be read", hint="send base64 of 'any:KEY'") from exc
    raise AuthError(f"authorization scheme {scheme[:20]!r} is not known", hint="use Bearer or Basic")


def address_of(request: Request) -> str:
    """Where the request comes from."""
    return request.client.host if request.client else ""


def verify_api_key(request: Request, services: Services, key: str) -> ApiKeyRecord:
    """Whose key this is.

    Raises:
        AuthError: unknown or revoked.
        OverloadError: too many wrong ones from this address.
    """
    limit: FailureLimit = request.app.state.failure_limit
    limit.check(address_of(request), key)
    try:
        with services.store.read() as tx:
            record = tx.api_keys.verify(key)
    except AuthError:
        limit.failed(address_of(request))
        raise
    limit.succeeded(key)
    return record


def api_key(
    request: Request,
    services: Given,
    _shown: Annotated[object, Security(_API_KEY)] = None,
) -> ApiKeyRecord:
    """The caller's api-key; for people and programs."""
    return verify_api_key(request, services, credential(request))


def device(
    request: Request,
    services: Given,
    _shown: Annotated[object, Security(_DEVICE)] = None,
) -> str:
    """The device behind a token for this path."""
    return services.device_auth.verify(credential(request), request.url.path)


def device_or_api_key(
    request: Request,
    services: Given,
    _key: Annotated[object, Security(_API_KEY)] = None,
    _token: Annotated[object, Security(_DEVICE)] = None,
) -> str:
    """Who is calling, where devices and people may."""
    given = credential(request)
    if given.startswith(TOKEN_PREFIX):
        return services.device_auth.verify(given, request.url.path)
    return verify_api_key(request, services, given).name


Caller = Annotated[ApiKeyRecord, Depends(api_key)]
Device = Annotated[str, Depends(device)]
Reader = Annotated[str, Depends(device_or_api_key)]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
