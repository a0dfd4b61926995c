"""The agent's socket and the lock of its home."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from aimass.client.home import HomeLock
from aimass.errors import ConfigError, ConflictError
from aimass_edge.local_socket import bind_socket, remove_socket
from tests.conftest import ROOT


def test_the_socket_is_for_owner_and_group_only(short_tmp: Path) -> None:
    path = short_tmp / "a.sock"
    with bind_socket(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert [one.name for one in short_tmp.iterdir()] == ["a.sock"]


def test_a_socket_left_by_a_killed_agent_is_replaced(short_tmp: Path) -> None:
    path = short_tmp / "a.sock"
    bind_socket(path).close()
    with bind_socket(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_is_answered_is_not_taken_away(short_tmp: Path) -> None:
    path = short_tmp / "a.sock"
    with bind_socket(path):
        with pytest.raises(ConflictError):
            bind_socket(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_file_in_its_place_is_not_touched(short_tmp: Path) -> None:
    path = short_tmp / "a.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError):
        bind_socket(path)
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_a_config_error(short_tmp: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        bind_socket(short_tmp / "nowhere" / "a.sock")


def test_removing_a_socket_twice_is_fine(short_tmp: Path) -> None:
    path = short_tmp / "a.sock"
    bind_socket(path).close()
    remove_socket(path)
    remove_socket(path)
    assert not path.exists()


def test_a_home_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with HomeLock(tmp_path), pytest.raises(ConflictError, match=str(os.getpid())), HomeLock(tmp_path):
        pass
    with HomeLock(tmp_path):
        pass


def test_the_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from aimass.client.home import HomeLock\n"
        "with HomeLock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "sdk" / "python")}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConflictError), HomeLock(tmp_path):
            pass
        holder.kill()
        holder.wait(10)
        with HomeLock(tmp_path):
            pass
