"""The ``aimass`` command: what developers and operators do from a terminal.

    aimass demo
    aimass device list
    aimass model push digits.onnx --name digits
    aimass deploy digits --all --wait

Which cloud is meant comes from ``--url``, ``--api-key`` and ``--ca``, from the environment (``AIMASS_URL``,
``AIMASS_API_KEY``, ``AIMASS_CA``), or from a profile file with these three keys as JSON (``--profile`` or
``AIMASS_PROFILE``); the earlier wins.
"""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from aimass.cli.cloud_api import CloudApi
from aimass.cli.demo import demo
from aimass.cli.devices import device
from aimass.cli.models import deploy, model
from aimass.errors import AimassError, ConfigError


@dataclass(slots=True)
class Connection:
    """Where the cloud is; the ``obj`` of the click context."""

    url: str
    api_key: str
    ca: Path | None

    def open(self) -> CloudApi:
        """A client for that cloud."""
        for name, value in (("url", self.url), ("api-key", self.api_key)):
            if not value:
                raise ConfigError(
                    f"no {name} for the cloud is known",
                    hint=f"give --{name} or --profile FILE, or set AIMASS_{name.upper().replace('-', '_')}",
                )
        return CloudApi(self.url, self.api_key, ca=self.ca)


@click.group(context_settings={"auto_envvar_prefix": "AIMASS", "help_option_names": ["-h", "--help"]})
@click.option("--url", help="Where the cloud listens, e.g. https://cloud.example:8443")
@click.option("--api-key", help="As printed by aimass-cloud init. Safer in the environment or a profile than here.")
@click.option("--ca", type=click.Path(path_type=Path, dir_okay=False), help="Root certificate of the cloud (PEM file)")
@click.option("--profile", type=click.Path(path_type=Path, dir_okay=False), help="JSON file with url, api_key, ca")
@click.option("--verbose", is_flag=True, help="Show the trace of an error")
@click.pass_context
def cli(
    context: click.Context, url: str | None, api_key: str | None, ca: Path | None, profile: Path | None, verbose: bool
) -> None:
    """AI Mass: an answer before the deadline, from the device or the cloud."""
    kept = read_profile(profile) if profile else {}
    ca_file = ca or (Path(kept["ca"]) if kept.get("ca") else None)
    context.obj = Connection(url or kept.get("url", ""), api_key or kept.get("api_key", ""), ca_file)


cli.add_command(demo)
cli.add_command(device)
cli.add_command(model)
cli.add_command(deploy)


def read_profile(path: Path) -> dict[str, str]:
    """The keys of a profile file.

    Raises:
        ConfigError: it cannot be read, or says something else than url, api_key and ca.
    """
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read the profile {path}: {exc}") from exc
    if not isinstance(kept, dict) or not set(kept) <= {"url", "api_key", "ca"}:
        raise ConfigError(f"the profile {path} must be a JSON object with url, api_key and ca")
    return {key: str(value) for key, value in kept.items() if value}


def main() -> None:
    """Run the command; an error of ours is one sentence and a hint, with ``--verbose`` also the trace."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        code = 130
    except AimassError as exc:
        show(exc)
        code = 1
    except TimeoutError as exc:
        click.echo(f"error: {exc}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def show(error: AimassError) -> None:
    """Tell a person what went wrong and what to do."""
    console = Console(stderr=True)
    console.print(f"[bold red]error[/] ({error.code}): ", end="")
    console.print(error.message, markup=False, highlight=False)
    if error.hint:
        console.print(f"hint: {error.hint}", markup=False, highlight=False)
    if "--verbose" in sys.argv:
        traceback.print_exception(error)


if __name__ == "__main__":
    main()
