"""Settings of the cloud: ``cloud.toml`` in the state folder, then ``AIMASS_CLOUD_...``, then what the caller says.

The only module of the cloud that reads the environment. A key nobody knows is refused, wherever it stands, with its
name and its source. Nested keys are written ``AIMASS_CLOUD_BROKER__PORT=8883`` in the environment.

    hosts = ["cloud.example", "10.0.0.5"]
    [https]
    port = 8443
    [lifetimes]
    device_s = 2592000
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from aimass.device.files import make_folder, write_atomic
from aimass.errors import ConfigError

FILE_NAME = "cloud.toml"
ENV_PREFIX = "AIMASS_CLOUD_"
DAY_S = 86_400.0
MIB = 1024 * 1024

Port = Annotated[int, Field(ge=1, le=65535)]
Lifetime = Annotated[float, Field(ge=10, le=3650 * DAY_S)]
"""Seconds. Ten is for tests; below two minutes renewals begin to lack time for a retry."""
PoolName = Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpsSettings(_Section):
    """Where the API listens."""

    bind: str = "0.0.0.0"  # noqa: S104 - devices are elsewhere; every request is authenticated
    port: Port = 8443


class BrokerSettings(_Section):
    """Where the broker listens, and where devices find it when that differs (behind a port forward)."""

    bind: str = "0.0.0.0"  # noqa: S104 - devices are elsewhere; the broker demands a certificate
    port: Port = 8883
    public_host: str = ""
    public_port: int = Field(default=0, ge=0, le=65535)


class LifetimeSettings(_Section):
    """How long certificates and the revocation list live, seconds from the moment they are made."""

    device_s: Lifetime = 30 * DAY_S
    service_s: Lifetime = DAY_S
    broker_s: Lifetime = 30 * DAY_S
    https_s: Lifetime = 30 * DAY_S
    crl_s: Lifetime = 7 * DAY_S


class UploadSettings(_Section):
    """Bounds of a model upload and of the process that checks it."""

    max_model_bytes: int = Field(default=2048 * MIB, ge=1)
    check_timeout_s: float = Field(default=120.0, gt=0)
    check_memory_bytes: int = Field(default=4096 * MIB, ge=64 * MIB)


class PoolSettings(_Section):
    """The pool that this cloud runs itself."""

    name: PoolName = "default"
    workers: int = Field(default=1, ge=0, le=256)


class CloudSettings(BaseSettings):
    """All settings; every one has a default but ``hosts``, which ``aimass-cloud init`` writes."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    hosts: tuple[str, ...] = ("localhost",)
    https: HttpsSettings = HttpsSettings()
    broker: BrokerSettings = BrokerSettings()
    lifetimes: LifetimeSettings = LifetimeSettings()
    uploads: UploadSettings = UploadSettings()
    pool: PoolSettings = PoolSettings()
    enrol_token_ttl_s: float = Field(default=DAY_S, gt=0)
    grace_s: float = Field(default=60 * DAY_S, ge=0)
    """How long after its end a device certificate still gets a new one."""
    event_days: float = Field(default=30.0, gt=0)
    """How long stored outbox records are kept."""

    @property
    def broker_host(self) -> str:
        """The broker's address as devices are told."""
        return self.broker.public_host or self.hosts[0]

    @property
    def broker_port(self) -> int:
        """The broker's port as devices are told."""
        return self.broker.public_port or self.broker.port


def load_settings(state_dir: Path, overrides: Mapping[str, Any] | None = None) -> CloudSettings:
    """Reads the settings of the cloud whose state is in ``state_dir``.

    Args:
        state_dir: holds ``cloud.toml``; without the file the defaults apply.
        overrides: the strongest source, nested as the file is: ``{"broker": {"port": 1}}``.

    Raises:
        ConfigError: a key nobody knows or a value out of range; names key and source.
    """
    file = state_dir / FILE_NAME
    _check_environment(os.environ)
    source = _source_reading(file)
    try:
        return source(**dict(overrides or {}))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{file} is not TOML: {exc}") from exc
    except ValidationError as exc:
        raise _named(exc, file, overrides or {}) from exc


def write_settings(
    state_dir: Path, *, hosts: Sequence[str], https_port: int | None = None, broker_port: int | None = None
) -> Path:
    """Writes a new ``cloud.toml`` with what ``init`` was told; everything else keeps its default."""
    lines = [f"hosts = [{', '.join(_quoted(host) for host in hosts)}]"]
    for section, port in (("https", https_port), ("broker", broker_port)):
        if port is not None:
            lines += ["", f"[{section}]", f"port = {port}"]
    make_folder(state_dir)
    path = state_dir / FILE_NAME
    write_atomic(path, ("\n".join(lines) + "\n").encode(), mode=0o644)
    return path


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _source_reading(file: Path) -> type[CloudSettings]:
    class FromFile(CloudSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    return FromFile


def _check_environment(environment: Mapping[str, str]) -> None:
    # pydantic-settings passes over variables it does not know: a misspelt one would be ignored in silence.
    for variable in environment:
        if not variable.upper().startswith(ENV_PREFIX):
            continue
        path = variable.upper().removeprefix(ENV_PREFIX).lower().split("__")
        model: type[BaseModel] | None = CloudSettings
        for part in path:
            if model is None or part not in model.model_fields:
                raise ConfigError(f"environment variable {variable} names no setting")
            kind = model.model_fields[part].annotation
            model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _named(error: ValidationError, file: Path, overrides: Mapping[str, Any]) -> ConfigError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    variable = ENV_PREFIX + "__".join(path).upper()
    if _has(overrides, path):
        source = "the command line"
    elif variable in os.environ:
        source = f"environment variable {variable}"
    else:
        source = str(file)
    what = "is not a setting" if first["type"] == "extra_forbidden" else f"is wrong: {first['msg']}"
    return ConfigError(f"{key} {what} ({source})", key=key, source=source)


def _has(values: Any, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True
