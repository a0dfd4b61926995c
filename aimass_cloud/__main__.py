"""The command ``aimass-cloud``."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from aimass.errors import AimassError, ConflictError, EnrolError, InputError, TrustError

FAILURE, REFUSED = 1, 3
PR_SET_PDEATHSIG = 1
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

Command = TypeVar("Command", bound=Callable[..., Any])

EXAMPLES = """
\b
Examples:
  aimass-cloud --dir /srv/aimass init --host cloud.example --host 10.0.0.5
  aimass-cloud --dir /srv/aimass run
  aimass-cloud --dir /srv/aimass enrol-token gw-1

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused (exists already, running already, not allowed).
"""


@click.group(epilog=EXAMPLES)
@click.option(
    "--dir",
    "state_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("aimass-cloud"),
    show_default=True,
    help="State folder of the cloud.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is written to standard error.",
)
@click.version_option(package_name="aimass", message="%(version)s")
@click.pass_context
def main(context: click.Context, state_dir: Path, log_level: str) -> None:
    """The cloud of AI Mass: enrols devices, checks and signs models, deploys them, answers what devices offload."""
    logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # tells of its plug-ins at each start
    context.obj = state_dir


def _json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, errors too.")(command)


def _refusals_shown(command: Command) -> Command:
    """Show our errors as a message with a hint, and end with the right code."""

    @wraps(command)
    def shown(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except AimassError as exc:
            _end(exc, as_json=bool(kwargs.get("as_json")))
        except OSError as exc:
            where = f" ({exc.filename})" if exc.filename else ""
            _end(AimassError(f"{exc.strerror or exc}{where}"), as_json=bool(kwargs.get("as_json")))

    return shown  # type: ignore[return-value]


def _end(error: AimassError, *, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": error.as_dict()}))
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    logging.getLogger(__name__).debug("where it came from", exc_info=error)
    refused = isinstance(error, ConflictError | EnrolError | InputError | TrustError)
    raise SystemExit(REFUSED if refused else FAILURE)


@main.command(epilog="\b\nExample:\n  aimass-cloud --dir /srv/aimass init --host cloud.example --host 10.0.0.5")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    required=True,
    metavar="NAME",
    help="Name or IP address under which devices reach the cloud; the first is told to them. Repeatable.",
)
@click.option("--https-port", type=click.IntRange(1, 65535), default=8443, show_default=True, help="Port of the API.")
@click.option(
    "--broker-port", type=click.IntRange(1, 65535), default=8883, show_default=True, help="Port of the broker."
)
@click.option("--bind", default="", metavar="ADDRESS", help="Address to listen on; all addresses when left out.")
@_json_option
@click.pass_obj
@_refusals_shown
def init(state_dir: Path, hosts: tuple[str, ...], https_port: int, broker_port: int, bind: str, as_json: bool) -> None:
    """Make a new cloud: authority, keys, database, settings. Prints the first api-key, once."""
    from aimass_cloud.settings import load_settings
    from aimass_cloud.usecases.addresses import public_url
    from aimass_cloud.usecases.setup import make_cloud

    made = make_cloud(state_dir, hosts=hosts, https_port=https_port, broker_port=broker_port, bind=bind)
    ca = made.state_dir.absolute() / "pki" / "root.pem"
    url = public_url(load_settings(made.state_dir))
    if as_json:
        click.echo(json.dumps({"api_key": made.api_key, "url": url, "ca": str(ca), "root_sha256": made.root_sha256}))
        return
    click.echo(f"A new cloud is in {made.state_dir}.\n")
    click.echo(f"  api-key   {made.api_key}\n            Keep it now: it is shown only once.")
    click.echo(f"  address   {url}")
    click.echo(f"  root      {ca}  (sha256 {made.root_sha256[:16]}...)\n")
    click.echo(f"Keep {ca.parent / 'root'} on a disk that is not online; it is needed for nothing in daily work.")
    click.echo(f"Start it:  aimass-cloud --dir {state_dir} run")


@main.command(epilog="\b\nExample:\n  aimass-cloud --dir /srv/aimass run")
@click.option("--json", "as_json", is_flag=True, help="Say 'ready' as a JSON line.")
@click.pass_obj
@_refusals_shown
def run(state_dir: Path, as_json: bool) -> None:
    """Run the cloud until SIGTERM or Ctrl-C: broker, API, workers."""
    from aimass_cloud.app import Cloud, wait_for
    from aimass_cloud.settings import load_settings
    from aimass_cloud.usecases.addresses import public_url

    cloud = Cloud(state_dir, load_settings(state_dir))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def say_ready() -> None:
        url, broker = (
            public_url(cloud.settings),
            {"host": cloud.settings.broker_host, "port": cloud.settings.broker_port},
        )
        if as_json:
            click.echo(json.dumps({"event": "ready", "url": url, "broker": broker, "pid": os.getpid()}))
        else:
            click.echo(f"aimass-cloud: ready {url}")
        sys.stdout.flush()

    wait_for(stop, cloud, say_ready)


@main.command(
    "enrol-token", epilog="\b\nExample:\n  aimass-edge enrol $(aimass-cloud --dir /srv/aimass enrol-token gw-1)"
)
@click.argument("identity", metavar="ID")
@click.option(
    "--ttl",
    "ttl_s",
    type=click.FloatRange(1),
    default=None,
    metavar="SECONDS",
    help="How long it is good; 24 hours unless the settings say otherwise.",
)
@_json_option
@click.pass_obj
@_refusals_shown
def enrol_token(state_dir: Path, identity: str, ttl_s: float | None, as_json: bool) -> None:
    """Make a token that lets the device ID in, once. Works while the cloud runs, and while it does not.

    For a worker on another machine ID is svc:NAME.
    """
    from aimass_cloud.usecases.setup import make_enrol_token

    token, expires_at = make_enrol_token(state_dir, identity, ttl_s)
    click.echo(json.dumps({"token": token, "id": identity, "expires_at": expires_at}) if as_json else token)


@main.command(epilog='\b\nExample:\n  aimass-cloud worker --home /srv/worker-1 --token "$TOKEN"')
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), required=True, help="The worker's own folder."
)
@click.option("--token", default="", help="Enrol-token for the first start; '-' reads it from standard input.")
@click.option("--pool", default="default", show_default=True, help="The pool it answers for; must be the token's.")
@click.option("--with-parent", is_flag=True, hidden=True, help="End when the process that started this one ends.")
@_refusals_shown
def worker(home: Path, token: str, pool: str, with_parent: bool) -> None:
    """Run one worker of a pool; 'run' starts those of this machine by itself."""
    if with_parent:
        _end_with_parent()
    from aimass_cloud.pool.worker import WorkerSettings, run_worker

    if token == "-":  # noqa: S105  the usual word for standard input
        token = sys.stdin.readline().strip()
    run_worker(home, token=token, settings=WorkerSettings(pool=pool))


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:  # it ended before we could say so
        raise SystemExit(FAILURE)


@main.command(
    epilog="\b\nExamples:\n  aimass-cloud --dir /srv/aimass backup /mnt/b/monday\n"
    "  aimass-cloud --dir /srv/aimass backup /mnt/b/monday.tar.gz"
)
@click.argument("target", type=click.Path(path_type=Path))
@_json_option
@click.pass_obj
@_refusals_shown
def backup(state_dir: Path, target: Path, as_json: bool) -> None:
    """Write a backup to a new folder or .tar.gz file, while the cloud runs. It holds the cloud's keys: guard it."""
    from aimass_cloud.usecases.backup_file import write_backup

    info = write_backup(state_dir, target)
    done = f"{target} holds {info.blobs} blobs ({info.blob_bytes} bytes) and the database"
    click.echo(json.dumps(asdict(info)) if as_json else done)


@main.command(epilog="\b\nExample:\n  aimass-cloud --dir /srv/aimass restore /mnt/b/monday")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@_json_option
@click.pass_obj
@_refusals_shown
def restore(state_dir: Path, source: Path, as_json: bool) -> None:
    """Put a backup back; the cloud must not run. Devices send again what the backup does not have."""
    from aimass_cloud.usecases.backup_file import read_backup

    info = read_backup(source, state_dir)
    click.echo(json.dumps(asdict(info)) if as_json else f"restored {state_dir} from {source}; start it with 'run'")


if __name__ == "__main__":
    main()
