"""How long bulk work rests."""

import pytest

from aimass.device.pace import MAX_REST_S, Pace


class Clock:
    def __init__(self) -> None:
        self.used_s = 5.0

    def __call__(self) -> float:
        return self.used_s


@pytest.mark.parametrize(("share", "rests_s"), [(1 / 3, 0.002), (0.5, 0.001), (1.0, 0.0)])
def test_rests_in_proportion_to_the_work_since_the_last_rest(share: float, rests_s: float) -> None:
    clock = Clock()
    pace = Pace(share, clock)
    for _ in range(3):
        clock.used_s += 0.001
        assert pace.rest_s() == pytest.approx(rests_s)
    assert pace.rest_s() == 0.0


def test_the_work_of_a_helping_thread_counts_too() -> None:
    clock = Clock()
    pace = Pace(0.5, clock)
    clock.used_s += 0.001
    assert pace.rest_s(others_s=0.002) == pytest.approx(0.003)


def test_a_rest_is_never_so_long_that_a_stop_would_wait_for_it() -> None:
    clock = Clock()
    pace = Pace(0.01, clock)
    clock.used_s += 60
    assert pace.rest_s() == MAX_REST_S
