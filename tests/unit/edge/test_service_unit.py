"""The systemd unit."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from aimass.errors import ConfigError
from aimass_edge.service_unit import install_unit, unit_text


def test_it_restarts_for_ever_and_is_shut_in() -> None:
    text = unit_text(executable=Path("/usr/bin/python3"), home=Path("/var/lib/aimass"), user="aimass")
    lines = text.splitlines()
    assert "ExecStart=/usr/bin/python3 -m aimass_edge --home /var/lib/aimass run" in lines
    for line in ("Restart=always", "StartLimitIntervalSec=0", "NoNewPrivileges=yes", "ProtectSystem=strict"):
        assert line in lines
    assert "User=aimass" in lines
    assert "ReadWritePaths=/var/lib/aimass" in lines
    assert "ProtectHome=yes" in lines


def test_a_home_under_home_is_not_hidden_from_its_service() -> None:
    text = unit_text(executable=Path("/usr/bin/python3"), home=Path("/home/ann/aimass"))
    assert "ProtectHome=no" in text
    assert "User=" not in text


def test_odd_characters_in_paths_are_quoted() -> None:
    text = unit_text(executable=Path("/usr/bin/python3"), home=Path("/srv/50% of it"))
    assert "--home '/srv/50%% of it' run" in text
    assert "ReadWritePaths=/srv/50%%\\x20of\\x20it" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "aimass-edge.service"
    path.write_text(unit_text(executable=Path("/bin/true"), home=tmp_path))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_installing_makes_the_home_and_writes_the_unit(tmp_path: Path) -> None:
    path = install_unit("[Unit]\n", tmp_path / "aimass-edge.service", home=tmp_path / "home")
    assert path.read_text() == "[Unit]\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert (tmp_path / "home").is_dir()


def test_without_systemd_or_user_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        install_unit("", tmp_path / "nowhere" / "x.service", home=tmp_path / "home")
    with pytest.raises(ConfigError, match="no user"):
        install_unit("", tmp_path / "x.service", home=tmp_path / "home", user="nobody-of-that-name")
