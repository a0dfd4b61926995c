"""The broker's identities, as use cases change them: one at a time, with errors that say "try again"."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from aimass.errors import DeadlineError, LinkDownError
from aimass_cloud.broker.commands import DynamicSecurity
from aimass_cloud.broker.dynsec import Grant

log = logging.getLogger(__name__)

HINT = "the broker may be starting; send the same request again in a moment"


class BrokerAccounts:
    """Live changes of who may connect. Fulfils :class:`aimass_cloud.usecases.base.Accounts`.

    Args:
        security: the commands.
        grants: who should be known, from the store.
    """

    def __init__(self, security: DynamicSecurity, grants: Callable[[], Iterable[Grant]]) -> None:
        self._security = security
        self._grants = grants
        self._turn = threading.Lock()

    def put(self, grant: Grant) -> None:
        """Let this identity connect.

        Raises:
            TransportError: the broker is not there or refuses.
        """
        with self._turn:
            try:
                self._security.put(grant)
            except DeadlineError as exc:
                raise LinkDownError(exc.message, hint=HINT) from exc

    def remove(self, identity: str) -> None:
        """Forget this identity and end its connection.

        Raises:
            TransportError: the broker is not there or refuses.
        """
        with self._turn:
            try:
                self._security.remove(identity)
            except DeadlineError as exc:
                raise LinkDownError(exc.message, hint=HINT) from exc

    def reconcile(self) -> None:
        """Repair what was changed while the broker could not be reached.

        Raises:
            TransportError: the broker is not there or refuses.
        """
        with self._turn:
            try:
                added, removed = self._security.reconcile(list(self._grants()))
            except DeadlineError as exc:
                raise LinkDownError(exc.message, hint=HINT) from exc
        if added or removed:
            log.warning("the broker's identities were repaired: added %s, removed %s", added, removed)
