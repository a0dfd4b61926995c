"""The client that asks the agent on this machine, over its Unix socket."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from aimass.client.base import DEFAULT_DEADLINE_MS, Inputs
from aimass.client.describe import model_from_dict
from aimass.client.home import default_socket
from aimass.client.http import Reply, UnixPool
from aimass.client.inputs import to_tensors
from aimass.client.remote_errors import error_from
from aimass.errors import ConnectError, DeadlineError, FrameError, InputError
from aimass.placement.policy import Mode, Policy
from aimass.runtime.answer import Answer
from aimass.runtime.models import ModelInfo
from aimass.wire.messages import ErrorReply, InferRequest
from aimass.wire.oip import decode_response, encode_request

_FRAMING = "Inference-Header-Content-Length"
_MANAGEMENT_TIMEOUT_S = 10.0
_MAX_THREADS = 16
_RESTART_PAUSE_S = 0.02

T = TypeVar("T")


class AgentClient:
    """Asks the agent; see `aimass.client.base.Client` for what every method promises.

    Args:
        socket_path: the agent's socket.
        deadline_ms: for calls that name none.
        io_margin_ms: what reaching the agent and back may take beyond the deadline that the agent keeps.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        socket_path: Path,
        *,
        deadline_ms: float = DEFAULT_DEADLINE_MS,
        io_margin_ms: float = 250.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deadline_s, self._margin_s, self._clock = deadline_ms / 1000, io_margin_ms / 1000, clock
        self._pool = UnixPool(socket_path, clock=clock)
        self._models: dict[tuple[str, str], ModelInfo] = {}
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None
        self._threads_lock = threading.Lock()

    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | int = "",
        outputs: Sequence[str] = (),
        deadline_ms: float | None = None,
        policy: Policy | str | None = None,
        mode: Mode | str | None = None,
    ) -> Answer:
        """An answer of the agent before the deadline."""
        started = self._clock()
        remaining_s = self._deadline_s if deadline_ms is None else deadline_ms / 1000
        return self._infer(model, inputs, str(version), tuple(outputs), started + remaining_s, policy, mode)

    async def infer_async(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | int = "",
        outputs: Sequence[str] = (),
        deadline_ms: float | None = None,
        policy: Policy | str | None = None,
        mode: Mode | str | None = None,
    ) -> Answer:
        """The same on a small pool of threads; waiting for a thread counts against the deadline."""
        started = self._clock()
        remaining_s = self._deadline_s if deadline_ms is None else deadline_ms / 1000
        call = (model, inputs, str(version), tuple(outputs), started + remaining_s, policy, mode)
        return await asyncio.get_running_loop().run_in_executor(self._executor(), lambda: self._infer(*call))

    def models(self) -> list[ModelInfo]:
        """Every model version that answers on this device."""
        return [model_from_dict(one) for one in self._get("/v1/agent/models")["models"]]

    def model(self, name: str) -> ModelInfo:
        """The default version of a model."""
        self._models.pop((name, ""), None)
        return self._look_up(name, "", self._clock() + _MANAGEMENT_TIMEOUT_S)

    def record(self, stream: str, data: Mapping[str, Any], kind: str = "event") -> int:
        """Keeps a record in the agent's outbox."""
        # With an id of its own it is kept once, however often it is sent: an agent that is killed is asked again.
        body = {"kind": kind, "data": data, "id": uuid.uuid4().hex}
        try:
            raw = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        except (TypeError, ValueError) as exc:
            raise InputError(f"the record's data is not JSON: {exc}", hint="use plain values") from exc
        path = f"/v1/agent/outbox/{quote(stream, safe='')}"
        reply = self._patiently(
            self._clock() + _MANAGEMENT_TIMEOUT_S,
            lambda remaining_s: self._call("POST", path, [raw], timeout_s=remaining_s),
        )
        return int(json.loads(reply.body)["seq"])

    def status(self) -> dict[str, Any]:
        """How the agent stands."""
        return self._get("/v1/agent/status")

    def close(self) -> None:
        """Closes the connections."""
        self._pool.close()
        with self._threads_lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _infer(
        self,
        model: str,
        inputs: Inputs,
        version: str,
        outputs: tuple[str, ...],
        deadline: float,
        policy: Policy | str | None,
        mode: Mode | str | None,
    ) -> Answer:
        known = (model, version) in self._models
        tensors = to_tensors(inputs, lambda: self._look_up(model, version, deadline))
        parameters: dict[str, str | int | float | bool] = {}
        if policy is not None:
            parameters["policy"] = str(policy)
        if mode is not None:
            parameters["mode"] = str(mode)
        request = InferRequest(model, tensors, version, outputs=outputs, parameters=parameters)
        try:
            return self._ask(request, deadline)
        except InputError:
            # The model may have been swapped for one with other names since it was looked up.
            self._models.pop((model, version), None)
            if not known:
                raise
            renewed = to_tensors(inputs, lambda: self._look_up(model, version, deadline))
            if _same_form(renewed, tensors):
                raise
            return self._ask(InferRequest(model, renewed, version, outputs=outputs, parameters=parameters), deadline)

    def _ask(self, request: InferRequest, deadline: float) -> Answer:
        path = f"/v2/models/{quote(request.model, safe='')}"
        if request.version:
            path += f"/versions/{quote(request.version, safe='')}"

        def ask(remaining_s: float) -> Answer:
            if remaining_s <= 0:
                raise DeadlineError("the deadline passed before the request was sent")
            own: dict[str, str | int | float | bool] = {
                "timeout": max(1, int(remaining_s * 1e6)),
                "binary_data_output": True,
            }
            header, parts = encode_request(replace(request, parameters={**request.parameters, **own}))
            reply = self._call(
                "POST",
                path + "/infer",
                [header, *parts],
                headers={_FRAMING: str(len(header)), "Content-Type": "application/octet-stream"},
                timeout_s=remaining_s + self._margin_s,
            )
            return _to_answer(reply)

        return self._patiently(deadline, ask)

    def _patiently(self, deadline: float, call: Callable[[float], T]) -> T:
        """Makes a call, again and again while the agent is being restarted, as long as time is left.

        An agent that never answered is reported at once: it is not restarting, it is not there.
        """
        away: ConnectError | None = None
        while True:
            try:
                return call(deadline - self._clock())
            except ConnectError as exc:
                can_wait = exc.retryable and self._pool.was_answered
                if not can_wait or self._clock() + _RESTART_PAUSE_S >= deadline:
                    raise
                away = exc
            except DeadlineError as exc:
                if away is None:
                    raise
                raise away from exc  # what took the time is that the agent was away
            time.sleep(_RESTART_PAUSE_S)

    def _look_up(self, name: str, version: str, deadline: float) -> ModelInfo:
        known = self._models.get((name, version))
        if known is None:
            query = f"?version={quote(version, safe='')}" if version else ""
            timeout_s = max(0.0, deadline - self._clock()) + self._margin_s
            known = model_from_dict(self._get(f"/v1/agent/models/{quote(name, safe='')}{query}", timeout_s=timeout_s))
            self._models[name, version] = known
        return known

    def _get(self, path: str, *, timeout_s: float = _MANAGEMENT_TIMEOUT_S) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self._call("GET", path, [], timeout_s=timeout_s).body)
        return parsed

    def _call(
        self,
        method: str,
        path: str,
        parts: Sequence[Any],
        *,
        timeout_s: float,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        reply = self._pool.request(method, path, parts=parts, headers=headers, timeout_s=timeout_s)
        if reply.status != 200:
            raise error_from(reply)
        return reply

    def _executor(self) -> concurrent.futures.ThreadPoolExecutor:
        with self._threads_lock:
            if self._threads is None:
                self._threads = concurrent.futures.ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="aimass-client")
            return self._threads


def connect(
    socket_path: str | os.PathLike[str] | None = None,
    *,
    deadline_ms: float = DEFAULT_DEADLINE_MS,
    io_margin_ms: float = 250.0,
) -> AgentClient:
    """A client of the agent on this machine.

    Nothing is sent yet: an agent that is not running shows at the first call, as `ConnectError`, and a restarted
    one is found again by itself.

    Args:
        socket_path: the agent's socket; found by itself when left out (AIMASS_SOCKET, then the user's own agent,
            then the system's).
        deadline_ms: for calls that name none.
        io_margin_ms: what reaching the agent may take beyond the deadline before the client gives up.
    """
    path = default_socket() if socket_path is None else Path(socket_path)
    return AgentClient(path, deadline_ms=deadline_ms, io_margin_ms=io_margin_ms)


def _to_answer(reply: Reply) -> Answer:
    framing = reply.headers.get(_FRAMING.lower())
    body = memoryview(reply.body)
    length = len(body) if framing is None else int(framing)
    if not 0 < length <= len(body):
        raise FrameError("the agent's answer has a wrong Inference-Header-Content-Length")
    response = decode_response(body[:length], body[length:])
    if isinstance(response, ErrorReply):
        raise response.to_error()
    return Answer.from_response(response)


def _same_form(these: Sequence[Any], those: Sequence[Any]) -> bool:
    return [(one.name, one.datatype) for one in these] == [(one.name, one.datatype) for one in those]
