"""Presence: what the cloud believes about a device, rule by rule (see aimass_cloud/fleet/presence.py)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_cloud.fleet.presence import Moment, Presence, PresenceBook, PresenceRules, State

BOOT_A, BOOT_B = "a" * 8, "b" * 8


def at(second: float) -> Moment:
    return Moment(monotonic_s=1000 + second, wall_ms=int(1_700_000_000_000 + second * 1000))


def wall(second: float) -> int:
    return at(second).wall_ms


@pytest.fixture
def book() -> PresenceBook:
    book = PresenceBook()
    book.link(True, at(0))
    return book


def test_a_device_is_never_before_the_first_evidence(book: PresenceBook) -> None:
    assert book.at("gw-1", at(500)) == Presence(State.NEVER, None, None)


def test_any_live_message_makes_it_online(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    assert book.at("gw-1", at(10)) == Presence(State.ONLINE, wall(5), wall(5), BOOT_A, 20.0)


def test_since_stays_the_begin_of_the_state_while_evidence_moves_on(book: PresenceBook) -> None:
    for second in (5, 25, 45):
        book.heard("gw-1", at(second), BOOT_A)
    assert book.at("gw-1", at(46)) == Presence(State.ONLINE, wall(5), wall(45), BOOT_A, 20.0)


def test_a_farewell_makes_it_offline_at_once(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    book.farewell("gw-1", at(7), BOOT_A)
    assert book.at("gw-1", at(7)) == Presence(State.OFFLINE, wall(7), wall(7), BOOT_A, 20.0)


def test_a_will_makes_it_offline_since_the_last_evidence(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    book.lost("gw-1", BOOT_A)
    assert book.at("gw-1", at(25)) == Presence(State.OFFLINE, wall(5), wall(5), BOOT_A, 20.0)


def test_a_will_of_an_earlier_boot_is_ignored(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    book.heard("gw-1", at(10), BOOT_B)
    book.lost("gw-1", BOOT_A)
    assert book.at("gw-1", at(25)).state is State.ONLINE


def test_a_will_of_a_device_never_heard_says_nothing(book: PresenceBook) -> None:
    book.lost("gw-1", BOOT_A)
    assert book.at("gw-1", at(25)).state is State.NEVER


def test_a_frozen_device_is_offline_after_three_heartbeats(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    assert book.at("gw-1", at(65)).state is State.ONLINE
    assert book.at("gw-1", at(65.1)) == Presence(State.OFFLINE, wall(5), wall(5), BOOT_A, 20.0)


def test_a_device_that_promised_rare_heartbeats_gets_more_time(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A, heartbeat_s=600)
    book.heard("gw-1", at(605), BOOT_A)
    assert book.at("gw-1", at(2400)).state is State.ONLINE
    assert book.at("gw-1", at(2406)).state is State.OFFLINE


@pytest.mark.parametrize(("promised_s", "kept_s"), [(1e9, 3600.0), (0.001, 1.0), (-5.0, 20.0)])
def test_a_device_cannot_promise_nonsense(book: PresenceBook, promised_s: float, kept_s: float) -> None:
    book.heard("gw-1", at(5), BOOT_A, heartbeat_s=promised_s)
    assert book.at("gw-1", at(5)).heartbeat_s == kept_s


def test_an_offline_device_comes_back_with_new_evidence(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    book.lost("gw-1", BOOT_A)
    book.heard("gw-1", at(40), BOOT_B)
    assert book.at("gw-1", at(41)) == Presence(State.ONLINE, wall(40), wall(40), BOOT_B, 20.0)


def test_heartbeats_without_a_boot_keep_the_boot(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    book.heard("gw-1", at(10))
    assert book.at("gw-1", at(11)).boot == BOOT_A


def test_without_a_link_nothing_new_is_concluded(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    book.link(False, at(10))
    assert book.at("gw-1", at(60)).state is State.ONLINE
    assert book.at("gw-1", at(100)) == Presence(State.UNKNOWN, wall(10), wall(5), BOOT_A, 20.0)


def test_a_device_that_died_with_the_broker_is_offline_25_s_after_the_link_came_back(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    book.link(False, at(10))
    book.link(True, at(15))
    assert book.at("gw-1", at(39)).state is State.ONLINE
    assert book.at("gw-1", at(40)) == Presence(State.OFFLINE, wall(5), wall(5), BOOT_A, 20.0)


def test_a_device_that_reconnects_after_the_broker_stays_online_without_a_break(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    book.link(False, at(10))
    book.link(True, at(15))
    book.heard("gw-1", at(18), BOOT_A)
    assert book.at("gw-1", at(50)) == Presence(State.ONLINE, wall(5), wall(18), BOOT_A, 20.0)


def test_a_device_found_offline_before_the_link_broke_stays_offline(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    book.link(False, at(100))
    assert book.at("gw-1", at(101)) == Presence(State.OFFLINE, wall(5), wall(5), BOOT_A, 20.0)


def test_what_an_earlier_run_knew_is_old_evidence() -> None:
    book = PresenceBook(known={"gw-1": Presence(State.ONLINE, wall(-500), wall(-400), BOOT_A)})
    assert book.at("gw-1", at(0)).state is State.UNKNOWN
    book.link(True, at(1))
    assert book.at("gw-1", at(25)).state is State.UNKNOWN
    assert book.at("gw-1", at(26)) == Presence(State.OFFLINE, wall(-400), wall(-400), BOOT_A, 20.0)


def test_what_an_earlier_run_found_offline_stays_so() -> None:
    known = Presence(State.OFFLINE, wall(-300), wall(-400), BOOT_A, 20.0)
    book = PresenceBook(known={"gw-1": known})
    assert book.at("gw-1", at(0)) == known


def test_setting_the_wall_clock_does_not_make_a_fleet_disappear(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    assert book.at("gw-1", Moment(1010, wall(86_400))).state is State.ONLINE


def test_changes_are_told_once(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    assert [(identity, p.state) for identity, p in book.changed(at(6))] == [("gw-1", State.ONLINE)]
    book.heard("gw-1", at(25))
    assert book.changed(at(26)) == []
    assert [p.state for _, p in book.changed(at(100))] == [State.OFFLINE]
    assert book.changed(at(101)) == []


def test_a_removed_device_is_forgotten(book: PresenceBook) -> None:
    book.heard("gw-1", at(5), BOOT_A)
    book.forget("gw-1")
    assert book.at("gw-1", at(6)).state is State.NEVER
    assert book.changed(at(6)) == []


@given(
    st.lists(st.tuples(st.sampled_from(["heard", "farewell", "lost", "up", "down"]), st.floats(0, 90)), max_size=40),
    st.floats(0, 200),
)
def test_whatever_happens_the_times_make_sense(events: list[tuple[str, float]], rest_s: float) -> None:
    book, now = PresenceBook(PresenceRules()), 0.0
    for what, pause in events:
        now += pause
        if what in ("up", "down"):
            book.link(what == "up", at(now))
        else:
            book.lost("gw-1", BOOT_A) if what == "lost" else getattr(book, what)("gw-1", at(now), BOOT_A)
    presence = book.at("gw-1", at(now + rest_s))
    if presence.state is State.NEVER:
        return
    assert presence.evidence_at_ms is not None
    assert presence.since_ms is not None
    assert max(presence.evidence_at_ms, presence.since_ms) <= at(now + rest_s).wall_ms
    if presence.state is State.ONLINE:
        assert at(now + rest_s).wall_ms - presence.evidence_at_ms <= 60_001
