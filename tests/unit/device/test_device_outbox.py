"""The outbox: durable order, bounds, gaps, acknowledgements, and files that are damaged, full or in use."""

from __future__ import annotations

import json
import random
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimass.device.outbox import DropPolicy, Outbox, Record, StreamLimits
from aimass.errors import ConflictError, FrameTooLargeError, InputError, NoSpaceError, StoreError
from tests.fakes.record_store import RecordStore

NOW_S = 1_800_000_000.0


class Box:
    """An outbox with a clock that the test moves, and the cloud it belongs to."""

    def __init__(self, path: Path, limits: StreamLimits | None = None, **how: object) -> None:
        self.path, self.limits, self.how = path, limits or StreamLimits(), how
        self.now_s = NOW_S
        self.cloud = RecordStore()
        self.outbox = self._open()

    def _open(self) -> Outbox:
        return Outbox(self.path, default_limits=self.limits, now=lambda: self.now_s, **self.how)  # type: ignore[arg-type]

    def restart(self) -> None:
        self.outbox.close()
        self.outbox = self._open()

    def add(self, *values: int, stream: str = "events") -> list[int]:
        return [self.outbox.append(stream, "reading", {"n": value}) for value in values]

    def send(self, count: int = 10_000, stream: str = "events") -> bool:
        """Send so many rows from the acknowledged position and take the answer."""
        records = self.outbox.read(stream, self.outbox.acked(stream), max_records=count)
        self.outbox.mark_sent(stream, records)
        return self.acknowledge(self.cloud.take(stream, self.payload(records)))

    def payload(self, records: list[Record]) -> bytes:
        rows = [json.loads(record.to_json()) for record in records]
        return json.dumps({"stream_id": self.outbox.stream_id, "records": rows}).encode()

    def acknowledge(self, ack: bytes) -> bool:
        return self.outbox.acknowledge(**json.loads(ack))

    def rows(self, stream: str = "events") -> list[Record]:
        return self.outbox.read(stream, self.outbox.acked(stream), max_records=10_000, max_bytes=1 << 30)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "home" / "outbox.db")


def test_records_get_numbers_in_order_and_survive_a_restart(box: Box) -> None:
    assert box.add(7, 8, 9) == [1, 2, 3]
    stream_id = box.outbox.stream_id
    box.restart()
    assert box.outbox.stream_id == stream_id
    assert [json.loads(row.data)["n"] for row in box.rows()] == [7, 8, 9]
    assert box.add(10) == [4]
    assert len({row.id for row in box.rows()}) == 4


def test_a_record_with_an_id_is_kept_once_however_often_it_is_given(box: Box) -> None:
    append = box.outbox.append
    assert append("events", "reading", {"n": 1}, id="a") == 1
    assert append("events", "reading", {"n": 2}, id="b") == 2
    assert append("events", "reading", {"n": 1}, id="a") == 1
    assert append("audit", "reading", {"n": 1}, id="a") == 1
    assert (box.outbox.counters("events").appended, box.outbox.pending()) == (2, 3)


def test_an_id_is_known_after_a_restart_and_after_its_record_was_acknowledged(box: Box) -> None:
    assert box.outbox.append("events", "reading", {"n": 1}, id="a") == 1
    box.restart()
    assert box.outbox.append("events", "reading", {"n": 1}, id="a") == 1
    assert box.send()
    assert box.outbox.append("events", "reading", {"n": 1}, id="a") == 1
    assert box.outbox.pending() == 0


def test_of_many_that_give_one_id_at_once_one_record_is_made(box: Box) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.append(box.outbox.append("events", "reading", {}, id="a")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert numbers == [1] * 8
    assert box.outbox.pending() == 1


def test_refuses_an_id_that_is_no_name(box: Box) -> None:
    with pytest.raises(InputError):
        box.outbox.append("events", "reading", {}, id="A b")


def test_streams_count_for_themselves(box: Box) -> None:
    assert box.add(1, 2) == [1, 2]
    assert box.add(1, stream="audit") == [1]
    assert box.outbox.streams() == ["audit", "events"]
    assert (box.outbox.pending("events"), box.outbox.pending(), box.outbox.pending("none")) == (2, 3, 0)


def test_a_batch_holds_what_fits_and_at_least_one(box: Box) -> None:
    for _ in range(5):
        box.outbox.append("events", "reading", {"text": "x" * 1000})
    assert len(box.outbox.read("events", 0, max_records=3)) == 3
    assert len(box.outbox.read("events", 0, max_bytes=2500)) == 2
    assert len(box.outbox.read("events", 0, max_bytes=1)) == 1
    assert [row.seq for row in box.outbox.read("events", 3)] == [4, 5]


@pytest.mark.parametrize(
    ("stream", "kind", "data"),
    [
        ("no/name", "k", {}),
        ("s", "no/name", {}),
        ("s", "gap", {}),
        ("s", "k", {"x": object()}),
        ("s", "k", {"x": float("nan")}),
        ("s", "k", {"x": "\ud800"}),
        ("s", "k", [1]),
        ("s", "k", json.loads('{"x":' * 17 + "1" + "}" * 17)),
    ],
)
def test_refuses_what_cannot_be_sent(box: Box, stream: str, kind: str, data: dict[str, object]) -> None:
    with pytest.raises(InputError):
        box.outbox.append(stream, kind, data)
    assert box.outbox.streams() == []


def test_refuses_a_record_that_no_message_could_hold(box: Box) -> None:
    with pytest.raises(FrameTooLargeError):
        box.outbox.append("events", "k", {"text": "x" * 50_000})


def test_many_threads_append_at_once_and_every_record_has_its_own_number(box: Box) -> None:
    numbers: list[int] = []
    lock = threading.Lock()

    def append(worker: int) -> None:
        for n in range(25):
            seq = box.outbox.append("events", "reading", {"n": worker * 100 + n})
            with lock:
                numbers.append(seq)

    threads = [threading.Thread(target=append, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(numbers) == list(range(1, 201))
    box.restart()
    assert len({json.loads(row.data)["n"] for row in box.rows()}) == 200


def test_tells_who_listens_after_each_record(box: Box) -> None:
    heard: list[str] = []
    box.outbox.on_append(heard.append)
    box.add(1)
    box.add(1, stream="audit")
    assert heard == ["events", "audit"]


# --- acknowledgements


def test_an_acknowledgement_is_cumulative_and_survives_a_restart(box: Box) -> None:
    box.add(*range(10))
    assert box.send(6)
    box.restart()
    assert (box.outbox.acked("events"), box.outbox.pending()) == (6, 4)
    assert box.send()
    assert box.cloud.values() == list(range(10))
    counters = box.outbox.counters("events")
    assert (counters.appended, counters.sent, counters.acked, counters.pending) == (10, 10, 10, 0)


def test_sending_again_is_not_counted_again(box: Box) -> None:
    box.add(*range(4))
    for _ in range(3):
        box.outbox.mark_sent("events", box.rows())
    assert box.outbox.counters("events").sent == 4


def test_ignores_acknowledgements_that_are_old_or_of_another_file(box: Box) -> None:
    box.add(*range(5))
    box.send()
    stream_id = box.outbox.stream_id
    assert not box.outbox.acknowledge("events", stream_id, 3, 1000)  # same epoch, lower: an old message
    assert not box.outbox.acknowledge("events", stream_id, 5, 999)  # an older epoch
    assert not box.outbox.acknowledge("events", "0" * 32, 9, 9999)
    assert not box.outbox.acknowledge("nothing", stream_id, 1, 1000)
    assert not box.outbox.acknowledge("events", stream_id, -1, 9999)
    assert not box.outbox.acknowledge("events", stream_id, 2**70, 9999)
    assert (box.outbox.acked("events"), box.outbox.pending()) == (5, 0)


def test_a_cloud_restored_from_a_backup_gets_again_what_it_has_forgotten(box: Box) -> None:
    box.add(*range(5))
    box.send()
    backup = box.cloud.backup()
    box.add(*range(5, 12))
    box.send()
    box.add(12)
    box.cloud = backup.restored()
    box.restart()
    assert box.acknowledge(box.cloud.ack("events", box.outbox.stream_id))
    assert box.outbox.pending() == 8
    box.send()
    assert box.cloud.values() == list(range(13))
    assert box.cloud.duplicates == 0
    counters = box.outbox.counters("events")
    assert (counters.acked, counters.rewound, counters.evicted) == (13, 1, 0)


def test_what_a_restored_cloud_asks_for_and_is_not_kept_becomes_a_gap(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", StreamLimits(max_kept_rows=3))
    box.add(*range(10))
    box.send()
    box.cloud = RecordStore().restored()
    box.acknowledge(box.cloud.ack("events", box.outbox.stream_id))
    box.send()
    assert box.cloud.gaps() == [{"from": 1, "to": 7, "count": 7, "reason": "evicted"}]
    assert box.cloud.values() == [7, 8, 9]
    assert box.outbox.counters("events").evicted == 7


def test_kept_records_go_after_a_while(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", StreamLimits(max_kept_age_s=100))
    box.add(*range(5))
    box.send()
    box.now_s += 101
    box.outbox.expire()
    assert box.outbox.read("events", 0) == []


def test_a_file_that_went_back_in_time_loses_nothing_new(box: Box) -> None:
    """A disk that lies about its flushes: the cloud has numbers that this file will give again."""
    box.add(*range(5))
    box.send()
    box.add(5, 6)
    box.cloud.positions["events", box.outbox.stream_id] = 20
    assert box.acknowledge(box.cloud.ack("events", box.outbox.stream_id))
    assert [row.seq for row in box.rows()] == [21, 22]
    assert box.add(7) == [23]
    box.send()
    assert box.cloud.values()[-3:] == [5, 6, 7]
    box.cloud = RecordStore().restored()
    box.acknowledge(box.cloud.ack("events", box.outbox.stream_id))
    box.send()
    assert box.cloud.holes == 0


# --- bounds


def test_drops_the_oldest_and_tells_it_by_one_growing_gap(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", StreamLimits(max_rows=5))
    box.add(*range(12))
    rows = box.rows()
    assert [(row.seq, row.kind) for row in rows] == [(7, "gap"), *((n, "reading") for n in range(8, 13))]
    box.send()
    assert box.cloud.gaps() == [{"from": 1, "to": 7, "count": 7, "reason": "rows"}]
    assert box.cloud.values() == [7, 8, 9, 10, 11]
    counters = box.outbox.counters("events")
    assert (counters.appended, counters.dropped, counters.acked) == (12, 7, 5)


def test_kept_records_give_way_before_those_that_are_owed(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", StreamLimits(max_bytes=1200))
    box.add(*range(8))
    box.send()
    box.add(*range(8, 16))
    assert box.outbox.counters("events").dropped == 0
    assert [row.kind for row in box.rows()] == ["reading"] * 8
    box.add(*range(16, 32))
    assert box.outbox.counters("events").dropped > 0
    assert {row.kind for row in box.rows()} == {"gap", "reading"}
    assert "bytes" in box.rows()[0].data


def test_lets_go_of_what_is_too_old(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", StreamLimits(max_age_s=60))
    box.add(1, 2)
    box.now_s += 61
    box.add(3)
    box.send()
    assert box.cloud.gaps() == [{"from": 1, "to": 2, "count": 2, "reason": "age"}]
    assert box.cloud.values() == [3]


def test_a_clock_that_was_never_set_makes_nothing_old(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", StreamLimits(max_age_s=60))
    box.now_s = 1000.0
    box.add(1, 2)
    box.now_s = NOW_S
    box.add(3)
    box.outbox.expire()
    box.send()
    assert box.cloud.values() == [1, 2, 3]


def test_reasons_of_a_merged_gap_are_all_named(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", StreamLimits(max_rows=2, max_age_s=60))
    box.add(1, 2, 3)
    box.now_s += 61
    box.outbox.expire()
    assert [json.loads(row.data) for row in box.rows()] == [{"from": 1, "to": 3, "count": 3, "reason": "age+rows"}]


def test_a_stream_that_rejects_new_records_says_so_and_counts(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", StreamLimits(max_rows=2, policy=DropPolicy.REJECT_NEW))
    box.add(1, 2)
    with pytest.raises(NoSpaceError, match="full"):
        box.add(3)
    assert box.outbox.counters("events").rejected == 1
    box.send()
    assert box.add(4) == [3]
    box.restart()
    assert box.outbox.counters("events").rejected == 1


def test_a_record_above_the_streams_bound_drops_nothing(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", StreamLimits(max_bytes=1000))
    box.add(1)
    with pytest.raises(NoSpaceError):
        box.outbox.append("events", "k", {"text": "x" * 2000})
    assert len(box.rows()) == 1


def test_there_are_not_endlessly_many_streams(box: Box) -> None:
    for n in range(64):
        box.add(1, stream=f"s{n}")
    with pytest.raises(NoSpaceError):
        box.add(1, stream="one-more")
    assert box.add(2, stream="s0") == [2]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 6), kept=st.integers(0, 6), steps=st.integers(1, 60))
def test_every_record_reaches_the_cloud_or_lies_in_a_gap(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rows: int, kept: int, steps: int
) -> None:
    rng = random.Random(seed)
    box = Box(tmp_path_factory.mktemp("box") / "o.db", StreamLimits(max_rows=rows, max_kept_rows=kept))
    backup, total = box.cloud.backup(), 0
    for _ in range(steps):
        match rng.choice(["add", "add", "send", "lost ack", "restart", "backup", "restore"]):
            case "add":
                box.add(total)
                total += 1
            case "send":
                box.send(rng.randint(1, 4))
            case "lost ack":
                records = box.outbox.read("events", box.outbox.acked("events"), max_records=rng.randint(1, 4))
                box.cloud.take("events", box.payload(records))
            case "restart":
                box.restart()
            case "backup":
                backup = box.cloud.backup()
            case "restore":
                backup.epoch = box.cloud.epoch
                box.cloud = backup.restored()
                backup = box.cloud.backup()
                box.acknowledge(box.cloud.ack("events", box.outbox.stream_id))
    while box.outbox.pending():
        box.acknowledge(box.cloud.ack("events", box.outbox.stream_id))
        assert box.send() or not box.outbox.pending()
    assert box.cloud.holes == 0
    covered = [row["seq"] for row in box.cloud.stored if row["kind"] != "gap"]
    assert len(covered) == len(set(covered)) == len(set(box.cloud.values()))
    for gap in box.cloud.gaps():
        covered += range(gap["from"], gap["to"] + 1)
    assert set(covered) == set(range(1, total + 1))
    counters = box.outbox.counters("events")
    assert counters.appended == total
    assert counters.pending == 0
    box.outbox.close()


# --- the disk


def test_a_full_disk_is_named_counted_and_passes(tmp_path: Path) -> None:
    box = Box(tmp_path / "o.db", max_file_bytes=128 * 1024)

    def fill() -> None:
        for _ in range(1000):
            box.outbox.append("events", "k", {"text": "x" * 1000})

    with pytest.raises(NoSpaceError):
        fill()
    stored = len(box.rows())
    assert box.outbox.counters("events").failed == 1
    assert stored > 20
    rows = box.rows()
    assert [row.seq for row in rows] == list(range(1, stored + 1))
    box.restart()
    assert len(box.rows()) == stored
    assert box.outbox.totals()["appended"] == stored


def test_a_power_cut_takes_no_record_whose_append_had_returned(tmp_path: Path) -> None:
    """Whatever the medium had beyond the last flush is lost: the log is cut at any byte after it, or torn there."""
    box = Box(tmp_path / "o.db")
    assert box.outbox._file.run("PRAGMA synchronous").fetchone() == (2,)
    log = tmp_path / "o.db-wal"
    sizes = []
    for n in range(8):
        box.add(n)
        sizes.append(log.stat().st_size)
    file, whole = (tmp_path / "o.db").read_bytes(), log.read_bytes()
    for cut in range(0, len(whole) + 1, 1511):
        for tail in (b"", b"\0" * 5000):
            state = tmp_path / "state"
            state.mkdir()
            (state / "o.db").write_bytes(file)
            (state / "o.db-wal").write_bytes(whole[:cut] + tail)
            again = Box(state / "o.db")
            durable = sum(1 for size in sizes if size <= cut)
            assert [json.loads(row.data)["n"] for row in again.rows()][:durable] == list(range(durable))
            assert len(again.rows()) <= durable + 1
            again.add(99)
            again.outbox.close()
            shutil.rmtree(state)


@pytest.mark.parametrize("damage", ["garbage", "cut", "page"])
def test_a_damaged_file_is_moved_aside_and_the_loss_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "o.db"
    box = Box(path)
    for _ in range(200):
        box.outbox.append("events", "k", {"text": "x" * 500})
    old = box.outbox.stream_id
    box.outbox.close()
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "garbage": b"this is no database" * 1000,
            "cut": data[:middle],
            "page": data[: middle - 5000] + b"\xff" * 9000 + data[middle + 4000 :],
        }[damage]
    )
    again = Box(path)
    assert again.outbox.stream_id != old
    assert again.add(1)[0] == 2
    gap = again.rows()[0]
    assert (gap.seq, gap.kind) == (1, "gap")
    told = json.loads(gap.data)
    assert (told["from"], told["to"], told["reason"], told["at_least"]) == (1, 1, "damaged", True)
    assert (tmp_path / "o.db.damaged").exists()
    if damage == "page":  # enough is left to say how much was lost
        assert (told["count"], told["lost_stream_id"]) == (200, old)
    again.restart()
    assert again.add(2, stream="later") == [2]


def test_only_one_damaged_file_is_kept(tmp_path: Path) -> None:
    for content in (b"first" * 100, b"second" * 100):
        (tmp_path / "o.db").write_bytes(content)
        Box(tmp_path / "o.db").outbox.close()
    assert (tmp_path / "o.db.damaged").read_bytes() == b"second" * 100
    assert len(list(tmp_path.iterdir())) == 2


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "o.db").touch()
    assert Box(tmp_path / "o.db").add(1) == [1]


def test_a_second_user_of_the_same_file_is_refused(box: Box) -> None:
    with pytest.raises(ConflictError, match="another process"):
        Outbox(box.path)
    assert box.add(1) == [1]


def test_a_file_of_a_newer_program_is_left_alone(box: Box) -> None:
    import sqlite3

    box.add(1)
    box.outbox.close()
    db = sqlite3.connect(box.path)
    db.execute("PRAGMA user_version = 99")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="newer version"):
        Outbox(box.path)
    assert not box.path.with_name("outbox.db.damaged").exists()


def test_a_closed_outbox_says_so(box: Box) -> None:
    box.add(1)
    box.outbox.close()
    box.outbox.close()
    with pytest.raises(StoreError, match="closed"):
        box.add(2)
    assert box.outbox.read("events", 0) == []
    assert not box.outbox.acknowledge("events", box.outbox.stream_id, 1, 1)
