"""What the API stands on, given to it by ``app.py``; and how an endpoint gets at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from aimass_cloud.blobs.base import BlobStore
from aimass_cloud.store.base import Store
from aimass_cloud.usecases.base import Clock
from aimass_cloud.usecases.deployments import Deployments
from aimass_cloud.usecases.device_auth import DeviceAuth
from aimass_cloud.usecases.devices import Devices
from aimass_cloud.usecases.enrolment import Enrolment
from aimass_cloud.usecases.idempotency import Idempotency
from aimass_cloud.usecases.models import Models


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All use cases, and a few facts.

    Attributes:
        root_pem: the root certificate, public.
        chain_pem: intermediate and root.
        is_ready: empty when everything works, else what does not.
        gauges: numbers for /metrics that are read when it is asked for: name to (labels to value).
        token_ttl_s: lifetime of an enrol-token where the caller names none.
    """

    store: Store
    blobs: BlobStore
    models: Models
    deployments: Deployments
    devices: Devices
    enrolment: Enrolment
    device_auth: DeviceAuth
    idempotency: Idempotency
    root_pem: str
    chain_pem: str
    is_ready: Callable[[], str]
    gauges: Callable[[], Mapping[str, Mapping[str, float]]]
    token_ttl_s: float
    clock: Clock


def services_of(request: Request) -> Services:
    """The services that this app was made with."""
    services: Any = request.app.state.services
    assert isinstance(services, Services)
    return services


Given = Annotated[Services, Depends(services_of)]
