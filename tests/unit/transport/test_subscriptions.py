import pytest

from aimass.transport import Message
from aimass.transport.subscriptions import Subscriptions, topic_matches, without_share


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
        ("a/+/c", "a/b/c", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$SYS/load", False),
        ("+/load", "$SYS/load", False),
        ("$SYS/#", "$SYS/load", True),
        ("+/+", "/a", True),
        ("+", "/a", False),
    ],
)
def test_filters_match_topics_as_the_standard_says(topic_filter: str, topic: str, expected: bool) -> None:
    assert topic_matches(topic_filter, topic) is expected


def test_a_share_is_matched_without_its_group() -> None:
    assert without_share("$share/pool/aimass/v1/infer/pool/+/req") == "aimass/v1/infer/pool/+/req"
    assert without_share("a/b") == "a/b"


def test_each_message_reaches_the_handlers_of_all_filters_that_match() -> None:
    subscriptions = Subscriptions()
    heard: list[str] = []
    for topic_filter in ("a/b", "a/+", "$share/g/a/#", "x"):
        subscriptions.add(topic_filter, lambda _m, f=topic_filter: heard.append(f), 1)
    subscriptions.deliver(Message("a/b", b""))
    assert heard == ["a/b", "a/+", "$share/g/a/#"]


def test_a_message_that_nobody_wants_is_counted() -> None:
    subscriptions = Subscriptions()
    subscriptions.add("a", lambda _m: None, 1)
    subscriptions.remove("a")
    subscriptions.deliver(Message("a", b""))
    assert subscriptions.counts == {"received": 1, "unmatched": 1}


def test_a_refusal_is_kept_until_the_filter_is_granted_or_forgotten() -> None:
    subscriptions = Subscriptions()
    subscriptions.answered("a", 0x87)
    subscriptions.answered("b", 0x97)
    assert subscriptions.refusals() == {"a": 0x87, "b": 0x97}
    subscriptions.answered("a", 1)
    subscriptions.remove("b")
    assert subscriptions.refusals() == {}
