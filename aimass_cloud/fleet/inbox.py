"""What devices send, read once and checked: everything after this module works with values that make sense.

Pure. A message that is no sense raises a WireError, is counted and dropped: it is the device's fault, and its owner
finds it in the log.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from aimass.errors import FrameError
from aimass.transport.base import Message
from aimass.wire import topics
from aimass.wire.header import list_of, read_json, text_of
from aimass.wire.topics import Kind
from aimass_cloud.store.records import EventBatch, EventRecord, ReportedRecord, StateWord

MAX_PAYLOAD_BYTES = 1 << 20
MAX_TELEMETRY_BYTES = 64 * 1024
MAX_NESTING = 32
WORDS = frozenset({"online", "offline", "lost"})
HEARTBEAT = "heartbeat"


@dataclass(frozen=True, slots=True)
class StateNews:
    """A word on a state topic."""

    identity: str
    word: StateWord


@dataclass(frozen=True, slots=True)
class HeartbeatNews:
    """A sign of life."""

    identity: str
    boot: str


@dataclass(frozen=True, slots=True)
class TelemetryNews:
    """A losable measurement: kept as the last of its name."""

    identity: str
    name: str
    at_ms: int
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReportedNews:
    """What a device says it runs."""

    identity: str
    record: ReportedRecord


@dataclass(frozen=True, slots=True)
class EventNews:
    """Outbox records, or the question how far a stream is stored."""

    identity: str
    batch: EventBatch


News = StateNews | HeartbeatNews | TelemetryNews | ReportedNews | EventNews


def read_news(message: Message, received_at_ms: int) -> News | None:
    """What a message says; None for a removed retained message (empty) and for kinds that are nobody's concern here.

    Raises:
        WireError: topic or payload are no sense.
    """
    topic = topics.parse(message.topic)
    if not message.payload:
        return None
    limit = MAX_TELEMETRY_BYTES if topic.kind is Kind.TELEMETRY else MAX_PAYLOAD_BYTES
    fields = read_json(message.payload, max_bytes=limit, max_nesting=MAX_NESTING)
    match topic.kind:
        case Kind.STATE:
            return StateNews(topic.identity, _state(fields, received_at_ms))
        case Kind.TELEMETRY if topic.name == HEARTBEAT:
            return HeartbeatNews(topic.identity, text_of(fields, "boot"))
        case Kind.TELEMETRY:
            return TelemetryNews(topic.identity, topic.name, received_at_ms, fields)
        case Kind.REPORTED:
            return ReportedNews(topic.identity, _reported(topic.identity, fields, received_at_ms))
        case Kind.EVENT:
            return EventNews(topic.identity, _events(topic.identity, topic.name, fields, received_at_ms))
        case _:
            return None


def _state(fields: dict[str, Any], received_at_ms: int) -> StateWord:
    word = text_of(fields, "state")
    if word not in WORDS:
        raise FrameError(f"{word[:40]!r} is no state; states are {sorted(WORDS)}")
    return StateWord(
        state=word,
        boot=text_of(fields, "boot"),
        agent_version=text_of(fields, "version"),
        heartbeat_s=_number(fields, "heartbeat_s"),
        received_at_ms=received_at_ms,
    )


def _reported(identity: str, fields: dict[str, Any], received_at_ms: int) -> ReportedRecord:
    for model in list_of(fields, "models"):
        text_of(model, "name", what="a reported model")
        text_of(model, "state", what="a reported model")
        _whole(model, "version")
    return ReportedRecord(
        device=identity,
        epoch=_whole(fields, "epoch"),
        version=_whole(fields, "version"),
        boot=text_of(fields, "boot"),
        at_ms=_whole(fields, "at_ms"),
        received_at_ms=received_at_ms,
        # The text as we read it, not as it came: NaN and doubled keys end here.
        document=json.dumps(_without_nan(fields), separators=(",", ":"), allow_nan=False),
    )


def _events(identity: str, stream: str, fields: dict[str, Any], received_at_ms: int) -> EventBatch:
    stream_id = text_of(fields, "stream_id")
    if not stream_id:
        raise FrameError("events without a stream id")
    return EventBatch(
        device=identity,
        stream=stream,
        stream_id=stream_id,
        records=tuple(_event(item) for item in list_of(fields, "records")),
        received_at_ms=received_at_ms,
    )


def _event(item: dict[str, Any]) -> EventRecord:
    data = item.get("data")
    return EventRecord(
        seq=_whole(item, "seq"),
        id=text_of(item, "id"),
        at_ms=_whole(item, "at_ms"),
        kind=text_of(item, "kind"),
        data=_without_nan(data) if isinstance(data, dict) else {},
    )


def _whole(fields: dict[str, Any], key: str) -> int:
    value = fields.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise FrameError(f"{key!r} must be a whole number, 0 or more")
    return value


def _number(fields: dict[str, Any], key: str) -> float:
    value = fields.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise FrameError(f"{key!r} must be a number")
    return float(value)


def _without_nan(value: Any) -> Any:
    """The same values with null for what JSON has no number for: readers of our API may be strict."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
