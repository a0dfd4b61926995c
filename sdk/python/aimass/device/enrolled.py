"""What an enrolment pinned: who we are, where the cloud and its broker are, and whose signatures count."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aimass.errors import AimassError, IdentityError
from aimass.package.keys import PublicKey
from aimass.wire.ids import is_identity


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Trust:
    """What was pinned at enrolment."""

    id: str
    cloud_url: str
    broker: BrokerAddress
    publisher_keys: tuple[str, ...]
    control_keys: tuple[str, ...]

    def to_json(self) -> bytes:
        """The content of ``trust.json``."""
        body = {
            "id": self.id,
            "cloud_url": self.cloud_url,
            "broker": {"host": self.broker.host, "port": self.broker.port},
            "publisher_keys": list(self.publisher_keys),
            "control_keys": list(self.control_keys),
        }
        return json.dumps(body, indent=1).encode()

    @classmethod
    def from_mapping(cls, body: Mapping[str, Any]) -> Trust:
        """Read and check the fields; the cloud's answer to an enrolment has the same ones.

        Raises:
            IdentityError: a field is missing or makes no sense.
        """
        try:
            broker = BrokerAddress(str(body["broker"]["host"]), int(body["broker"]["port"]))
            publishers, controls = (_pems(body[name]) for name in ("publisher_keys", "control_keys"))
            trust = cls(str(body["id"]), str(body["cloud_url"]), broker, publishers, controls)
        except (KeyError, TypeError, ValueError, AimassError) as exc:
            raise IdentityError(f"the trust document lacks or breaks a field: {exc}") from exc
        if not is_identity(trust.id):
            raise IdentityError(f"{trust.id!r} is not an identity")
        if not trust.broker.host or not 0 < trust.broker.port < 65536:
            raise IdentityError(f"{trust.broker} is not a broker address")
        if not publishers or not controls:
            raise IdentityError("no publisher key or no control key was pinned")
        return trust


def _pems(value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError("keys are a list of PEM texts")
    for pem in value:
        PublicKey.from_pem(str(pem).encode())
    return tuple(str(pem) for pem in value)
