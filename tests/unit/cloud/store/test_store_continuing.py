"""Whatever the link does to the order and number of batches, each record counts once and no hole goes unnoticed."""

from hypothesis import given
from hypothesis import strategies as st

from aimass_cloud.store.events import continuing
from aimass_cloud.store.records import EventRecord

LAST = 12
record = st.integers(1, LAST).map(lambda seq: EventRecord(seq=seq, id=str(seq), at_ms=0, kind="answer", data={}))
gap = st.tuples(st.integers(1, LAST), st.integers(1, LAST)).map(
    lambda ends: EventRecord(
        seq=max(ends), id="gap", at_ms=0, kind="gap", data={"from": min(ends), "to": max(ends), "reason": "age"}
    )
)
batches = st.lists(st.lists(record, max_size=8), max_size=10)


@given(batches)
def test_stored_records_are_one_to_the_head_each_once(arriving: list[list[EventRecord]]) -> None:
    head, stored = 0, []
    for batch in arriving:
        taken, head = continuing(batch, head)
        stored += [r.seq for r in taken]
    assert stored == list(range(1, head + 1))


@given(st.lists(st.lists(record | gap, max_size=8), max_size=10))
def test_with_gaps_every_number_up_to_the_head_is_stored_or_declared_lost(arriving: list[list[EventRecord]]) -> None:
    head, covered, seqs = 0, set(), []
    for batch in arriving:
        before = head
        taken, head = continuing(batch, head)
        assert head >= before
        seqs += [r.seq for r in taken]
        for r in taken:
            covered.update(range(r.first_seq, r.seq + 1))
    assert covered == set(range(1, head + 1))
    assert len(seqs) == len(set(seqs))


@given(batches)
def test_sending_everything_from_the_head_on_always_completes_the_stream(arriving: list[list[EventRecord]]) -> None:
    head = 0
    for batch in arriving:
        _taken, head = continuing(batch, head)
    rest = [EventRecord(seq=n, id="", at_ms=0, kind="answer", data={}) for n in range(head + 1, LAST + 1)]
    assert continuing(rest, head)[1] == max(LAST, head)
