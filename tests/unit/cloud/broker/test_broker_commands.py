"""Live changes of access rights, over a link whose other end is a small model of the broker's plug-in."""

import json
import threading
from collections.abc import Callable

import pytest

from aimass.errors import DeadlineError, LinkDownError, RefusedError, RemoteError
from aimass.transport.base import Handler, Message, Receipt
from aimass_cloud.broker.commands import DynamicSecurity
from aimass_cloud.broker.dynsec import CONTROL_ANSWERS, CONTROL_TOPIC, Grant, Role

GATEWAY = Grant(identity="gw-1", role=Role.DEVICE)


class PluginLink:
    """A transport whose broker keeps clients and roles and answers commands, from a thread of its own."""

    identity = "svc:control"

    def __init__(self) -> None:
        self.clients: dict[str, list[str]] = {"svc:control": ["svc:control"]}
        self.roles: dict[str, list[dict]] = {"svc:control": []}
        self.commands: list[str] = []
        self.handlers: dict[str, Handler] = {}
        self.answer: Callable[[list[dict]], list[dict]] = lambda answers: answers
        self.refusal: RefusedError | None = None
        self.down = False

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        self.handlers[topic_filter] = handler

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, **_: object) -> Receipt:
        if self.down:
            raise LinkDownError("down")
        assert (topic, qos) == (CONTROL_TOPIC, 1)
        receipt = Receipt()
        receipt.complete(error=self.refusal)
        if self.refusal is None:
            answers = self.answer([self.do(command) for command in json.loads(payload)["commands"]])
            self.say(json.dumps({"responses": answers}).encode())
        return receipt

    def say(self, payload: bytes) -> None:
        handler = self.handlers[CONTROL_ANSWERS]
        threading.Thread(target=handler, args=(Message(CONTROL_ANSWERS, payload),), daemon=True).start()

    def do(self, command: dict) -> dict:
        self.commands.append(command["command"])
        answer = {"command": command["command"], "correlationData": command["correlationData"]}
        error = getattr(self, command["command"])(command, answer)
        return answer if error is None else {**answer, "error": error}

    def createRole(self, command: dict, _answer: dict) -> str | None:
        if command["rolename"] in self.roles:
            return "Role already exists"
        return self.modifyRole(command, _answer)

    def modifyRole(self, command: dict, _answer: dict) -> str | None:
        self.roles[command["rolename"]] = command["acls"]
        return None

    def createClient(self, command: dict, _answer: dict) -> str | None:
        if command["username"] in self.clients:
            return "Client already exists"
        return self.modifyClient(command, _answer)

    def modifyClient(self, command: dict, _answer: dict) -> str | None:
        self.clients[command["username"]] = [role["rolename"] for role in command["roles"]]
        return None

    def deleteClient(self, command: dict, _answer: dict) -> str | None:
        return None if self.clients.pop(command["username"], None) else "Client not found"

    def deleteRole(self, command: dict, _answer: dict) -> str | None:
        return None if self.roles.pop(command["rolename"], None) is not None else "Role not found"

    def listClients(self, _command: dict, answer: dict) -> str | None:
        answer["data"] = {"totalCount": len(self.clients), "clients": list(self.clients)}
        return None


@pytest.fixture
def link() -> PluginLink:
    return PluginLink()


@pytest.fixture
def security(link: PluginLink) -> DynamicSecurity:
    return DynamicSecurity(link)


def test_adds_an_identity_with_its_role(link: PluginLink, security: DynamicSecurity) -> None:
    security.put(GATEWAY)
    assert link.clients["gw-1"] == ["gw-1"]
    assert any(acl["topic"] == "aimass/v1/d/gw-1/state" for acl in link.roles["gw-1"])
    assert link.commands == ["createRole", "createClient"]


def test_adding_again_brings_the_rights_up_to_date(link: PluginLink, security: DynamicSecurity) -> None:
    link.roles["gw-1"] = []
    link.clients["gw-1"] = []
    security.put(GATEWAY)
    assert link.roles["gw-1"]
    assert link.clients["gw-1"] == ["gw-1"]


def test_half_an_identity_is_completed(link: PluginLink, security: DynamicSecurity) -> None:
    link.roles["gw-1"] = []
    security.put(GATEWAY)
    assert link.roles["gw-1"]
    assert link.clients["gw-1"] == ["gw-1"]


def test_removes_an_identity_also_when_it_is_gone_already(link: PluginLink, security: DynamicSecurity) -> None:
    security.put(GATEWAY)
    security.remove("gw-1")
    security.remove("gw-1")
    assert "gw-1" not in link.clients
    assert "gw-1" not in link.roles


def test_reconciling_sends_differences_only_and_leaves_itself_alone(
    link: PluginLink, security: DynamicSecurity
) -> None:
    for name in ("gw-1", "stray"):
        security.put(Grant(identity=name, role=Role.DEVICE))
    link.commands.clear()
    new = Grant(identity="gw-2", role=Role.DEVICE)
    assert security.reconcile([GATEWAY, new]) == (["gw-2"], ["stray"])
    assert set(link.clients) == {"svc:control", "gw-1", "gw-2"}
    assert link.commands == ["listClients", "createRole", "createClient", "deleteClient", "deleteRole"]


def test_what_the_broker_does_not_like_is_an_error_with_its_words(link: PluginLink, security: DynamicSecurity) -> None:
    link.answer = lambda answers: [{**answer, "error": "Internal error"} for answer in answers]
    for ask in (lambda: security.put(GATEWAY), lambda: security.remove("gw-1"), security.identities):
        with pytest.raises(RemoteError, match="Internal error"):
            ask()


def test_no_answer_is_a_deadline(link: PluginLink, security: DynamicSecurity) -> None:
    link.answer = lambda _answers: []
    with pytest.raises(DeadlineError, match="createRole"):
        security.put(GATEWAY, timeout_s=0.05)


def test_a_refused_or_lost_link_is_its_own_error(link: PluginLink, security: DynamicSecurity) -> None:
    link.refusal = RefusedError("no")
    with pytest.raises(RefusedError):
        security.put(GATEWAY)
    link.down = True
    with pytest.raises(LinkDownError):
        security.remove("gw-1")


def test_answers_to_others_and_garbage_are_passed_over(link: PluginLink, security: DynamicSecurity) -> None:
    strangers = (b"", b"[]", b"{", b'{"responses": [{"command": "x", "correlationData": "99"}]}', b'{"responses": 1}')
    for payload in (*strangers, b'{"responses": ["x"]}'):
        link.handlers[CONTROL_ANSWERS](Message(CONTROL_ANSWERS, payload))
    assert security.identities() == ["svc:control"]


def test_many_threads_ask_at_once_and_each_gets_its_own_answer(link: PluginLink, security: DynamicSecurity) -> None:
    threads = [
        threading.Thread(target=security.put, args=(Grant(identity=f"gw-{i}", role=Role.DEVICE),)) for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {f"gw-{i}" for i in range(16)} <= set(link.clients)
