"""The agent's settings: defaults, then `agent.toml` in the home folder, then AIMASS_EDGE_... in the environment.

Nothing below this module reads the environment or knows pydantic: what leaves it are plain values and the library's
own frozen dataclasses. A key nobody knows is refused; a misspelt limit that silently keeps its default is worse than
an agent that says which line to correct.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from aimass.client.home import SOCKET_NAME
from aimass.errors import ConfigError
from aimass.placement.policy import Policy
from aimass.serving.guard import LOOPBACK_NAMES

FILE_NAME = "agent.toml"
PREFIX = "AIMASS_EDGE_"
HOME_VARIABLE = PREFIX + "HOME"  # read by the command line, not a setting

_MAX_SOCKET_PATH_BYTES = 107  # sun_path of Linux without its end mark


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TcpSettings(_Part):
    """The loopback door for programs that cannot open a Unix socket.

    Attributes:
        enabled: off unless asked for.
        host: an address of this machine's loopback; nothing else can be set.
        port: 0 takes a free one and says so in the log.
        allowed_hosts: names that a request's Host header may carry, without port.
        token_file: holds the bearer token, mode 0600; made when it is missing.
    """

    enabled: bool = False
    host: Literal["127.0.0.1", "::1"] = "127.0.0.1"
    port: int = Field(default=8317, ge=0, le=65535)
    allowed_hosts: tuple[str, ...] = LOOPBACK_NAMES
    token_file: Path | None = None


class OffloadSettings(_Part):
    """Asking the cloud's pool.

    Attributes:
        enabled: off keeps every request on the device.
        pool: which pool of workers is asked.
        policy: for requests that name none.
    """

    enabled: bool = True
    pool: str = Field(default="default", pattern=r"^[a-z0-9._-]{1,64}$")
    policy: Policy = Policy.SAVING


class OutboxSettings(_Part):
    """Bounds of what is kept for the cloud, for each stream.

    Attributes:
        max_records: unacknowledged records; above it the oldest go and leave a gap record.
        max_bytes: their size.
        max_age_s: their age.
    """

    max_records: int = Field(default=100_000, ge=1)
    max_bytes: int = Field(default=256 * 1024 * 1024, ge=1024)
    max_age_s: float = Field(default=30 * 86400.0, gt=0)


class EdgeSettings(BaseSettings):
    """Everything that can be set.

    Attributes:
        socket_path: where local apps call; `agent.sock` in the home folder when left out.
        tcp: the loopback door.
        engines: which engines to use, best first; empty means a gateway that only offloads.
        provider: where engines compute (`CPU`, `CUDA`, ...).
        intra_threads: threads of one run; 0 leaves it to the engine.
        default_deadline_s: for requests that bring none.
        max_queue: requests waiting; above it they are refused at once.
        drain_timeout_s: how long requests in progress may take when the agent stops.
        heartbeat_s: how often the cloud hears that we live.
        telemetry_period_s: how often metrics are sent; 0 never.
        metered: a link that costs money: under 1 MB a month while nothing happens.
        offload: asking the cloud.
        outbox: what is kept for it.
        log_level: how much is written to the log.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    socket_path: Path | None = None
    tcp: TcpSettings = TcpSettings()
    engines: tuple[Literal["onnxruntime", "openvino"], ...] = ("onnxruntime", "openvino")
    provider: str = "CPU"
    intra_threads: int = Field(default=1, ge=0, le=1024)
    default_deadline_s: float = Field(default=1.0, gt=0, le=3600)
    max_queue: int = Field(default=256, ge=1)
    drain_timeout_s: float = Field(default=10.0, ge=0)
    heartbeat_s: float = Field(default=20.0, ge=1)
    telemetry_period_s: float = Field(default=60.0, ge=0)
    metered: bool = False
    offload: OffloadSettings = OffloadSettings()
    outbox: OutboxSettings = OutboxSettings()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose values come in as arguments."""
        return (env_settings, init_settings)

    @property
    def effective_heartbeat_s(self) -> float:
        """The heartbeat that holds, metered or not."""
        return max(900.0, self.heartbeat_s) if self.metered else self.heartbeat_s

    @property
    def effective_keepalive_s(self) -> int:
        """The MQTT keep-alive. Metered, heartbeats keep the link open; a ping each hour tells whether it is."""
        return 3600 if self.metered else 30

    @property
    def effective_telemetry_period_s(self) -> float:
        """The period that holds, metered or not; 0 means none is sent."""
        return 0.0 if self.metered else self.telemetry_period_s

    def socket_in(self, home: Path) -> Path:
        """Where the local socket is.

        Raises:
            ConfigError: the path is longer than the operating system can bind.
        """
        path = self.socket_path or home / SOCKET_NAME
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"socket_path is too long for a Unix socket: {path}",
                hint=f"set socket_path in {home / FILE_NAME} to one of at most {_MAX_SOCKET_PATH_BYTES} bytes",
            )
        return path

    def token_in(self, home: Path) -> Path:
        """Where the loopback door's token is."""
        return self.tcp.token_file or home / "door.token"


def read_settings(home: Path, environment: Mapping[str, str] | None = None) -> EdgeSettings:
    """The settings for a home folder.

    Raises:
        ConfigError: an unknown key or a value that makes no sense; names key and source.
    """
    environment = os.environ if environment is None else environment
    path = home / FILE_NAME
    from_file = _read_file(path)
    _refuse_unknown_variables(environment)
    try:
        return EdgeSettings(**from_file)
    except ValidationError as exc:
        raise _config_error(exc, from_file, path) from exc
    except ValueError as exc:  # a variable that should hold JSON and does not
        raise ConfigError(f"a variable {PREFIX}... holds no valid value: {exc.__cause__ or exc}") from exc


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{path} cannot be read as TOML: {exc}", source=str(path)) from exc


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    known = set(_variables(EdgeSettings, PREFIX)) | {HOME_VARIABLE}
    for name in environment:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise ConfigError(f"unknown setting {name} in the environment", source="environment", key=name)


def _variables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, one in model.model_fields.items():
        yield (prefix + name).upper()
        if isinstance(one.annotation, type) and issubclass(one.annotation, BaseModel):
            yield from _variables(one.annotation, f"{prefix}{name}__")


def _config_error(exc: ValidationError, from_file: Mapping[str, Any], path: Path) -> ConfigError:
    first = exc.errors(include_url=False)[0]
    key = ".".join(str(one) for one in first["loc"])
    source = str(path) if _has_key(from_file, first["loc"]) else "environment"
    what = "unknown setting" if first["type"] == "extra_forbidden" else f"{first['msg']} in setting"
    return ConfigError(f"{what} {key} ({source})", source=source, key=key)


def _has_key(values: Any, loc: tuple[int | str, ...]) -> bool:
    for one in loc[:2]:
        if not isinstance(values, Mapping) or one not in values:
            return not isinstance(values, Mapping) and values is not None
        values = values[one]
    return True
