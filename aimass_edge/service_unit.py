"""The systemd unit of the agent: started at boot, restarted for ever, and shut in as far as engines allow."""

from __future__ import annotations

import os
import pwd
import shlex
from pathlib import Path

from aimass.device.files import make_folder, write_atomic
from aimass.errors import ConfigError, ForbiddenError

UNIT_NAME = "aimass-edge.service"
UNIT_FOLDER = Path("/etc/systemd/system")

# Left out on purpose: MemoryDenyWriteExecute (engines compile kernels at run time) and PrivateDevices (GPUs and NPUs
# are device files).
_TEMPLATE = """\
[Unit]
Description=AI Mass agent
Documentation=man:systemd.exec(5)
Wants=network-online.target
After=network.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
Restart=always
RestartSec=1
TimeoutStopSec=45
KillMode=mixed
{user}UMask=0077
Environment=PYTHONUNBUFFERED=1
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ReadWritePaths={home}
{protect_home}PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
LimitNOFILE=65536
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
"""


def unit_text(*, executable: Path, home: Path, user: str = "") -> str:
    """The unit file.

    Args:
        executable: the Python that runs the agent.
        home: the agent's home folder, the only place it may write.
        user: whom it runs as; the system's root when empty.
    """
    command = shlex.join([str(executable), "-m", "aimass_edge", "--home", str(home), "run"]).replace("%", "%%")
    # A home inside /home or /root cannot be hidden from the service that lives in it.
    is_hidden = not any(home.is_relative_to(one) for one in ("/home", "/root", "/run/user"))
    return _TEMPLATE.format(
        command=command,
        home=str(home).replace("%", "%%").replace(" ", "\\x20"),
        user=f"User={user}\n" if user else "",
        protect_home="ProtectHome=yes\n" if is_hidden else "ProtectHome=no\n",
    )


def install_unit(text: str, path: Path, *, home: Path, user: str = "") -> Path:
    """Writes the unit, and makes the home for its user.

    Returns:
        Where it was written.

    Raises:
        ConfigError: no such user.
        ForbiddenError: not allowed to write there.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} does not exist", hint="is this a machine with systemd?")
    if not os.access(path.parent, os.W_OK):
        raise ForbiddenError(f"not allowed to write {path}", hint="run it with sudo")
    make_folder(home)
    if user:
        _give_to(home, user)
    write_atomic(path, text.encode(), mode=0o644)
    return path


def _give_to(home: Path, user: str) -> None:
    try:
        entry = pwd.getpwnam(user)
    except KeyError as exc:
        raise ConfigError(f"there is no user {user}", hint=f"make it: useradd --system {user}") from exc
    try:
        for one in (home, *home.rglob("*")):
            os.chown(one, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    except PermissionError as exc:
        raise ForbiddenError(f"not allowed to give {home} to {user}", hint="run it with sudo") from exc
