"""Requests that flow like those of real gateways: paced, from several threads, each answer recorded in the outbox.

Used by ``aimass demo`` and the end-to-end tests. Knows the SDK only: ``infer`` and ``record``.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aimass.cli.digits import FloatArray
from aimass.client.base import Client
from aimass.errors import AimassError

STREAM = "answers"

Row = tuple[str, str, str]
"""Model, engine, served_by."""


@dataclass(frozen=True, slots=True)
class Job:
    """One image for one model of one gateway."""

    gateway: str
    model: str
    mode: str
    image: int


@dataclass(slots=True)
class Tally:
    """What happened, added up by model, engine and place; safe to fill from several threads."""

    latencies_ms: dict[Row, list[float]] = field(default_factory=lambda: defaultdict(list))
    correct: Counter[Row] = field(default_factory=Counter)
    fallbacks: Counter[Row] = field(default_factory=Counter)
    sent: Counter[Row] = field(default_factory=Counter)
    sent_by: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def answered(self) -> int:
        """Requests that got an answer."""
        return sum(len(values) for values in self.latencies_ms.values())

    @property
    def failed(self) -> int:
        """Requests without an answer, and answers whose record was not taken."""
        return sum(self.failures.values())

    def share_correct(self) -> float:
        """Correct answers among all answers."""
        return sum(self.correct.values()) / max(1, self.answered)

    def offloaded(self) -> int:
        """Answers that the cloud gave."""
        return sum(len(values) for (_, _, place), values in self.latencies_ms.items() if place == "cloud")


class Load:
    """Sends jobs and counts.

    Args:
        clients: one for each gateway; shared by the threads.
        images: (n, 64) float32.
        labels: (n,) what they show.
        rate_hz: jobs are started no faster than this, all gateways together.
        deadline_ms: for each request.
    """

    def __init__(
        self,
        clients: Mapping[str, Client],
        images: FloatArray,
        labels: Sequence[int],
        *,
        rate_hz: float,
        deadline_ms: float = 1000,
        threads: int = 12,
    ) -> None:
        self.tally = Tally()
        self._clients, self._images, self._labels = clients, images, labels
        self._rate_hz, self._deadline_ms, self._threads = rate_hz, deadline_ms, threads
        self._stop = threading.Event()

    def run(self, jobs: Sequence[Job], *, after_each: Callable[[int], None] = lambda done: None) -> None:
        """Work off the jobs; ``after_each`` is called with the number done, from the threads."""
        jobs_left, lock, started = iter(enumerate(jobs)), threading.Lock(), time.monotonic()
        finished = 0

        def work() -> None:
            nonlocal finished
            while not self._stop.is_set():
                with lock:
                    number, job = next(jobs_left, (-1, None))
                if job is None:
                    return
                self._stop.wait(max(0.0, started + number / self._rate_hz - time.monotonic()))
                self.one(job)
                with lock:
                    finished += 1
                    count = finished
                after_each(count)

        with ThreadPoolExecutor(self._threads, thread_name_prefix="load") as threads:
            futures = [threads.submit(work) for _ in range(self._threads)]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self._stop.set()
                raise

    def stop(self) -> None:
        """No further jobs; those in progress end."""
        self._stop.set()

    def one(self, job: Job) -> None:
        """One request and its record."""
        client, label = self._clients[job.gateway], int(self._labels[job.image])
        began = time.perf_counter()
        try:
            answer = client.infer(
                job.model, self._images[job.image : job.image + 1], deadline_ms=self._deadline_ms, mode=job.mode
            )
            took_ms = (time.perf_counter() - began) * 1000
            guess = int(np.argmax(answer.outputs["probabilities"]))
            row = (job.model, answer.engine, answer.served_by)
            data = {"model": job.model, "engine": answer.engine, "served_by": answer.served_by}
            self._count(row, took_ms, correct=guess == label, fallback=job.mode == "cloud" and row[2] != "cloud")
            client.record(STREAM, {**data, "image": job.image, "label": label, "answer": guess}, kind="answer")
        except AimassError as exc:
            self._count_failure(job, exc)
            return
        with self.tally.lock:
            self.tally.sent[row] += 1
            self.tally.sent_by[job.gateway] += 1

    def _count(self, row: Row, took_ms: float, *, correct: bool, fallback: bool) -> None:
        with self.tally.lock:
            self.tally.latencies_ms[row].append(took_ms)
            self.tally.correct[row] += correct
            self.tally.fallbacks[row] += fallback

    def _count_failure(self, job: Job, error: AimassError) -> None:
        with self.tally.lock:
            self.tally.failures[job.model] += 1
            self.tally.errors[f"{error.code}: {error.message}"] += 1


def interleaved(gateways: Iterable[str], models: Iterable[str], modes: Iterable[str], images: int) -> list[Job]:
    """Every image for every model on every gateway in every mode, mixed so that all flow at any moment."""
    kinds = [(gateway, model, mode) for gateway in gateways for model in models for mode in modes]
    return [Job(gateway, model, mode, image) for image in range(images) for gateway, model, mode in kinds]


def stored_by_row(events: Iterable[Mapping[str, Any]]) -> Counter[Row]:
    """How many records of each kind of answer the cloud holds."""
    counts: Counter[Row] = Counter()
    for event in events:
        data = event["data"]
        counts[data["model"], data["engine"], data["served_by"]] += 1
    return counts
