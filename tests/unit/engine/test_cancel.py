from __future__ import annotations

import threading

import pytest

from aimass.engine import Cancel
from aimass.errors import CancelledError


def test_stops_the_run_it_was_given_to_once() -> None:
    cancel, stopped = Cancel(), []
    with cancel.stopping(lambda: stopped.append(1)):
        cancel.set()
        cancel.set()
    assert stopped == [1]


def test_a_run_does_not_begin_when_the_wish_was_there_before() -> None:
    cancel, stopped = Cancel(), []
    cancel.set()
    with pytest.raises(CancelledError), cancel.stopping(lambda: stopped.append(1)):
        pytest.fail("began")
    assert not stopped


def test_stops_nothing_after_the_run_has_ended() -> None:
    cancel, stopped = Cancel(), []
    with cancel.stopping(lambda: stopped.append(1)):
        pass
    cancel.set()
    assert cancel.is_set
    assert not stopped


def test_the_run_does_not_end_while_it_is_being_stopped() -> None:
    """An engine's request goes back into a pool when the run has ended; stopping it then would hit its next user."""
    cancel, order = Cancel(), []
    inside, may_finish = threading.Event(), threading.Event()

    def stop() -> None:
        inside.set()
        may_finish.wait(5)
        order.append("stopped")

    setter = threading.Thread(target=cancel.set)
    with cancel.stopping(stop):
        setter.start()
        assert inside.wait(5)
        threading.Timer(0.02, may_finish.set).start()
    order.append("ended")
    setter.join()
    assert order == ["stopped", "ended"]
