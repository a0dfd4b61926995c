"""``aimass demo``: the main job on real input, on one machine, in about a minute.

Broker, cloud, worker and two gateways as real processes. Two classifiers of handwritten digits go in by REST, are
signed and deployed; all held-out images are answered at the edge and by offload while the broker is killed and comes
back; every answer is recorded in an outbox and must arrive in the cloud exactly once.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from aimass.errors import ConfigError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object in the last line")
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False), help="Work in this folder and leave it with all logs"
)
@click.pass_context
def demo(context: click.Context, as_json: bool, keep: Path | None) -> None:
    """Show the whole product on this machine; exits with 0 only when every promise held."""
    from aimass.cli.main_job import GATEWAYS, MainJob  # the engines' libraries: other commands start without them
    from aimass.cli.stack import Stack

    console = Console(width=None if sys.stdout.isatty() else 120)
    with contextlib.ExitStack() as held:
        held.enter_context(ended_by_signals())
        folder = keep or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="aimass-demo-")))
        if keep is not None and keep.exists() and any(keep.iterdir()):
            raise ConfigError(f"{keep} is not empty", hint="name a new folder with --keep")
        stack = held.enter_context(Stack(folder, agents=GATEWAYS))
        report = MainJob(stack, console).run()
    console.print(report.table())
    for complaint in report.complaints():
        console.print(complaint, style="bold red", markup=False)
    if not report.complaints():
        console.print("every request was answered; every record arrived once; nothing is left running", style="green")
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    context.exit(1 if report.complaints() else 0)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program like an exception, so that what was started is stopped."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
