"""The broker's configuration file, and where mosquitto and its plug-in are on this machine.

What is decided here, and why:

* ``use_identity_as_username`` and ``use_username_as_clientid``: the certificate's CN is user *and* client id, so nobody
  can present another's client id and throw them off.
* ``set_tcp_nodelay``: without it every round trip costs 44 ms.
* ``tls_version tlsv1.2`` is the lowest version taken (1.3 is preferred by itself); only ECDHE-ECDSA suites, which
  microcontrollers have in hardware.
* ``openssl.cnf``: no session tickets. With one, a device whose certificate has expired gets in for two hours more.
  (By TLS 1.2 a client can still resume a session that the broker remembers, until the next reload.)
* ``user`` is whoever starts it: mosquitto started as root would drop to a user of its own that cannot write this
  folder, and every enrolment would vanish at the next restart while each command says success.
* ``autosave_interval 60``: the default is half an hour. Durable things do not live in the broker all the same.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aimass.errors import ConfigError

APT_HINT = "install the broker: apt-get install mosquitto"
TLS12_CIPHERS = ":".join(
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305")
)
OPENSSL_CONFIG = """\
# Written by aimass-cloud at each start of the broker; changes are lost.
openssl_conf = top
[top]
ssl_conf = modules
[modules]
system_default = tls
[tls]
Options = -SessionTicket
NumTickets = 0
MinProtocol = TLSv1.2
CipherString = DEFAULT@SECLEVEL=2
"""
PLUGIN_NAME = "mosquitto_dynamic_security.so"
LIBRARY_FOLDERS = (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"))
PROGRAM_FOLDERS = ("/usr/sbin", "/usr/local/sbin")
"""Looked into besides PATH: the PATH of ordinary users has no sbin."""
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """All that the broker is told.

    Args:
        folder: its own folder: configuration, security file, persistence, log.
        bind: address to listen on.
        ca_file: root and intermediate; who a client's certificate must chain to.
        server_pem: key, leaf and intermediate of the listener in one file, so that one rename swaps them.
        crl_file: the intermediate's revocation list; once it has expired the broker refuses everybody.
        user: who mosquitto runs as when started by root.
        max_in_flight: unacknowledged messages to one client.
        max_queued: messages waiting for one client beyond those; the newest are dropped above it.
    """

    folder: Path
    bind: str
    port: int
    ca_file: Path
    server_pem: Path
    crl_file: Path
    mosquitto: Path
    plugin: Path
    user: str
    max_packet_bytes: int = 4 * MIB
    max_in_flight: int = 400
    max_queued: int = 2000
    max_queued_bytes: int = 64 * MIB
    autosave_s: int = 60

    @classmethod
    def in_folder(cls, folder: Path, *, bind: str, port: int) -> BrokerConfig:
        """The usual file names in ``folder``, with the programs found on this machine.

        Raises:
            ConfigError: mosquitto or its plug-in is missing; the hint names the package.
        """
        return cls(
            folder=folder,
            bind=bind,
            port=port,
            ca_file=folder / "ca.pem",
            server_pem=folder / "server.pem",
            crl_file=folder / "crl.pem",
            mosquitto=find_mosquitto(),
            plugin=find_plugin(),
            user=effective_user(),
        )

    @property
    def config_file(self) -> Path:
        """Where the configuration is written."""
        return self.folder / "mosquitto.conf"

    @property
    def dynsec_file(self) -> Path:
        """The security plug-in's file; the running broker writes it."""
        return self.folder / "dynamic-security.json"

    @property
    def openssl_file(self) -> Path:
        """Where OpenSSL's part of the configuration is written."""
        return self.folder / "openssl.cnf"

    @property
    def log_file(self) -> Path:
        """What the broker said."""
        return self.folder / "mosquitto.log"


def render(config: BrokerConfig) -> str:
    """The configuration file.

    Raises:
        ConfigError: a path or address that the file's format cannot hold.
    """
    options: list[tuple[str, object]] = [
        ("per_listener_settings", "false"),
        ("allow_anonymous", "false"),
        ("plugin", config.plugin),
        ("plugin_opt_config_file", config.dynsec_file),
        ("persistence", "true"),
        ("persistence_location", f"{config.folder}/"),
        ("autosave_interval", config.autosave_s),
        ("persistent_client_expiration", "14d"),
        ("max_inflight_messages", config.max_in_flight),
        ("max_queued_messages", config.max_queued),
        ("max_queued_bytes", config.max_queued_bytes),
        ("queue_qos0_messages", "false"),
        ("retain_available", "true"),
        ("set_tcp_nodelay", "true"),
        ("max_packet_size", config.max_packet_bytes),
        ("log_dest", "stderr"),
        ("log_timestamp_format", "%Y-%m-%dT%H:%M:%S"),
        *((("log_type", kind)) for kind in ("error", "warning", "notice", "information")),
        ("connection_messages", "true"),
    ]
    if config.user:
        options.append(("user", config.user))
    # From here on everything belongs to the listener. Any of these above it would speak of mosquitto's *default*
    # listener: 2.0 then opens port 1883 to everybody beside ours, and the setting has no effect on ours.
    options += [
        ("listener", f"{config.port} {_value('bind', config.bind)}"),
        ("protocol", "mqtt"),
        ("cafile", config.ca_file),
        ("certfile", config.server_pem),
        ("keyfile", config.server_pem),
        ("crlfile", config.crl_file),
        ("require_certificate", "true"),
        ("use_identity_as_username", "true"),
        ("use_username_as_clientid", "true"),
        ("tls_version", "tlsv1.2"),
        ("ciphers", TLS12_CIPHERS),
    ]
    return "# Written by aimass-cloud at each start of the broker; changes are lost.\n" + "".join(
        f"{key} {_value(key, value)}\n" for key, value in options
    )


def find_mosquitto(folders: Sequence[str] = PROGRAM_FOLDERS) -> Path:
    """The broker's program; ConfigError with the package's name when it is missing."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders])
    found = shutil.which("mosquitto", path=path)
    if found is None:
        raise ConfigError("mosquitto is not installed", hint=APT_HINT)
    return Path(found)


def find_plugin(folders: Sequence[Path] = LIBRARY_FOLDERS) -> Path:
    """The dynamic-security plug-in; Debian puts it into a folder named after the architecture."""
    for folder in folders:
        for candidate in (folder / PLUGIN_NAME, *sorted(folder.glob(f"*/{PLUGIN_NAME}"))):
            if candidate.is_file():
                return candidate
    raise ConfigError(f"mosquitto's plug-in {PLUGIN_NAME} is missing", hint=APT_HINT + " (2.0 or later)")


def effective_user() -> str:
    """Name of the user this process runs as; empty when that user has no name (then nobody can drop to it either)."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def _value(key: str, value: object) -> str:
    text = str(value)
    # The format is one option a line, leading and trailing blanks are lost, and nothing can be quoted.
    if not text or text != text.strip() or any(ord(c) < 32 for c in text):
        raise ConfigError(f"mosquitto's configuration cannot hold this value of {key}: {text!r}")
    return text
