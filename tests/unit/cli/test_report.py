from collections import Counter

import pytest

from aimass.cli.load import Tally, interleaved, stored_by_row
from aimass.cli.report import Report

EDGE, CLOUD = ("m", "onnxruntime", "edge"), ("m", "onnxruntime", "cloud")


def good_tally() -> Tally:
    tally = Tally()
    tally.latencies_ms[EDGE] = [1.0] * 60
    tally.latencies_ms[CLOUD] = [2.0] * 40
    tally.correct.update({EDGE: 58, CLOUD: 39})
    tally.fallbacks[EDGE] = 10
    tally.sent.update({EDGE: 60, CLOUD: 40})
    return tally


def report(tally: Tally, *, stored: Counter[tuple[str, str, str]] | None = None, duplicates: int = 0) -> Report:
    kept = Counter(tally.sent) if stored is None else stored
    return Report(tally=tally, stored=kept, requests=100, duplicates=duplicates, seconds=1)


def test_a_good_run_has_nothing_to_complain_about() -> None:
    good = report(good_tally())
    assert good.complaints() == []
    whole = good.as_dict()
    expected = {"requests": 100, "failed": 0, "accuracy": 0.97, "offloaded": 40, "fallbacks": 10}
    assert {key: whole[key] for key in expected} == expected
    assert whole["outbox_sent"] == whole["outbox_stored"] == 100
    assert good.table().row_count == 3


def test_each_broken_promise_is_told() -> None:
    failed = good_tally()
    failed.failures["m"] = 1
    wrong = good_tally()
    wrong.correct[EDGE] = 40
    alone = good_tally()
    alone.fallbacks.clear()
    for tally, word in ((failed, "failed"), (wrong, "accuracy"), (alone, "fallback")):
        (complaint,) = report(tally).complaints()
        assert word in complaint


@pytest.mark.parametrize("stored", [99, 101])
def test_a_missing_or_doubled_record_is_told(stored: int) -> None:
    complaints = report(good_tally(), stored=Counter({EDGE: stored})).complaints()
    assert any("records were sent" in text for text in complaints)
    assert any("twice" in text for text in report(good_tally(), duplicates=1).complaints())


def test_jobs_of_all_kinds_are_mixed() -> None:
    jobs = interleaved(["a", "b"], ["m"], ["edge", "cloud"], 3)
    assert len(jobs) == 12
    assert len({(job.gateway, job.mode) for job in jobs[:4]}) == 4


def test_stored_records_are_counted_by_what_they_say() -> None:
    data = {"model": "m", "engine": "onnxruntime", "served_by": "edge"}
    assert stored_by_row([{"data": data}, {"data": data}]) == Counter({EDGE: 2})
