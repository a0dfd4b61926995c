"""What both clients promise: the one that asks the agent, and the one with the runtime in its own process.

The agent's side is its real doors over a real runtime, in this process, on a real Unix socket.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

import aimass
from aimass.client.engines import open_engines
from aimass.errors import AimassError, ConfigError, DeadlineError, InputError, ModelNotFoundError
from aimass.runtime.runtime import Runtime
from aimass.serving.oip import OipDoor
from aimass_edge.door import ManagementDoor
from aimass_edge.local_socket import bind_socket
from tests.fakes import onnx_models
from tests.fakes.onnx_models import Package, package
from tests.fakes.waiting import until

X = np.array([[1.0, 2.0]], np.float32)


class ListOutbox:
    """Keeps records in memory."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def append(self, stream: str, kind: str, data: Mapping[str, Any], *, id: str = "") -> int:  # noqa: A002
        self.kept.append((stream, kind, dict(data)))
        return len(self.kept)


class ServedRuntime:
    """The agent's Unix door over a runtime, on an event loop in a thread."""

    def __init__(self, runtime: Runtime, path: Path) -> None:
        self.outbox = ListOutbox()
        self._door = ManagementDoor(runtime, self.outbox, lambda: {"id": "gw-1", "models": []}, OipDoor(runtime))
        self._sock = bind_socket(path)
        config = uvicorn.Config(
            self._door, http="httptools", ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=5
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([self._sock])), daemon=True)
        self._thread.start()
        until(lambda: self._server.started, "the door")

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._door.close()


@pytest.fixture(params=["connect", "embed"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_client(kind: str, short_tmp: Path) -> Iterator[Callable[..., aimass.Client]]:
    """Makes a client over packages."""
    with contextlib.ExitStack() as stack:

        def make(*packages: Package) -> aimass.Client:
            keys = [one.key.public for one in packages]
            if kind == "embed":
                folders = [one.folder for one in packages]
                return stack.enter_context(aimass.embed(models=folders, engines=("onnxruntime",), publisher_keys=keys))
            runtime = stack.enter_context(Runtime(open_engines(("onnxruntime",))))
            for one in packages:
                runtime.load(one.folder, one.manifest)
            stack.callback(ServedRuntime(runtime, short_tmp / "a.sock").close)
            return stack.enter_context(aimass.connect(short_tmp / "a.sock"))

        yield make


@pytest.fixture
def client(open_client: Callable[..., aimass.Client], tmp_path: Path) -> aimass.Client:
    """Over `add` (x -> y = x + 1), `two` (a, b -> sum, difference) and `text` (BYTES)."""
    return open_client(
        package(tmp_path / "add", onnx_models.add(), name="add", version=3, labels=("left", "right")),
        package(tmp_path / "two", onnx_models.two_in_two_out(), name="two"),
        package(tmp_path / "text", onnx_models.strings(), name="text"),
    )


def test_it_is_a_client(client: aimass.Client) -> None:
    assert isinstance(client, aimass.Client)


def test_an_answer_says_what_where_and_how_long(client: aimass.Client) -> None:
    answer = client.infer("add", {"x": X}, deadline_ms=5000)
    assert answer.outputs["y"].tolist() == [[2.0, 3.0]]
    assert (answer.model, answer.version, answer.served_by) == ("add", "3", "edge")
    assert (answer.degraded, answer.late, answer.engine) == (False, False, "onnxruntime")
    assert answer.timings_ms["total"] > 0


@pytest.mark.parametrize("inputs", [X, [[1, 2]], [[1.0, 2.0]], {"x": [[1, 2]]}])
def test_inputs_may_be_an_array_or_plain_numbers(client: aimass.Client, inputs: Any) -> None:
    assert client.infer("add", inputs, deadline_ms=5000).outputs["y"].tolist() == [[2.0, 3.0]]


def test_a_version_may_be_a_number_or_text(client: aimass.Client) -> None:
    for version in (3, "3", ""):
        assert client.infer("add", X, version=version, deadline_ms=5000).version == "3"


def test_only_the_outputs_asked_for_come(client: aimass.Client) -> None:
    answer = client.infer("two", {"a": X, "b": X}, outputs=["difference"], deadline_ms=5000)
    assert list(answer.outputs) == ["difference"]
    assert not answer.outputs["difference"].any()


def test_texts_and_bytes_may_be_mixed(client: aimass.Client) -> None:
    answer = client.infer("text", {"x": [b"", "\u00e4", b"long enough"]}, deadline_ms=5000)
    assert answer.outputs["y"].tolist() == [b"", "\u00e4".encode(), b"long enough"]


def test_large_arrays_pass(client: aimass.Client) -> None:
    big = np.random.default_rng(1).random((500_000, 2), np.float32)
    assert np.array_equal(client.infer("add", {"x": big}, deadline_ms=20_000).outputs["y"], big + 1)


async def test_awaiting_gives_the_same(client: aimass.Client) -> None:
    answers = await asyncio.gather(*(client.infer_async("add", X + n, deadline_ms=5000) for n in range(20)))
    assert [answer.outputs["y"][0, 0] for answer in answers] == [n + 2 for n in range(20)]


def test_many_threads_share_one_client(client: aimass.Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: client.infer("add", X + n, deadline_ms=10_000), range(200)))
    assert [int(answer.outputs["y"][0, 0]) for answer in answers] == [n + 2 for n in range(200)]


def test_policy_and_mode_may_be_words(client: aimass.Client) -> None:
    for policy in ("never_worse", aimass.Policy.SAVING):
        assert client.infer("add", X, policy=policy, mode="edge", deadline_ms=5000).served_by == "edge"


def test_models_are_described(client: aimass.Client) -> None:
    models = {one.name: one for one in client.models()}
    assert sorted(models) == ["add", "text", "two"]
    found = client.model("add")
    assert found == models["add"]
    assert (found.version, found.labels, found.engine, found.default) == (3, ("left", "right"), "onnxruntime", True)
    assert [(one.name, one.shape) for one in found.inputs] == [("x", (-1, 2))]


def test_status_is_plain_values(client: aimass.Client) -> None:
    assert "id" in client.status()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(lambda c: c.infer("nope", {"x": X}), ModelNotFoundError, id="unknown model"),
        pytest.param(lambda c: c.infer("nope", X), ModelNotFoundError, id="unknown model, bare array"),
        pytest.param(lambda c: c.infer("add", X, version=9), ModelNotFoundError, id="unknown version"),
        pytest.param(lambda c: c.infer("add", X, version="new"), ModelNotFoundError, id="version that is no number"),
        pytest.param(lambda c: c.model("nope"), ModelNotFoundError, id="unknown model described"),
        pytest.param(lambda c: c.infer("add", {"z": X}), InputError, id="unknown input"),
        pytest.param(lambda c: c.infer("add", {}), InputError, id="no input"),
        pytest.param(lambda c: c.infer("add", {"x": X.astype(np.float64)}), InputError, id="wrong datatype"),
        pytest.param(lambda c: c.infer("add", {"x": X[0]}), InputError, id="wrong rank"),
        pytest.param(lambda c: c.infer("add", {"x": np.ones((1, 3), np.float32)}), InputError, id="wrong shape"),
        pytest.param(lambda c: c.infer("two", X), InputError, id="bare array for two inputs"),
        pytest.param(lambda c: c.infer("add", X, outputs=["z"]), InputError, id="unknown output"),
        pytest.param(lambda c: c.infer("add", X, policy="best"), InputError, id="unknown policy"),
        pytest.param(lambda c: c.infer("add", X, mode="moon"), InputError, id="unknown mode"),
        pytest.param(lambda c: c.infer("add", {"x": X}, deadline_ms=0), DeadlineError, id="no time at all"),
        pytest.param(lambda c: c.infer("add", {"x": X}, deadline_ms=-5), DeadlineError, id="time long over"),
    ],
)
def test_what_is_wrong_has_one_name_on_both_sides(
    client: aimass.Client, call: Callable[[aimass.Client], Any], error: type[AimassError]
) -> None:
    with pytest.raises(error) as caught:
        call(client)
    assert type(caught.value) is error


async def test_awaiting_raises_the_same(client: aimass.Client) -> None:
    with pytest.raises(InputError):
        await client.infer_async("add", {"x": X[0]})
    with pytest.raises(ModelNotFoundError):
        await client.infer_async("nope", {"x": X})


def test_a_run_that_cannot_keep_its_deadline_is_late_or_a_deadline_error(
    open_client: Callable[..., aimass.Client], tmp_path: Path
) -> None:
    client = open_client(package(tmp_path / "slow", onnx_models.looping(), name="slow"))
    slow = {"times": np.array(400_000, np.int64), "x": np.ones((1, 64), np.float32)}
    with contextlib.suppress(DeadlineError):
        assert client.infer("slow", slow, deadline_ms=50).late


def test_closing_twice_is_fine(client: aimass.Client) -> None:
    client.close()
    client.close()


# -- what only one of them can show ------------------------------------------------------------------------------


def test_a_record_through_the_agent_is_in_its_outbox(short_tmp: Path) -> None:
    with Runtime([]) as runtime:
        served = ServedRuntime(runtime, short_tmp / "a.sock")
        with aimass.connect(short_tmp / "a.sock") as client:
            assert [client.record("events", {"n": n}, kind="seen") for n in range(3)] == [1, 2, 3]
            with pytest.raises(InputError):
                client.record("events", {"x": object()})
            with pytest.raises(InputError):
                client.record("events", {"x": float("nan")})
        served.close()
    assert served.outbox.kept == [("events", "seen", {"n": n}) for n in range(3)]


def test_a_model_swapped_for_one_with_another_input_name_is_found_again(short_tmp: Path, tmp_path: Path) -> None:
    with Runtime(open_engines(("onnxruntime",))) as runtime:
        first = package(tmp_path / "1", onnx_models.add(), name="m", version=1)
        runtime.load(first.folder, first.manifest)
        served = ServedRuntime(runtime, short_tmp / "a.sock")
        with aimass.connect(short_tmp / "a.sock", deadline_ms=10_000) as client:
            assert client.infer("m", X).version == "1"
            second = package(tmp_path / "2", onnx_models.add(5).replace(b"\x01x", b"\x01q"), name="m", version=2)
            runtime.load(second.folder, second.manifest)
            answer = client.infer("m", X)
            assert (answer.version, answer.outputs["y"].tolist()) == ("2", [[6.0, 7.0]])
        served.close()


def test_without_a_home_there_is_nowhere_to_keep_records() -> None:
    with aimass.embed() as client, pytest.raises(ConfigError) as caught:
        client.record("events", {})
    assert "enrol" in caught.value.hint
