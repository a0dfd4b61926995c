"""The command line of the agent: `aimass-edge [--home DIR] enrol | run | status | check | install`.

Everything that only one command needs is imported when that command runs: `run` must not carry what `status` uses to
draw a table.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from aimass.client.home import default_home
from aimass.errors import AimassError
from aimass.version import __version__


@contextlib.contextmanager
def _telling_errors() -> Iterator[None]:
    try:
        yield
    except AimassError as exc:
        click.echo(f"aimass-edge: {exc.message}", err=True)
        if exc.hint:
            click.echo(f"  {exc.hint}", err=True)
        raise SystemExit(1) from exc
    except OSError as exc:  # a folder of somebody else, most often
        click.echo(f"aimass-edge: {exc}", err=True)
        raise SystemExit(1) from exc


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aimass-edge")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="AIMASS_EDGE_HOME",
    help="The agent's folder.  [default: /var/lib/aimass for root, ~/.local/share/aimass for others]",
)
@click.pass_context
def main(context: click.Context, home: Path | None) -> None:
    """The AI Mass agent of a gateway."""
    context.obj = (home or default_home()).absolute()


@main.command()
@click.argument("token")
@click.option("--replace", is_flag=True, help="Give up the identity that this home has.")
@click.pass_obj
def enrol(home: Path, token: str, replace: bool) -> None:
    """Let this machine in, with the TOKEN that `aimass-cloud enrol-token` printed; '-' reads it from the input."""
    from aimass.device.enrol import enrol as enrol_home

    with _telling_errors():
        identity = enrol_home(_read_token(token), home, replace=replace)
    click.echo(f"enrolled as {identity.cn} at {identity.cloud_url}; start the agent: aimass-edge --home {home} run")


@main.command()
@click.pass_obj
def run(home: Path) -> None:
    """Run the agent until it is told to stop."""
    from aimass_edge.agent import run as run_agent

    with _telling_errors():
        run_agent(home)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def status(home: Path, as_json: bool) -> None:
    """Show how the running agent stands."""
    with _telling_errors():
        seen = _status_of(home)
    if as_json:
        click.echo(json.dumps(seen))
        return
    from aimass_edge.show import print_status

    print_status(seen)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def check(home: Path, as_json: bool) -> None:
    """Look at everything the agent needs, and say what to do where something is wrong."""
    from aimass_edge.checks import State, run_checks

    with _telling_errors():
        results = run_checks(home, status=lambda: _status_of(home))
    is_good = all(one.state is not State.FAIL for one in results)
    if as_json:
        click.echo(json.dumps({"ok": is_good, "checks": [one.as_dict() for one in results]}))
    else:
        for number, one in enumerate(results, 1):
            click.echo(f"{number:2}. {one.state.value:4}  {one.name}: {one.detail}")
            if one.advice:
                click.echo(f"          -> {one.advice}")
    raise SystemExit(0 if is_good else 1)


@main.command()
@click.option("--user", default="", help="Whom the agent runs as.")
@click.option("--dry-run", is_flag=True, help="Only print the unit.")
@click.option("--unit-dir", type=click.Path(path_type=Path), hidden=True)
@click.pass_obj
def install(home: Path, user: str, dry_run: bool, unit_dir: Path | None) -> None:
    """Write a systemd unit for this home."""
    from aimass_edge.service_unit import UNIT_FOLDER, UNIT_NAME, install_unit, unit_text

    text = unit_text(executable=Path(sys.executable), home=home, user=user)
    if dry_run:
        click.echo(text, nl=False)
        return
    with _telling_errors():
        path = install_unit(text, (unit_dir or UNIT_FOLDER) / UNIT_NAME, home=home, user=user)
    click.echo(f"written: {path}")
    click.echo(f"now: systemctl daemon-reload && systemctl enable --now {UNIT_NAME}")


def _read_token(given: str) -> str:
    # A token on the command line can be seen by others in the process list; '-' keeps it out of there.
    return sys.stdin.readline().strip() if given == "-" else given


def _status_of(home: Path) -> dict[str, Any]:
    from aimass.client.agent import connect
    from aimass_edge.settings import read_settings

    with connect(read_settings(home).socket_in(home)) as client:
        return client.status()


if __name__ == "__main__":
    main(prog_name="aimass-edge")
