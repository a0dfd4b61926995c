"""Where one request runs, decided before it starts.

The rules of issue A: edge, cloud, or the cloud with the device as fallback. Cuts and cascades (issue E) become further
plans made here; what carries a plan out (``aimass.runtime``) only reads its fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aimass.placement.policy import Mode, Policy


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start, and when.

    Attributes:
        edge_at_s: the device's run begins this long after the request; 0 is at once, ``None`` never.
        remote: the request is also sent to the cloud, at once.
        wanted_remote: the cloud was asked for, even if ``remote`` is False because it cannot be reached.
    """

    edge_at_s: float | None
    remote: bool
    wanted_remote: bool


_EDGE = Plan(edge_at_s=0.0, remote=False, wanted_remote=False)
_EDGE_INSTEAD = Plan(edge_at_s=0.0, remote=False, wanted_remote=True)
_REMOTE = Plan(edge_at_s=None, remote=True, wanted_remote=True)
_NOWHERE = Plan(edge_at_s=None, remote=False, wanted_remote=True)
_BOTH = Plan(edge_at_s=0.0, remote=True, wanted_remote=True)


def decide(
    mode: Mode,
    policy: Policy,
    *,
    has_edge: bool,
    has_remote: bool,
    breaker_allows: Callable[[], bool],
    remaining_s: float,
    edge_p95_s: float,
    margin_s: float = 0.005,
) -> Plan:
    """Choose a plan.

    Args:
        mode: the caller's wish.
        policy: how device and cloud share it.
        has_edge: the model is loaded on this device.
        has_remote: there is a cloud, and the link is up.
        breaker_allows: whether the link answered lately. Asked only when that decides, because a yes may make this
            request the breaker's one probe; never asked where only the cloud could answer.
        remaining_s: time to the deadline.
        edge_p95_s: how long the device may need; 0 while unknown.
        margin_s: spare time of an armed fallback, for hand-over and scheduling.

    Returns:
        A plan; with neither edge nor remote in it, nobody can answer.
    """
    if mode is Mode.EDGE:
        return _EDGE if has_edge else Plan(edge_at_s=None, remote=False, wanted_remote=False)
    if not has_edge:
        return _REMOTE if has_remote else _NOWHERE
    if mode is Mode.AUTO and (edge_p95_s <= remaining_s or not has_remote):
        return _EDGE
    if not (has_remote and breaker_allows()):
        return _EDGE_INSTEAD
    if policy is Policy.NEVER_WORSE:
        return _BOTH
    return Plan(edge_at_s=max(0.0, remaining_s - edge_p95_s - margin_s), remote=True, wanted_remote=True)
