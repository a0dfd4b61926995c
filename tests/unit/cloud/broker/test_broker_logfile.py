"""The broker's words are kept in bounded space, and never stop it."""

from pathlib import Path

from aimass_cloud.broker.logfile import BoundedLog


def test_keeps_the_last_lines_in_two_files_of_bounded_size(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "broker.log", max_bytes=1000)
    log.feed(b"line %04d\n" % number for number in range(1000))
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert set(kept) <= {"broker.log", "broker.log.1"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2020
    assert (tmp_path / "broker.log.1").read_bytes().endswith(b"\n")
    assert log.tail(2) == ["line 0998", "line 0999"]


def test_goes_on_reading_when_the_file_cannot_be_written(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "absent" / "broker.log", max_bytes=1000)
    log.feed([b"one\n", b"two \xff\n"])
    assert log.tail(5) == ["one", "two \N{REPLACEMENT CHARACTER}"]
