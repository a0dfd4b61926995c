"""Fetching one signed file over a link that breaks, from a server that lies, onto a disk that fills."""

from __future__ import annotations

from pathlib import Path

import pytest

from aimass.device.download import FetchLimits, fetch
from aimass.errors import (
    AimassError,
    CancelledError,
    ConnectError,
    DigestMismatchError,
    DownloadError,
    ForbiddenError,
    NoSpaceError,
)
from aimass.package.manifest import FileEntry
from tests.fakes.device_cloud import FakeCloud
from tests.fakes.disk import FlashDisk

DATA = bytes(range(256)) * 40  # 10,240 bytes
LIMITS = FetchLimits(reserve_bytes=0, core_share=1)


class Pauses:
    """Never stops, and remembers how long it was asked to wait."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    def __call__(self, wait_s: float) -> bool:
        if wait_s:
            self.waited.append(wait_s)
        return False


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


def get(
    cloud: FakeCloud, target: Path, entry: FileEntry | None = None, *, disk: FlashDisk | None = None, **how: object
) -> Pauses:
    entry = entry or cloud.add_blob(DATA)
    pauses = Pauses()
    more = {"disk": disk} if disk is not None else {}
    fetch(cloud, f"/v1/blobs/{entry.sha256}", entry, target, **{"stopped": pauses, "limits": LIMITS, **more, **how})
    return pauses


@pytest.mark.parametrize("data", [DATA, b"", b"x"])
def test_brings_the_file(cloud: FakeCloud, tmp_path: Path, data: bytes) -> None:
    get(cloud, tmp_path / "f", cloud.add_blob(data))
    assert (tmp_path / "f").read_bytes() == data
    assert len(cloud.downloads()) == 1


def test_asks_nothing_when_the_file_is_here(cloud: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    get(cloud, tmp_path / "f")
    assert cloud.downloads() == []


def test_goes_on_where_the_transfer_broke(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.cuts.extend([3000, 2500])
    get(cloud, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA
    assert [path.partition("@")[2] for path in cloud.downloads()] == ["", "3000", "5500"]


def test_goes_on_after_a_restart_of_this_process(cloud: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA[:4321])
    get(cloud, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA
    assert cloud.downloads()[0].endswith("@4321")


def test_copes_with_a_server_that_ignores_ranges(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.ignores_ranges = True
    cloud.cuts.extend([3000])
    get(cloud, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA


@pytest.mark.parametrize("says_size", [True, False])
def test_endless_data_is_left_at_the_first_byte_too_many(cloud: FakeCloud, tmp_path: Path, says_size: bool) -> None:
    cloud.endless, cloud.says_size = b"more" * 100_000, says_size
    chunks: list[int] = []
    cloud.during_download = lambda: chunks.append(1)
    with pytest.raises(DigestMismatchError):
        get(cloud, tmp_path / "f")
    assert len(chunks) <= len(DATA) // cloud.chunk_bytes + 1
    assert len(cloud.downloads()) == 1
    assert not (tmp_path / "f").exists()


def test_a_server_that_offers_another_size_is_not_listened_to(cloud: FakeCloud, tmp_path: Path) -> None:
    entry = cloud.add_blob(DATA)
    cloud.blobs[f"/v1/blobs/{entry.sha256}"] = DATA * 2
    with pytest.raises(DigestMismatchError, match="offers"):
        get(cloud, tmp_path / "f", entry)
    assert list(tmp_path.iterdir()) == []


def test_other_content_of_the_same_size_is_refused_and_removed(cloud: FakeCloud, tmp_path: Path) -> None:
    entry = cloud.add_blob(DATA)
    cloud.blobs[f"/v1/blobs/{entry.sha256}"] = DATA[::-1]
    with pytest.raises(DigestMismatchError):
        get(cloud, tmp_path / "f", entry)
    assert list(tmp_path.iterdir()) == []


def test_a_part_torn_by_a_power_cut_is_fetched_again_as_a_whole(cloud: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\0" * 5000)
    get(cloud, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_part_longer_than_the_file_is_thrown_away(cloud: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA * 2)
    get(cloud, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_server_without_the_rest_of_the_file_is_asked_for_the_whole(cloud: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA[:9000])
    cloud.errors.append(DownloadError("range not satisfiable", restart=True))
    get(cloud, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA


def test_gives_up_after_some_attempts_without_a_byte_and_keeps_what_came(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.cuts.append(2000)
    cloud.errors.extend([None, *(ConnectError("down") for _ in range(99))])
    entry = cloud.add_blob(DATA)
    pauses = Pauses()
    with pytest.raises(ConnectError):
        get(cloud, tmp_path / "f", entry, stopped=pauses)
    assert (tmp_path / "f").stat().st_size == 2000
    assert len(cloud.downloads()) == 1 + LIMITS.attempts
    assert pauses.waited == sorted(pauses.waited)


def test_rests_between_pieces_so_that_requests_find_a_core(cloud: FakeCloud, tmp_path: Path) -> None:
    pauses = get(cloud, tmp_path / "f", limits=FetchLimits(reserve_bytes=0, core_share=0.1))
    assert pauses.waited
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_byte_a_connection_does_not_hold_us_for_ever(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.cuts.extend([1] * 1000)
    with pytest.raises(DownloadError):
        get(cloud, tmp_path / "f", limits=FetchLimits(reserve_bytes=0, max_attempts=20))
    assert len(cloud.downloads()) == 20


def test_a_refusal_is_not_repeated(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.errors.append(ForbiddenError("not yours"))
    with pytest.raises(ForbiddenError):
        get(cloud, tmp_path / "f")
    assert len(cloud.calls) == 1


def test_leaves_at_once_when_something_newer_came(cloud: FakeCloud, tmp_path: Path) -> None:
    with pytest.raises(CancelledError):
        get(cloud, tmp_path / "f", stopped=lambda wait_s: (tmp_path / "f").stat().st_size >= 0)
    assert 0 < (tmp_path / "f").stat().st_size < len(DATA)


def test_asks_for_no_byte_that_cannot_fit(cloud: FakeCloud, tmp_path: Path) -> None:
    disk = FlashDisk(tmp_path, free=len(DATA) + 99)
    with pytest.raises(NoSpaceError) as caught:
        get(cloud, tmp_path / "f", disk=disk, limits=FetchLimits(reserve_bytes=100))
    assert (caught.value.needed_bytes, caught.value.free_bytes) == (len(DATA), len(DATA) + 99)
    assert cloud.calls == []


@pytest.mark.parametrize("room", [0, 1, 5, 10])
def test_a_disk_that_fills_on_the_way_is_given_its_room_back(cloud: FakeCloud, tmp_path: Path, room: int) -> None:
    with pytest.raises(NoSpaceError):
        get(cloud, tmp_path / "f", disk=FlashDisk(tmp_path, full_after=room))
    assert list(tmp_path.iterdir()) == []


def test_every_error_is_ours(cloud: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f").mkdir()  # a folder where the file should go
    with pytest.raises(AimassError):
        get(cloud, tmp_path / "sub" / "f")
