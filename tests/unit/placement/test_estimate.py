from __future__ import annotations

import numpy as np
import pytest

from aimass.placement.estimate import LatencyEstimate


def test_knows_nothing_at_first() -> None:
    estimate = LatencyEstimate()
    assert estimate.count == 0
    assert estimate.mean_s == 0.0
    assert estimate.p95_s == 0.0


def test_after_one_run_expects_about_that_and_not_less() -> None:
    estimate = LatencyEstimate(0.010)
    assert estimate.mean_s == 0.010
    assert 0.010 < estimate.p95_s < 0.030


def test_a_steady_run_time_gives_a_narrow_percentile() -> None:
    estimate = LatencyEstimate()
    for _ in range(50):
        estimate.add(0.010)
    assert estimate.p95_s == pytest.approx(0.010, rel=1e-3)


def test_about_nineteen_of_twenty_runs_stay_under_the_percentile() -> None:
    times = 0.010 * np.random.default_rng(1).lognormal(0.0, 0.3, size=4000)
    estimate = LatencyEstimate()
    under = 0
    for seconds in times:
        under += seconds <= estimate.p95_s
        estimate.add(float(seconds))
    assert 0.90 < under / len(times) < 0.99


def test_follows_a_device_that_became_slower_within_a_few_runs() -> None:
    estimate = LatencyEstimate()
    for _ in range(50):
        estimate.add(0.010)
    for _ in range(3):
        estimate.add(0.040)
    assert estimate.p95_s > 0.040
