"""What devices send, read: good messages, and garbage that ends in the one error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass.errors import WireError
from aimass.transport.base import Message
from aimass.wire import topics
from aimass_cloud.fleet.inbox import EventNews, HeartbeatNews, ReportedNews, StateNews, TelemetryNews, read_news

AT = 1_700_000_000_000


def read(topic: str, payload: Any) -> Any:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return read_news(Message(topic, raw), AT)


def event(seq: int, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "id": f"e{seq}", "at_ms": 5, "kind": "k", "data": {"n": seq}, **more}


def test_a_birth_is_read() -> None:
    body = {"state": "online", "boot": "b1", "version": "0.1.0", "at_ms": 1, "heartbeat_s": 20}
    news = read(topics.state("gw-1"), body)
    assert isinstance(news, StateNews)
    assert (news.identity, news.word.state, news.word.boot, news.word.heartbeat_s) == ("gw-1", "online", "b1", 20.0)


def test_a_heartbeat_and_other_telemetry_are_told_apart() -> None:
    assert read(topics.telemetry("gw-1", "heartbeat"), {"boot": "b", "n": 1}) == HeartbeatNews("gw-1", "b")
    news = read(topics.telemetry("gw-1", "system"), {"cpu": 0.5})
    assert news == TelemetryNews("gw-1", "system", AT, {"cpu": 0.5})


def test_a_report_is_kept_as_its_text() -> None:
    body = {
        "epoch": 1,
        "version": 2,
        "boot": "b",
        "at_ms": 3,
        "models": [{"name": "m", "version": 1, "state": "running"}],
    }
    news = read(topics.reported("gw-1:app"), body)
    assert isinstance(news, ReportedNews)
    assert (news.record.device, news.record.epoch, news.record.version) == ("gw-1:app", 1, 2)
    assert json.loads(news.record.document) == body


def test_events_are_read_and_an_empty_list_is_a_question() -> None:
    news = read(topics.event("gw-1", "results"), {"stream_id": "s", "records": [event(1), event(2)]})
    assert isinstance(news, EventNews)
    assert [record.seq for record in news.batch.records] == [1, 2]
    question = read(topics.event("gw-1", "results"), {"stream_id": "s", "records": []})
    assert isinstance(question, EventNews)
    assert question.batch.records == ()


def test_numbers_that_json_has_no_word_for_become_null() -> None:
    body = b'{"stream_id":"s","records":[{"seq":1,"id":"e","at_ms":1,"kind":"k","data":{"a":NaN,"b":[Infinity]}}]}'
    news = read(topics.event("gw-1", "results"), body)
    assert isinstance(news, EventNews)
    assert news.batch.records[0].data == {"a": None, "b": [None]}


def test_a_cleared_topic_is_no_news() -> None:
    assert read(topics.state("gw-1"), b"") is None


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (topics.state("gw-1"), {"state": "dancing"}),
        (topics.state("gw-1"), {"state": "online", "heartbeat_s": "often"}),
        (topics.state("gw-1"), {"state": "online", "heartbeat_s": 1e300}),
        (topics.state("gw-1"), {"state": "online", "boot": 7}),
        (topics.state("gw-1"), []),
        (topics.state("gw-1"), b"\xff\xfe"),
        (topics.reported("gw-1"), {"epoch": -1}),
        (topics.reported("gw-1"), {"epoch": 1.5}),
        (topics.reported("gw-1"), {"models": {}}),
        (topics.reported("gw-1"), {"models": [{"name": 1}]}),
        (topics.event("gw-1", "s"), {"records": []}),
        (topics.event("gw-1", "s"), {"stream_id": "s", "records": [1]}),
        (topics.event("gw-1", "s"), {"stream_id": "s", "records": [event(0)]}),
        (topics.event("gw-1", "s"), {"stream_id": "s", "records": [event(2**60)]}),
        (topics.event("gw-1", "s"), {"stream_id": "s", "records": [event(True)]}),
        (topics.event("gw-1", "s"), {"stream_id": "s", "records": [event(3, kind="gap", data={"from": 9, "to": 3})]}),
        (topics.telemetry("gw-1", "big"), {"x": "y" * 70_000}),
        ("aimass/v1/d/GW/state", {"state": "online"}),
        ("something/else", {}),
    ],
)
def test_what_makes_no_sense_is_a_wire_error(topic: str, payload: Any) -> None:
    with pytest.raises(WireError):
        read(topic, payload)


TOPICS = [topics.state("gw-1"), topics.reported("gw-1"), topics.event("gw-1", "s"), topics.telemetry("gw-1", "t")]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["state", "boot", "records", "seq", "models", "stream_id", "data", "x"]), inner
        )
    ),
    max_leaves=12,
)


@given(topic=st.sampled_from(TOPICS), payload=st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_garbage_is_read_or_refused_with_a_wire_error(topic: str, payload: bytes) -> None:
    try:
        read(topic, payload)
    except WireError:
        return
