"""Small things that several use cases share: time, pages, and how they reach broker and devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from aimass_cloud.broker.dynsec import Grant, Role
from aimass_cloud.store.records import DeviceRecord

Clock = Callable[[], float]
"""Unix seconds."""

Item = TypeVar("Item")


def now_ms(clock: Clock) -> int:
    """The clock in the unit that the store keeps."""
    return round(clock() * 1000)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Part of a listing; ``next`` is the key to go on after, None at the end."""

    items: tuple[Item, ...]
    next: str | None


def page_of(items: list[Item], limit: int, key: Callable[[Item], object]) -> Page[Item]:
    """A page from a query that asked for one item more than the page holds."""
    shown = items[:limit]
    return Page(tuple(shown), str(key(shown[-1])) if len(items) > limit else None)


class Accounts(Protocol):
    """Identities as the running broker knows them. Blocks for its answer; errors are of the TransportError family."""

    def put(self, grant: Grant) -> None:
        """Let this identity connect."""

    def remove(self, identity: str) -> None:
        """Forget this identity and end its connection."""


class Outlet(Protocol):
    """What use cases hand to the fleet's connection. Never blocks; what cannot be sent now is sent at the next link."""

    def announce(self, identity: str, envelope: bytes) -> None:
        """Publish this desired document, retained."""

    def clear(self, identity: str) -> None:
        """Remove what a removed identity left retained."""


def grant_of(device: DeviceRecord) -> Grant:
    """A device's rights at the broker."""
    return Grant(identity=device.id, role=Role(device.role), pool=device.pool)
