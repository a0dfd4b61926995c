from aimass.transport.backoff import Backoff


def test_pauses_double_up_to_the_bound_with_half_of_them_left_to_chance() -> None:
    longest = Backoff(first_s=0.2, max_s=10, chance=lambda: 1.0)
    assert [round(longest.next_s(), 3) for _ in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    shortest = Backoff(first_s=0.2, max_s=10, chance=lambda: 0.0)
    assert [round(shortest.next_s(), 3) for _ in range(3)] == [0.1, 0.2, 0.4]


def test_only_a_link_that_lived_starts_the_count_again() -> None:
    backoff = Backoff(first_s=1, max_s=60, stable_s=5, chance=lambda: 1.0)
    backoff.next_s()
    backoff.link_lived(1)
    assert backoff.next_s() == 2
    backoff.link_lived(5)
    assert backoff.next_s() == 1


def test_a_thousand_failures_do_not_overflow() -> None:
    backoff = Backoff(chance=lambda: 1.0)
    assert [backoff.next_s() for _ in range(1100)][-1] == 10.0
