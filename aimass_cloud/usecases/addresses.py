"""Under which addresses the cloud is reached: from outside, and on its own machine. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from aimass.package.keys import PublicKey
from aimass_cloud.settings import CloudSettings
from aimass_cloud.usecases.enrolment import Invitation

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def public_url(settings: CloudSettings) -> str:
    """Where devices and people reach the API."""
    return f"https://{_bracketed(settings.hosts[0])}:{settings.https.port}"


def invitations(settings: CloudSettings, *, publisher: PublicKey, control: PublicKey) -> tuple[Invitation, Invitation]:
    """What newly enrolled parties are told: devices, and the cloud's own processes on this machine."""
    pinned = {"publisher_keys": (publisher.to_pem().decode(),), "control_keys": (control.to_pem().decode(),)}
    for_devices = Invitation(
        url=public_url(settings), broker_host=settings.broker_host, broker_port=settings.broker_port, **pinned
    )
    for_workers = Invitation(
        url=f"https://{_bracketed(reach(settings.https.bind))}:{settings.https.port}",
        broker_host=reach(settings.broker.bind),
        broker_port=settings.broker.port,
        **pinned,
    )
    return for_devices, for_workers


def certificate_names(hosts: Sequence[str], bind: str) -> tuple[str, ...]:
    """All names a server certificate must carry: those told to others, and those used on this machine."""
    return tuple(dict.fromkeys((*hosts, *THIS_MACHINE, reach(bind))))


def reach(bind: str) -> str:
    """The address at which a listener on ``bind`` is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104  compared, not bound


def _bracketed(host: str) -> str:
    """A host as URLs have it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
