"""Who is there: a device's state, computed from the age of evidence.

Pure: time comes in, conclusions come out. What goes in is *live* traffic only. A retained message says what was true
when somebody wrote it, which may be long ago, and a will dies with a killed broker; so neither "online" nor "offline"
is ever believed from what the broker kept.

Rules:
    1. Before the first evidence a device is ``never``.
    2. Any live message of the device is evidence that it is online.
    3. A live farewell (``offline``) or will (``lost``) makes it offline at once. A will that names another boot than
       the one last seen belongs to a session the device has already left, and is ignored.
    4. No evidence for ``missed_heartbeats`` of its heartbeats: offline, since the last evidence (a frozen device).
    5. While the cloud itself has no link it concludes nothing new; what is older than rule 4 allows is ``unknown``.
    6. After the link came back, whoever has given no evidence within a heartbeat and ``return_margin_s`` is offline:
       devices reconnect to a restarted broker by themselves, and one that died with the broker has nobody left to send
       its will.
    7. An offline device stays offline until new evidence.

Two clocks come in together: ages are measured with the monotonic one, so that setting the wall clock does not make a
fleet disappear; what people read is wall time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class State(StrEnum):
    """What the cloud believes about a device."""

    NEVER = "never"
    ONLINE = "online"
    OFFLINE = "offline"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on both clocks."""

    monotonic_s: float
    wall_ms: int


@dataclass(frozen=True, slots=True)
class PresenceRules:
    """The times of the rules above. A device may promise another heartbeat, within the bounds."""

    heartbeat_s: float = 20.0
    min_heartbeat_s: float = 1.0
    max_heartbeat_s: float = 3600.0
    missed_heartbeats: int = 3
    return_margin_s: float = 5.0
    """A moment to reconnect."""

    def heartbeat(self, promised_s: float) -> float:
        """What to expect of a device; 0 means that it has promised nothing."""
        return min(max(promised_s, self.min_heartbeat_s), self.max_heartbeat_s) if promised_s > 0 else self.heartbeat_s


@dataclass(frozen=True, slots=True)
class Presence:
    """A conclusion: ``since_ms`` is when the state began, ``evidence_at_ms`` when the device was last heard."""

    state: State
    since_ms: int | None
    evidence_at_ms: int | None
    boot: str = ""
    heartbeat_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Entry:
    evidence_s: float
    evidence_at_ms: int
    online_since_ms: int
    boot: str
    heartbeat_s: float
    gone_since_ms: int | None = None


class PresenceBook:
    """The evidence about all devices, and the conclusions from it. Not thread-safe: one owner."""

    def __init__(self, rules: PresenceRules | None = None, known: Mapping[str, Presence] | None = None) -> None:
        """Start with what an earlier run of the cloud had concluded; its evidence counts as old."""
        self._rules = rules or PresenceRules()
        self._entries: dict[str, _Entry] = {}
        self._told: dict[str, Presence] = {}
        self._link_since_s: float | None = None
        self._link_lost_ms: int | None = None
        for identity, presence in (known or {}).items():
            if presence.evidence_at_ms is None:
                continue
            since = presence.evidence_at_ms if presence.since_ms is None else presence.since_ms
            gone = since if presence.state is State.OFFLINE else None
            beat_s = self._rules.heartbeat(presence.heartbeat_s)
            self._entries[identity] = _Entry(float("-inf"), presence.evidence_at_ms, since, presence.boot, beat_s, gone)
            self._told[identity] = presence

    def link(self, up: bool, now: Moment) -> None:
        """The cloud's own connection to the broker came (True) or went."""
        for identity in self._entries:
            self._conclude(identity, now)
        if up:
            self._link_since_s = now.monotonic_s
            self._link_lost_ms = None
        elif self._link_since_s is not None:
            self._link_since_s = None
            self._link_lost_ms = now.wall_ms

    def heard(self, identity: str, now: Moment, boot: str = "", heartbeat_s: float = 0.0) -> None:
        """A live message of this device arrived (rule 2), perhaps saying its boot and how often it will be heard."""
        entry = self._entries.get(identity)
        if entry is None:
            beat_s = self._rules.heartbeat(heartbeat_s)
            self._entries[identity] = _Entry(now.monotonic_s, now.wall_ms, now.wall_ms, boot, beat_s)
            return
        self._conclude(identity, now)
        entry = self._entries[identity]
        began = now.wall_ms if entry.gone_since_ms is not None else entry.online_since_ms
        beat_s = self._rules.heartbeat(heartbeat_s) if heartbeat_s > 0 else entry.heartbeat_s
        self._entries[identity] = _Entry(now.monotonic_s, now.wall_ms, began, boot or entry.boot, beat_s)

    def farewell(self, identity: str, now: Moment, boot: str = "") -> None:
        """The device said that it is going (rule 3); that message is evidence too."""
        self.heard(identity, now, boot)
        self._entries[identity] = replace(self._entries[identity], gone_since_ms=now.wall_ms)

    def lost(self, identity: str, boot: str = "") -> bool:
        """The broker sent the device's will (rule 3); whether it was about the session we know."""
        entry = self._entries.get(identity)
        if entry is None or (boot and entry.boot and boot != entry.boot):
            return False
        if entry.gone_since_ms is None:
            self._entries[identity] = replace(entry, gone_since_ms=entry.evidence_at_ms)
        return True

    def forget(self, identity: str) -> None:
        """The device was removed."""
        self._entries.pop(identity, None)
        self._told.pop(identity, None)

    def at(self, identity: str, now: Moment) -> Presence:
        """What to believe about a device now."""
        if identity not in self._entries:
            return Presence(State.NEVER, None, None)
        self._conclude(identity, now)
        entry = self._entries[identity]
        state, since = State.ONLINE, entry.online_since_ms
        if entry.gone_since_ms is not None:
            state, since = State.OFFLINE, entry.gone_since_ms
        elif now.monotonic_s - entry.evidence_s > self._silence_s(entry):
            state, since = State.UNKNOWN, self._link_lost_ms or entry.evidence_at_ms
        return Presence(state, since, entry.evidence_at_ms, entry.boot, entry.heartbeat_s)

    def changed(self, now: Moment) -> list[tuple[str, Presence]]:
        """Everybody whose state is another one than at the last call; to be kept and shown."""
        out: list[tuple[str, Presence]] = []
        for identity in self._entries:
            presence = self.at(identity, now)
            told = self._told.get(identity)
            if told is None or (told.state, told.since_ms, told.boot) != (
                presence.state,
                presence.since_ms,
                presence.boot,
            ):
                out.append((identity, presence))
                self._told[identity] = presence
        return out

    def _conclude(self, identity: str, now: Moment) -> None:
        """Rules 4 and 6, as far as the link allows to conclude anything (rule 5)."""
        entry = self._entries[identity]
        if entry.gone_since_ms is not None or self._link_since_s is None:
            return
        if entry.evidence_s >= self._link_since_s:
            is_gone = now.monotonic_s - entry.evidence_s > self._silence_s(entry)
        else:
            is_gone = now.monotonic_s - self._link_since_s >= entry.heartbeat_s + self._rules.return_margin_s
        if is_gone:
            self._entries[identity] = replace(entry, gone_since_ms=entry.evidence_at_ms)

    def _silence_s(self, entry: _Entry) -> float:
        return entry.heartbeat_s * self._rules.missed_heartbeats
