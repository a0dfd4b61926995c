"""Topics built and taken apart."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass.errors import FrameError, InputError
from aimass.wire import topics
from aimass.wire.topics import Kind, Topic

PLAIN: dict[Kind, Callable[[str], str]] = {
    Kind.STATE: topics.state,
    Kind.DESIRED: topics.desired,
    Kind.REPORTED: topics.reported,
    Kind.ACK: topics.ack,
    Kind.CLOUD_STATE: topics.cloud_state,
}
NAMED: dict[Kind, Callable[[str, str], str]] = {
    Kind.EVENT: topics.event,
    Kind.TELEMETRY: topics.telemetry,
    Kind.COMMAND: topics.command,
    Kind.RESULT: topics.result,
    Kind.CALL: topics.call,
    Kind.REPLY: topics.reply,
    Kind.INFER: lambda cn, pool: topics.infer_request(pool, cn),
}
names = st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True).filter(lambda text: text not in {".", "..", "svc"})
identities = names | st.tuples(names, names).map(":".join) | names.map("svc:{}".format)


def test_every_kind_has_its_function() -> None:
    assert PLAIN.keys() | NAMED.keys() == set(Kind)


@given(cn=identities, kind=st.sampled_from(sorted(PLAIN)))
def test_plain_topics_are_taken_apart_as_they_were_built(cn: str, kind: Kind) -> None:
    assert topics.parse(PLAIN[kind](cn)) == Topic(kind, cn)


@given(cn=identities, name=names, kind=st.sampled_from(sorted(NAMED)))
def test_named_topics_are_taken_apart_as_they_were_built(cn: str, name: str, kind: Kind) -> None:
    # TOPIC-2.1
    topic = NAMED[kind](cn, name)
    assert topics.parse(topic) == Topic(kind, cn, name)
    assert topic.count("/") <= 7
    assert topic.startswith(topics.ROOT + "/")


@given(st.text(alphabet="aimsv1/d+#$:.g-\0\n", max_size=60) | st.text(max_size=40))
def test_any_text_is_a_topic_or_raises_the_one_error(text: str) -> None:
    # TOPIC-2.3
    try:
        found = topics.parse(text)
    except FrameError:
        return
    built = NAMED[found.kind](found.identity, found.name) if found.name else PLAIN[found.kind](found.identity)
    assert built == text


def test_a_topic_of_a_megabyte_is_refused_at_once() -> None:
    with pytest.raises(FrameError):
        topics.parse("aimass/v1/d/" + "a/" * 500_000)


@pytest.mark.parametrize("bad", ["a/b", "+", "#", "", "A", ".."])
def test_nothing_malformed_gets_into_a_topic(bad: str) -> None:
    for plain in PLAIN.values():
        with pytest.raises(InputError):
            plain(bad)
    for named in NAMED.values():
        with pytest.raises(InputError):
            named(bad, "ok")
        with pytest.raises(InputError):
            named("ok", bad)
    with pytest.raises(InputError):
        topics.infer_share(bad)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("aimass/v1/infer/default/gw-1/req", "aimass/v1/d/gw-1/rsp/infer"),
        ("aimass/v1/infer/default/gw-1:app/req", "aimass/v1/d/gw-1:app/rsp/infer"),
        ("aimass/v1/d/gw-1/call/time", "aimass/v1/d/gw-1/rsp/time"),
        ("aimass/v1/d/gw-1/cmd/reboot", "aimass/v1/d/gw-1/res/reboot"),
    ],
)
def test_the_answer_goes_where_the_request_came_from(asked: str, answered: str) -> None:
    # TOPIC-3.1
    assert topics.answer_topic(asked) == answered


@pytest.mark.parametrize("topic", ["aimass/v1/d/gw-1/state", "aimass/v1/d/gw-1/rsp/infer", "nonsense"])
def test_nothing_else_is_answered(topic: str) -> None:
    with pytest.raises(FrameError):
        topics.answer_topic(topic)


def test_each_pool_has_its_own_shared_subscription() -> None:
    # TOPIC-3.2
    assert topics.infer_share("gpu") == "$share/gpu/aimass/v1/infer/gpu/+/req"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("event", "aimass/v1/d/+/evt/#"),
        ("state", "aimass/v1/d/+/state"),
        (Kind.REPORTED, "aimass/v1/d/+/twin/reported"),
    ],
)
def test_filters_over_all_devices(kind: str, expected: str) -> None:
    assert topics.device_filter(kind) == expected


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in {Kind.INFER, Kind.CLOUD_STATE}])
def test_a_filter_matches_the_topics_of_its_kind_and_no_other(kind: Kind) -> None:
    pattern = topics.device_filter(kind).replace("+", "[^/]+").replace("/#", "/.*")
    for other, build in PLAIN.items():
        assert bool(re.fullmatch(pattern, build("gw-1"))) is (other is kind)
    for other, named in NAMED.items():
        assert bool(re.fullmatch(pattern, named("gw-1", "n"))) is (other is kind)


@pytest.mark.parametrize("kind", ["infer", "cloud_state", "evt", ""])
def test_refuses_a_filter_for_what_no_device_has(kind: str) -> None:
    with pytest.raises(InputError):
        topics.device_filter(kind)
