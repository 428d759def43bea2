"""Carries out the commands that reach a worker."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kernel import errors
from kernel.worker.claims.item import Item, Place
from kernel.worker.claims.ledger import Ledger
from kernel.worker.engine.admission import Admission
from kernel.worker.engine.commands import Command, Revoked, task_ids
from kernel.worker.engine.dispatch import Dispatcher
from kernel.worker.engine.fate import Fate
from kernel.worker.engine.keeper import Keeper
from kernel.worker.engine.stamps import RevokedStamps, stamps_in

_log = logging.getLogger("kernel.worker")


class Orders:
    """Owned by the engine's loop. `meet` gives a message its fate, `stop` ends the worker warm, for a reason."""

    def __init__(
        self,
        ledger: Ledger,
        dispatcher: Dispatcher,
        keeper: Keeper,
        *,
        revoked: Revoked,
        admission: Admission,
        meet: Callable[[Item, Fate], None],
        stop: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._keeper = keeper
        self._revoked = revoked
        self._admission = admission
        self._meet = meet
        self._stop = stop

    def obey(self, command: Command) -> None:
        """Whatever is wrong with a command is logged, and costs nobody else anything."""
        try:
            if command.method == "shutdown":
                self._stop("shutdown by command")
            elif command.method == "revoke":
                ids, terminate = set(task_ids(command.arguments)), bool(command.arguments.get("terminate"))
                for task_id in ids:
                    self._revoked.add(task_id, terminate=terminate)
                self._revoke(lambda item: item.id in ids, terminate=terminate)
            elif command.method == "revoke_by_stamped_headers":
                meant = RevokedStamps()
                for stamps in (self._revoked.stamps, meant):
                    stamps.add(stamps_in(command.arguments))
                self._revoke(
                    lambda item: meant.match(item.delivery.message.headers),
                    terminate=bool(command.arguments.get("terminate")),
                )
            else:
                _log.debug("the command %r is unknown here", command.method)
        except errors.InvalidTaskError as exc:
            _log.warning("the command %r was dropped: %s", command.method, exc)

    def _revoke(self, meant: Callable[[Item], bool], *, terminate: bool) -> None:
        for item in self._ledger:
            if item.obituary is not None or not item.id or not meant(item):
                continue
            if item.place is Place.WAITING:
                fate = self._admission.revoked(item)
                if fate is not None and self._dispatcher.ready.remove(item):
                    self._meet(item, fate)
            elif item.place is Place.SENT and terminate:
                self._keeper.terminate(item.seq)
