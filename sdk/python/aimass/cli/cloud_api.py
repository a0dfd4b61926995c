"""The cloud's REST interface as a thin client: one method for each verb the commands use.

The only module that knows httpx. Answers are the JSON objects as they come; refusals (problem+json) and connection
troubles are raised as errors of ``aimass.errors``. Follows pages by itself.
"""

from __future__ import annotations

import json
import ssl
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from aimass.errors import AimassError, AuthError, ConfigError, ConnectError, ForbiddenError, NotFoundError, RemoteError

Json = dict[str, Any]
PAGE_LIMIT = 100
_BY_STATUS: dict[int, type[AimassError]] = {401: AuthError, 403: ForbiddenError, 404: NotFoundError}


class CloudApi:
    """Speaks to one cloud with one api-key. Not shared between threads.

    Args:
        url: where the cloud listens, e.g. ``https://cloud.example:8443``.
        api_key: as ``aimass-cloud init`` printed it; empty sends none.
        ca: file with the root certificate of the cloud; None trusts the system's list instead.
        timeout_s: for one request; uploads of large models get ten times as long to be answered.
        transport: another way to carry requests than the network, e.g. straight into an ASGI application.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        ca: Path | None = None,
        timeout_s: float = 30,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        try:
            trust = ssl.create_default_context(cafile=None if ca is None else str(ca))
        except OSError as exc:
            raise ConfigError(f"cannot read the CA file {ca}: {exc}") from exc
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        # trust_env off: a proxy from the environment must not see requests to a loopback or site-local cloud
        self._http = httpx.Client(
            base_url=url, headers=headers, verify=trust, timeout=timeout_s, trust_env=False, transport=transport
        )
        self._timeout_s = timeout_s

    def __enter__(self) -> CloudApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # models

    def push_model(
        self, path: Path, name: str, *, labels: tuple[str, ...] = (), metrics: Mapping[str, float] | None = None
    ) -> Json:
        """Upload one ONNX file as the next version of a model; the cloud checks and signs it."""
        manifest: Json = {"name": name}
        if labels:
            manifest["labels"] = list(labels)
        if metrics:
            manifest["metrics"] = dict(metrics)
        try:
            file = path.open("rb")
        except OSError as exc:
            raise ConfigError(f"cannot read {path}: {exc}") from exc
        with file:  # sent as it is read: a model may be larger than the memory
            return self.call(
                "POST",
                "/v1/models",
                data={"manifest": json.dumps(manifest)},
                files={"model": (path.name, file, "application/octet-stream")},
                timeout=self._timeout_s * 10,
            )

    def models(self) -> list[Json]:
        """All models."""
        return list(self.pages("/v1/models"))

    def model(self, name: str) -> Json:
        """One model with its versions and aliases."""
        return self.call("GET", f"/v1/models/{name}")

    def versions(self, name: str) -> list[Json]:
        """All versions of a model."""
        return list(self.pages(f"/v1/models/{name}/versions"))

    def set_alias(self, name: str, alias: str, version: int) -> Json:
        """Point an alias at a version."""
        return self.call("PUT", f"/v1/models/{name}/aliases/{alias}", json={"version": version})

    def deploy(self, model: str, *, device: str | None, version: int | None = None, alias: str | None = None) -> Json:
        """Ask for a model on one device, or on all (``device=None``)."""
        body: Json = {"model": model, "target": {"all": True} if device is None else {"device": device}}
        if version is not None:
            body["version"] = version
        if alias is not None:
            body["alias"] = alias
        return self.call("POST", "/v1/deployments", json=body)

    # devices

    def devices(self) -> list[Json]:
        """All devices with state, evidence, desired and reported."""
        return list(self.pages("/v1/devices"))

    def device(self, device: str) -> Json:
        """One device."""
        return self.call("GET", f"/v1/devices/{device}")

    def remove_device(self, device: str) -> None:
        """Revoke a device's certificates and forget it."""
        self.call("DELETE", f"/v1/devices/{device}")

    def enrol_token(self, device: str, *, ttl_s: int = 3600) -> str:
        """A token that lets one device in, once."""
        return str(self.call("POST", "/v1/enrol-tokens", json={"id": device, "ttl_s": ttl_s})["token"])

    def events(self, device: str, stream: str, *, after: int = 0) -> Iterator[Json]:
        """What the device's outbox delivered, in order of its sequence."""
        return self.pages(f"/v1/devices/{device}/events", stream=stream, after=after)

    # plumbing

    def ready(self) -> bool:
        """Whether the cloud is up and serves requests."""
        try:
            return self._http.get("/health/ready", timeout=2).is_success
        except httpx.TransportError:
            return False

    def pages(self, path: str, **query: str | int) -> Iterator[Json]:
        """The items of all pages of a listing."""
        params: dict[str, str | int] = {"limit": PAGE_LIMIT, **query}
        while True:
            page = self.call("GET", path, params=params)
            yield from page["items"]
            if not page.get("next"):
                return
            params["cursor"] = page["next"]

    def call(self, method: str, path: str, **options: Any) -> Json:
        """One request; POSTs carry an idempotency key, so that repeating one after a lost answer does no harm.

        Raises:
            ConnectError: the cloud cannot be reached, or its certificate is not from the given CA.
            AuthError, ForbiddenError, NotFoundError, RemoteError: the cloud refused; ``remote_code`` says why.
        """
        headers = {"idempotency-key": uuid.uuid4().hex} if method == "POST" else {}
        try:
            response = self._http.request(method, path, headers=headers, **options)
        except httpx.TransportError as exc:
            raise ConnectError(
                f"cannot reach the cloud at {self._http.base_url}: {exc}", hint="check --url and --ca, and that it runs"
            ) from exc
        if not response.is_success:
            raise _error_of(response)
        body: Json = response.json() if response.content else {}
        return body


def _error_of(response: httpx.Response) -> AimassError:
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    text = str(problem.get("detail") or problem.get("title") or response.reason_phrase)
    kind = _BY_STATUS.get(response.status_code, RemoteError)
    return kind(
        f"the cloud refused ({response.status_code}): {text}",
        hint=str(problem.get("hint") or "") or None,
        retryable=bool(problem.get("retryable", False)),
        remote_code=str(problem.get("code", "")),
        status=response.status_code,
    )
