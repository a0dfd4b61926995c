from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from aimass.runtime.watchdog import Watchdog
from tests.fakes.waiting import until


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    made = Watchdog(time.monotonic)
    yield made
    made.close()
    assert made._thread is None or not made._thread.is_alive()


def test_rings_in_the_order_of_time_not_of_asking(watchdog: Watchdog) -> None:
    rung: list[str] = []
    now = time.monotonic()
    watchdog.at(now + 0.06, lambda: rung.append("late"))
    watchdog.at(now + 0.02, lambda: rung.append("early"))
    watchdog.at(now - 1, lambda: rung.append("past"))
    until(lambda: len(rung) == 3, "three alarms")
    assert rung == ["past", "early", "late"]


def test_does_not_ring_early(watchdog: Watchdog) -> None:
    rung: list[float] = []
    when = time.monotonic() + 0.03
    watchdog.at(when, lambda: rung.append(time.monotonic()))
    until(lambda: rung)
    assert rung[0] >= when


def test_a_cancelled_alarm_does_not_ring_and_lets_go_of_what_it_held(watchdog: Watchdog) -> None:
    class Held:
        rung = False

        def ring(self) -> None:
            self.rung = True

    held = Held()
    gone = weakref.ref(held)
    alarm = watchdog.at(time.monotonic() + 3600, held.ring)
    alarm.cancel()
    assert not alarm.is_live
    del held
    assert gone() is None


def test_a_callback_that_fails_does_not_silence_the_others(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture
) -> None:
    rung: list[int] = []
    now = time.monotonic()
    with caplog.at_level(logging.CRITICAL, "aimass"):
        watchdog.at(now, lambda: 1 / 0)
        watchdog.at(now + 0.01, lambda: rung.append(1))
        until(lambda: rung)


def test_keeps_no_heap_of_alarms_that_were_cancelled(watchdog: Watchdog) -> None:
    for _ in range(20_000):
        watchdog.at(time.monotonic() + 3600, lambda: None).cancel()
    assert len(watchdog._due) < 1000


def test_takes_alarms_from_its_own_callbacks(watchdog: Watchdog) -> None:
    done = threading.Event()
    watchdog.at(0, lambda: watchdog.at(0, done.set))
    assert done.wait(5)


def test_rings_everything_when_it_is_closed_and_from_then_on_at_once() -> None:
    watchdog = Watchdog(time.monotonic)
    rung: list[str] = []
    watchdog.at(time.monotonic() + 3600, lambda: rung.append("waiting"))
    watchdog.at(time.monotonic() + 3600, lambda: rung.append("cancelled")).cancel()
    watchdog.close()
    watchdog.close()
    watchdog.at(time.monotonic() + 3600, lambda: rung.append("later"))
    assert rung == ["waiting", "later"]
