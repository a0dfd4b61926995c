from __future__ import annotations

from aimass.placement.breaker import CircuitBreaker


def opened() -> CircuitBreaker:
    breaker = CircuitBreaker()
    breaker.failure(0.0)
    breaker.failure(0.0)
    return breaker


def test_stays_closed_after_one_failure_and_forgets_it_after_a_success() -> None:
    breaker = CircuitBreaker()
    breaker.failure(0.0)
    assert breaker.allow(0.0)
    breaker.success(1.0)
    breaker.failure(2.0)
    assert breaker.state == "closed"
    assert breaker.allow(2.0)


def test_two_failures_in_a_row_open_it_for_half_a_second() -> None:
    breaker = opened()
    assert breaker.state == "open"
    assert not breaker.allow(0.0)
    assert not breaker.allow(0.49)
    assert breaker.allow(0.5)
    assert breaker.state == "half_open"


def test_lets_one_probe_through_at_a_time() -> None:
    breaker = opened()
    assert breaker.allow(0.5)
    assert not breaker.allow(0.5)
    assert not breaker.allow(0.6)


def test_a_probe_that_nobody_reports_is_followed_by_another() -> None:
    breaker = opened()
    assert breaker.allow(0.5)
    assert breaker.allow(1.0)


def test_a_probe_that_comes_back_closes_it() -> None:
    breaker = opened()
    breaker.allow(0.5)
    breaker.success(0.6)
    assert breaker.state == "closed"
    assert breaker.allow(0.6)


def test_pauses_double_up_to_eight_seconds_and_begin_anew_after_a_success() -> None:
    breaker = opened()
    now, pauses = 0.0, []
    for _ in range(7):
        begun = now
        while not breaker.allow(now):
            now += 0.25
        pauses.append(now - begun)
        breaker.failure(now)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    breaker.success(now)
    breaker.failure(now)
    breaker.failure(now)
    assert breaker.allow(now + 0.5)


def test_failures_of_requests_sent_before_it_opened_do_not_lengthen_the_pause() -> None:
    breaker = opened()
    for _ in range(50):
        breaker.failure(0.4)
    assert breaker.allow(0.5)
