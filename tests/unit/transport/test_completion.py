import logging
import threading

import pytest

from aimass.errors import DeadlineError, LinkDownError
from aimass.transport.completion import Completion


def test_the_first_outcome_wins() -> None:
    completion: Completion[int] = Completion()
    assert completion.complete(1)
    assert not completion.complete(2)
    assert not completion.complete(error=LinkDownError("late"))
    assert completion.done
    assert completion.result == 1
    assert completion.error is None
    assert completion.wait() == 1


def test_callbacks_run_once_also_when_it_was_done_before() -> None:
    completion: Completion[str] = Completion()
    seen: list[str | None] = []
    completion.add_done_callback(lambda c: seen.append(c.result))
    assert seen == []
    completion.complete("x")
    completion.add_done_callback(lambda c: seen.append(c.result))
    assert seen == ["x", "x"]


def test_waiting_raises_the_error_or_a_deadline() -> None:
    completion: Completion[None] = Completion()
    with pytest.raises(DeadlineError):
        completion.wait(0.001)
    completion.complete(error=LinkDownError("gone"))
    with pytest.raises(LinkDownError):
        completion.wait(0)


def test_a_waiter_on_another_thread_is_woken() -> None:
    completion: Completion[int] = Completion()
    threading.Timer(0.01, completion.complete, (7,)).start()
    assert completion.wait(5) == 7


def test_a_callback_that_raises_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    completion: Completion[int] = Completion()
    seen: list[int | None] = []

    def bad(_completion: Completion[int]) -> None:
        raise RuntimeError("a fault in a callback")

    completion.add_done_callback(bad)
    completion.add_done_callback(lambda c: seen.append(c.result))
    with caplog.at_level(logging.ERROR):
        completion.complete(3)
    assert seen == [3]
    assert "a done-callback failed" in caplog.text
