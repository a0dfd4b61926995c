"""``aimass model push | list | show`` and ``aimass deploy``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from aimass.cli.cloud_api import CloudApi, Json
from aimass.cli.devices import running_version
from aimass.cli.waiting import wait_until
from aimass.errors import ModelError

_REFERENCE = re.compile(r"(?P<name>[^@:]+)(?:@(?P<alias>[^@:]+)|:(?P<version>[0-9]+))?")


@click.group()
def model() -> None:
    """Upload models and look at them."""


@model.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", required=True, help="Name of the model; the upload becomes its next version")
@click.option("--label", "labels", multiple=True, help="Name of a class, in order of the output; repeat it")
@click.option("--metric", "metrics", multiple=True, metavar="NAME=NUMBER", help="E.g. accuracy=0.97; repeat it")
@click.option("--alias", help="Also point this alias at the new version, e.g. champion")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON object as it came")
@click.pass_obj
def push(
    connection: Any,
    file: Path,
    name: str,
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    alias: str | None,
    as_json: bool,
) -> None:
    """Upload an ONNX file; the cloud checks it, finds its inputs and outputs, and signs it."""
    with connection.open() as api:
        made = api.push_model(file, name, labels=labels, metrics=dict(_metric(text) for text in metrics))
        if alias:
            api.set_alias(name, alias, int(made["version"]))
    click.echo(json.dumps(made) if as_json else f"{made['name']} version {made['version']} is checked and signed")


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table")
@click.pass_obj
def list_models(connection: Any, as_json: bool) -> None:
    """All models of this cloud."""
    with connection.open() as api:
        models = api.models()
    if as_json:
        click.echo(json.dumps(models))
        return
    table = Table()
    for title in ("model", "latest", "aliases"):
        table.add_column(title)
    for entry in models:
        aliases = ", ".join(f"{alias}→{version}" for alias, version in sorted((entry.get("aliases") or {}).items()))
        table.add_row(entry["name"], str(entry.get("latest_version", "-")), aliases or "-")
    Console().print(table)


@model.command()
@click.argument("name")
@click.pass_obj
def show(connection: Any, name: str) -> None:
    """One model with its versions."""
    with connection.open() as api:
        click.echo(json.dumps({**api.model(name), "versions": api.versions(name)}, indent=2))


@click.command()
@click.argument("reference", metavar="MODEL[@ALIAS|:VERSION]")
@click.option("--device", "device_id", help="One device")
@click.option("--all", "everywhere", is_flag=True, help="Every device, also those that enrol later")
@click.option("--wait", is_flag=True, help="Return when the devices report the model as running")
@click.option("--timeout", "timeout_s", default=300.0, show_default=True, help="Seconds to wait at most")
@click.pass_obj
def deploy(
    connection: Any, reference: str, device_id: str | None, everywhere: bool, wait: bool, timeout_s: float
) -> None:
    """Put a model on a device, or on all.

    Without alias or version the newest version is taken.
    """
    if everywhere == (device_id is not None):
        raise click.UsageError("give either --device ID or --all")
    name, version, alias = parse_reference(reference)
    with connection.open() as api:
        made = api.deploy(name, device=device_id, version=version, alias=alias)
        version = int(made["version"])
        click.echo(f"{name} version {version} is wanted on {device_id or 'all devices'}")
        if wait:
            for target in [device_id] if device_id else [str(entry["id"]) for entry in api.devices()]:
                await_running(api, target, name, version, timeout_s=timeout_s)
                click.echo(f"{target}: running")


def parse_reference(text: str) -> tuple[str, int | None, str | None]:
    """``name``, ``name:3`` or ``name@champion`` -> name, version, alias."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise click.UsageError(f"{text!r} is not MODEL, MODEL@ALIAS or MODEL:VERSION")
    version = match["version"]
    return match["name"], int(version) if version else None, match["alias"]


def await_running(api: CloudApi, device_id: str, name: str, version: int, *, timeout_s: float) -> None:
    """Until a device runs this version.

    Raises:
        ModelError: the device reports that it failed.
        TimeoutError: neither happened in time.
    """

    def settled() -> bool:
        running, failed = running_version(api, device_id, name)
        if running != version and failed is not None and int(failed["version"]) == version:
            raise ModelError(f"{device_id} cannot run {name}:{version}: {_reason(failed)}")
        return running == version

    wait_until(settled, timeout_s=timeout_s, every_s=0.3, what=f"{device_id} to run {name}:{version}")


def _reason(failed: Json) -> str:
    error = failed.get("error") or {}
    return str(error.get("message") or error or "no reason given")


def _metric(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError as exc:
        raise click.UsageError(f"--metric {text!r} is not NAME=NUMBER") from exc
