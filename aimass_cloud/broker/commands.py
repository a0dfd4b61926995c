"""Live changes of access rights, as commands to the broker's dynamic-security plug-in.

The plug-in answers on one topic to whoever asked; answers are matched to commands by a mark that it echoes. Each
command makes the broker write its whole file on its only thread (25 ms at 1,000 identities), so only differences are
sent. The database is the truth: the file is made from it before each start of the broker, and :meth:`reconcile` repairs
what a lost link left undone.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aimass.errors import DeadlineError, RemoteError
from aimass.transport.base import Message, Transport
from aimass_cloud.broker.dynsec import CONTROL_ANSWERS, CONTROL_TOPIC, Grant, role_of

Command = dict[str, Any]
Answer = dict[str, Any]

_EXISTS = frozenset({"Role already exists", "Client already exists"})
_ABSENT = frozenset({"Role not found", "Client not found"})


class DynamicSecurity:
    """Adds and removes identities at the running broker.

    The methods wait for the broker's answer: never call them on the transport's network thread (in a handler).

    Args:
        transport: a link whose identity has the control role.
        clock: monotonic seconds.
    """

    def __init__(self, transport: Transport, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._clock = clock
        self._marks = itertools.count(1)
        self._answers: dict[str, Answer | None] = {}
        self._arrived = threading.Condition()
        transport.subscribe(CONTROL_ANSWERS, self._take)

    def put(self, grant: Grant, *, timeout_s: float = 5.0) -> None:
        """Lets an identity connect and do what its role allows.

        One that is known gets its rights anew; the broker ends its live connection for that.

        Raises:
            TransportError: not connected, or refused by the broker.
            DeadlineError: no answer in time; it may have been done.
        """
        role, client = role_of(grant), _client(grant.identity)
        errors = self._ask([{"command": "createRole", **role}, {"command": "createClient", **client}], timeout_s)
        again = [
            {"command": command, **value}
            for command, value, error in zip(("modifyRole", "modifyClient"), (role, client), errors, strict=True)
            if _tolerated(error, _EXISTS)
        ]
        if again:
            for error in self._ask(again, timeout_s):
                _tolerated(error, frozenset())

    def remove(self, identity: str, *, timeout_s: float = 5.0) -> None:
        """Takes all rights from an identity and throws out its live connection; unknown is fine.

        By itself this does not keep out a certificate that is still valid: put it on the revocation list first.

        Raises:
            TransportError: not connected, or refused by the broker.
            DeadlineError: no answer in time; it may have been done.
        """
        commands = [
            {"command": "deleteClient", "username": identity},
            {"command": "deleteRole", "rolename": identity},
        ]
        for error in self._ask(commands, timeout_s):
            _tolerated(error, _ABSENT)

    def identities(self, *, timeout_s: float = 5.0) -> list[str]:
        """Who is known to the broker now."""
        answer = self._exchange([{"command": "listClients", "verbose": False}], timeout_s)[0]
        _tolerated(answer.get("error"), frozenset())
        return [str(name) for name in answer["data"]["clients"]]

    def reconcile(self, grants: Iterable[Grant], *, timeout_s: float = 5.0) -> tuple[list[str], list[str]]:
        """Makes the broker know exactly these identities; returns whom it added and whom it removed.

        Rights of identities that are known on both sides are not compared, and our own identity is left alone.
        """
        wanted = {g.identity: g for g in grants if g.identity != self._transport.identity}
        known = set(self.identities(timeout_s=timeout_s)) - {self._transport.identity}
        added, removed = sorted(wanted.keys() - known), sorted(known - wanted.keys())
        for identity in added:
            self.put(wanted[identity], timeout_s=timeout_s)
        for identity in removed:
            self.remove(identity, timeout_s=timeout_s)
        return added, removed

    def _ask(self, commands: Sequence[Command], timeout_s: float) -> list[str | None]:
        return [answer.get("error") for answer in self._exchange(commands, timeout_s)]

    def _exchange(self, commands: Sequence[Command], timeout_s: float) -> list[Answer]:
        marked = [{**command, "correlationData": str(next(self._marks))} for command in commands]
        marks = [command["correlationData"] for command in marked]
        deadline = self._clock() + timeout_s
        with self._arrived:
            self._answers.update(dict.fromkeys(marks))
        try:
            payload = json.dumps({"commands": marked}, separators=(",", ":")).encode()
            self._transport.publish(CONTROL_TOPIC, payload, qos=1).wait(timeout_s)
            with self._arrived:
                remaining_s = max(0.0, deadline - self._clock())
                if not self._arrived.wait_for(lambda: all(self._answers[mark] for mark in marks), remaining_s):
                    raise DeadlineError(f"the broker did not answer {commands[0]['command']} within {timeout_s:g} s")
                return [answer for mark in marks if (answer := self._answers[mark]) is not None]
        finally:
            with self._arrived:
                for mark in marks:
                    self._answers.pop(mark, None)

    def _take(self, message: Message) -> None:
        try:
            answers = {
                str(answer["correlationData"]): dict(answer) for answer in json.loads(message.payload)["responses"]
            }
        except (ValueError, KeyError, TypeError):
            return  # only the broker itself can write here; what it does not mean for us, nobody waits for
        with self._arrived:
            self._answers.update({mark: answer for mark, answer in answers.items() if mark in self._answers})
            self._arrived.notify_all()


def _client(identity: str) -> Command:
    return {"username": identity, "roles": [{"rolename": identity, "priority": 0}]}


def _tolerated(error: str | None, allowed: frozenset[str]) -> bool:
    """Whether there was an error, of the kind allowed; raises what is not allowed."""
    if error is None:
        return False
    if error not in allowed:
        raise RemoteError(f"the broker refused the command: {error}", remote_code=error)
    return True
