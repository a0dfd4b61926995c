"""The client that has the runtime in its own process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aimass.client.base import DEFAULT_DEADLINE_MS, Inputs
from aimass.client.engines import open_engines
from aimass.client.home import HomeLock
from aimass.client.inputs import to_tensors
from aimass.client.local_package import open_folder
from aimass.engine import ENGINES, EngineOptions
from aimass.errors import ConfigError, DeadlineError, InputError
from aimass.package.keys import PublicKey
from aimass.placement.policy import Mode, Policy
from aimass.runtime.answer import Answer
from aimass.runtime.models import ModelInfo
from aimass.runtime.runtime import Runtime, RuntimeSettings
from aimass.version import __version__
from aimass.wire.messages import InferRequest

if TYPE_CHECKING:
    from aimass.client.party import Party

Folder = str | os.PathLike[str]


class EmbeddedClient:
    """Answers in this process; see `aimass.client.base.Client` for what every method promises.

    Made by :func:`embed`.
    """

    def __init__(
        self, runtime: Runtime, *, party: Party | None, deadline_ms: float, held: contextlib.ExitStack
    ) -> None:
        self._runtime, self._party, self._deadline_s, self._held = runtime, party, deadline_ms / 1000, held
        self._closing = threading.Lock()

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
        """An answer before the deadline; a run on the device happens on the caller's thread."""
        request, how = self._request(model, inputs, str(version), outputs, deadline_ms, policy, mode)
        return self._runtime.infer(request, **how)

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
        """The same through the runtime's queue, without blocking the event loop."""
        request, how = self._request(model, inputs, str(version), outputs, deadline_ms, policy, mode)
        answer: Awaitable[Answer] = self._runtime.infer_async(request, **how)
        return await answer

    def models(self) -> list[ModelInfo]:
        """Every model version that answers in this process."""
        return list(self._runtime.models())

    def model(self, name: str) -> ModelInfo:
        """The default version of a model."""
        return self._runtime.model(name)

    def record(self, stream: str, data: Mapping[str, Any], kind: str = "event") -> int:
        """Keeps a record in this party's outbox."""
        if self._party is None:
            raise ConfigError(
                "without a home there is nowhere to keep records", hint="enrol a home, then aimass.embed(home=...)"
            )
        return self._party.outbox.append(stream, kind, data)

    def status(self) -> dict[str, Any]:
        """How this party stands."""
        if self._party is not None:
            return self._party.status()
        models = [{"name": one.name, "version": one.version, "state": "running"} for one in self._runtime.models()]
        return {
            "id": "",
            "version": __version__,
            "pid": os.getpid(),
            "link": {"up": False},
            "models": models,
            "metrics": self._runtime.metrics.snapshot(),
        }

    def close(self) -> None:
        """Says goodbye to the cloud and ends the runtime."""
        with self._closing:
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(
        self,
        model: str,
        inputs: Inputs,
        version: str,
        outputs: Sequence[str],
        deadline_ms: float | None,
        policy: Policy | str | None,
        mode: Mode | str | None,
    ) -> tuple[InferRequest, dict[str, Any]]:
        deadline_s = self._deadline_s if deadline_ms is None else deadline_ms / 1000
        if deadline_s <= 0:
            raise DeadlineError("the deadline had passed before the call")
        tensors = to_tensors(inputs, lambda: self._runtime.model(model, version))
        try:
            how = {
                "deadline_s": deadline_s,
                "policy": Policy.SAVING if policy is None else Policy(policy),
                "mode": Mode.AUTO if mode is None else Mode(mode),
            }
        except ValueError as exc:
            raise InputError(f"unknown policy or mode: {exc}", hint="policy: never_worse, saving") from exc
        return InferRequest(model, tensors, version, outputs=tuple(outputs)), how


def embed(
    home: Folder | None = None,
    models: Iterable[Folder] = (),
    *,
    engines: Sequence[str] = ENGINES,
    options: EngineOptions | None = None,
    offload: bool = True,
    deadline_ms: float = DEFAULT_DEADLINE_MS,
    publisher_keys: Iterable[PublicKey] = (),
    allow_unsigned: bool = False,
) -> EmbeddedClient:
    """A client with the runtime in this process.

    Args:
        home: an enrolled folder of this application's own (`aimass.enrol(token, home)`): models come from the cloud,
            records go there, requests may be offloaded. Without it the client is edge-only.
        models: folders of packages to load besides.
        engines: best first.
        options: where and with how many threads engines run.
        offload: whether the cloud's pool is asked (with a home).
        deadline_ms: for calls that name none.
        publisher_keys: who may have signed the packages in `models`, besides the publishers pinned at enrolment.
        allow_unsigned: load folders of `models` without any signature; for development on files of your own.

    Raises:
        IdentityError: the home is not enrolled.
        ConflictError: another process uses the home.
        SignatureError: a package is not signed by a known publisher.
        ModelError: a package cannot be loaded.
    """
    options = options or EngineOptions()
    publishers = list(publisher_keys)
    with contextlib.ExitStack() as stack:
        party = None
        if home is not None:
            party = _open_party(stack, Path(home), tuple(engines), options, offload=offload)
            publishers += party.identity.publisher_keys
            runtime = party.runtime
        else:
            settings = RuntimeSettings(engine_order=tuple(engines), engine_options=options)
            runtime = stack.enter_context(Runtime(open_engines(engines), settings=settings))
        for folder in models:
            runtime.load(Path(folder), open_folder(Path(folder), publishers, allow_unsigned=allow_unsigned))
        if party is not None:
            party.start()
        held = stack.pop_all()
    return EmbeddedClient(runtime, party=party, deadline_ms=deadline_ms, held=held)


def _open_party(
    stack: contextlib.ExitStack, home: Path, engines: tuple[str, ...], options: EngineOptions, *, offload: bool
) -> Party:
    # Imported here: an edge-only client needs neither MQTT nor the outbox's database.
    from aimass.client.party import Party, PartySettings
    from aimass.device.identity import Identity

    Identity.load(home)  # says what is missing before anything is made there
    stack.enter_context(HomeLock(home))
    # shared_threads stays None: the global pool of ONNX Runtime would break other sessions of this program.
    party = Party(home, PartySettings(version=__version__, engines=engines, options=options, offload=offload))
    stack.callback(party.close)
    party.load_models()
    return party
