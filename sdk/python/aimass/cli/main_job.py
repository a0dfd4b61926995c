"""The main job on real input, as steps: train, start, push, deploy, answer, kill the broker, drain, count."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aimass.cli import digits
from aimass.cli.load import STREAM, Job, Load, Row, interleaved, stored_by_row
from aimass.cli.report import Report
from aimass.cli.stack import Stack
from aimass.cli.waiting import wait_until
from aimass.client.agent import connect
from aimass.client.base import Client

GATEWAYS = {
    "gw-onnxruntime": {"AIMASS_EDGE_ENGINES": '["onnxruntime","openvino"]'},
    "gw-openvino": {"AIMASS_EDGE_ENGINES": '["openvino","onnxruntime"]'},
}
MODES = ("edge", "cloud")
RATE_HZ = 250.0  # slow enough that the broker is away, and back, while requests flow
KILL_AT = 0.35  # of all requests
DRAIN_TIMEOUT_S = 60
OFFLOAD_TIMEOUT_S = 60


class MainJob:
    """The steps, in order.

    Args:
        stack: not started yet; its gateways are ``GATEWAYS``.
        console: where progress is told.
    """

    def __init__(self, stack: Stack, console: Console) -> None:
        self._stack, self._console = stack, console
        self._started = time.monotonic()

    def run(self) -> Report:
        """All of it.

        Raises:
            AimassError, TimeoutError: a part did not come up or a step was refused.
        """
        self._say("training two classifiers on scikit-learn's handwritten digits")
        data = digits.load()
        models = [digits.train(recipe, data) for recipe in (digits.SMALL, digits.LARGE)]
        self._say("starting cloud, broker, worker and two gateways; enrolling them")
        self._stack.start()
        self._stack.write_profile(self._stack.folder / "profile.json")
        self._say("pushing both models by REST and deploying them to all gateways")
        self._deploy(models)
        with contextlib.ExitStack() as held:
            clients: dict[str, Client] = {
                id_: held.enter_context(connect(self._stack.socket_path(id_))) for id_ in GATEWAYS
            }
            self._await_offload(clients, data, [model.name for model in models])
            self._say("all held-out images at the edge and by offload; the broker is killed in the middle")
            load = Load(clients, data.test_images, data.test_labels.tolist(), rate_hz=RATE_HZ)
            jobs = interleaved(GATEWAYS, [model.name for model in models], MODES, len(data.test_images))
            self._flow(load, jobs)
        self._say("waiting for the outboxes to drain")
        stored, duplicates = self._drain(load)
        self._say("stopping everything")
        self._stack.close()
        return Report(
            tally=load.tally,
            stored=stored,
            requests=len(jobs),
            duplicates=duplicates,
            seconds=time.monotonic() - self._started,
        )

    def _say(self, text: str) -> None:
        line = f"{time.monotonic() - self._started:5.1f} s  {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _deploy(self, models: list[digits.Classifier]) -> None:
        versions = {}
        for model in models:
            path = self._stack.folder / f"{model.name}.onnx"
            path.write_bytes(model.onnx)
            made = self._stack.api.push_model(
                path, model.name, labels=digits.LABELS, metrics={"accuracy": model.accuracy}
            )
            versions[model.name] = int(made["version"])
            self._stack.api.deploy(model.name, device=None, version=versions[model.name])
        for name, version in versions.items():
            for id_ in GATEWAYS:
                self._stack.wait_running(id_, name, version)

    def _await_offload(self, clients: dict[str, Client], data: digits.Digits, models: list[str]) -> None:
        """The worker fetches the models too; until it has them, offloading falls back."""

        def offloads() -> bool:
            return all(
                client.infer(model, data.train_images[:1], mode="cloud").served_by == "cloud"
                for client in clients.values()
                for model in models
            )

        wait_until(offloads, timeout_s=OFFLOAD_TIMEOUT_S, every_s=0.3, what="the worker to answer for both models")

    def _flow(self, load: Load, jobs: Sequence[Job]) -> None:
        kill_at = int(len(jobs) * KILL_AT)
        killed = threading.Event()
        with bar(self._console, len(jobs)) as tell:

            def after_each(done: int) -> None:
                tell(done)
                if done >= kill_at and not killed.is_set():
                    killed.set()
                    threading.Thread(target=self._kill_broker, daemon=True).start()

            load.run(jobs, after_each=after_each)

    def _kill_broker(self) -> None:
        pid = self._stack.kill_broker()
        self._say(f"the broker (process {pid}) was killed with SIGKILL")
        new = self._stack.wait_broker(not_pid=pid)
        self._say(f"the cloud's supervisor has started another one (process {new})")

    def _drain(self, load: Load) -> tuple[Counter[Row], int]:
        """Until the cloud holds as many records as the gateways took; what it holds, and how many of them twice."""
        stored: Counter[Row] = Counter()
        seen: Counter[tuple[str, int]] = Counter()
        for id_ in GATEWAYS:
            events: list[dict[str, Any]] = []

            def complete(id_: str = id_, events: list[dict[str, Any]] = events) -> bool:
                after = int(events[-1]["position"]) if events else 0
                events.extend(self._stack.api.events(id_, STREAM, after=after))
                return len(events) >= load.tally.sent_by[id_]

            with contextlib.suppress(TimeoutError):  # the report says how many are missing
                wait_until(complete, timeout_s=DRAIN_TIMEOUT_S, every_s=0.3, what="the outbox")
            stored += stored_by_row(events)
            seen.update((id_, int(event["seq"])) for event in events)
        return stored, sum(count - 1 for count in seen.values())


@contextlib.contextmanager
def bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal; a line at each tenth elsewhere (a log, a pipe)."""
    if not console.is_terminal:
        marks = {total * tenth // 10: tenth * 10 for tenth in range(1, 11)}

        def line(done: int) -> None:
            if done in marks:
                console.print(f"         {done} of {total} requests ({marks[done]} %)", highlight=False)

        yield line
        return
    columns = (TextColumn("        "), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("requests", total=total)
        yield lambda done: progress.update(task, completed=done)
