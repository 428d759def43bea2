"""May a claimed message run? Known from its headers, from what was revoked, and from what plugins say."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from kernel import errors, states
from kernel.extensions import Extensions
from kernel.interfaces.broker import Verdict
from kernel.interfaces.outcome import DeadLetter, Delay, Skip
from kernel.worker.assignment import Obituary
from kernel.worker.claims.item import Item
from kernel.worker.engine.commands import Revoked
from kernel.worker.engine.fate import Fate
from kernel.worker.engine.intake import Intake

_log = logging.getLogger("kernel.worker")

_REASON_CHARS: Final = 2000
_OUR_OWN: Final = "expiry"
"""The plugin that has nothing to say of what has no `expires`."""


def is_judged(extensions: Extensions) -> bool:
    """Whether any plugin but our own has a say in what may run."""
    hooks = extensions.hot.kernel_task_admit
    return hooks is not None and any(name != _OUR_OWN for name, _ in hooks)


class Admission:
    """Asks, in this order: the headers, the count of starts, the time, what was revoked, the plugins.

    Owned by the engine's loop. Whatever is wrong with one message, or with a plugin, costs that message alone.
    """

    def __init__(self, intake: Intake, extensions: Extensions, revoked: Revoked) -> None:
        self._intake = intake
        self._extensions = extensions
        self._revoked = revoked

    def decide(self, item: Item) -> Fate | None:
        """Fill the item from its headers and say what becomes of it; None when it is to run. Never raises."""
        return self.decide_all([item])[0]

    def decide_all(self, items: Sequence[Item]) -> list[Fate | None]:
        """The same for several that were claimed together."""
        received = self._extensions.hot.kernel_message_received
        fates: list[Fate | None] = []
        readable: list[Item] = []
        for item in items:
            try:
                fates.append(self._read(item))
                readable.append(item)
            except (errors.InvalidTaskError, errors.NotRegistered) as exc:
                fates.append(self._invalid(item, exc))
            except Exception as exc:
                fates.append(self._defect(item, exc))
        self._extensions.observe_all(received, [(item.delivery,) for item in readable] if received else ())
        all_are_asked = bool(self._revoked) or is_judged(self._extensions)
        for at, item in enumerate(items):
            if fates[at] is None and (all_are_asked or item.delivery.message.header("expires") is not None):
                fates[at] = self._asked(item)
        return fates

    def revoked(self, item: Item) -> Fate | None:
        """The end of a message whose id, or one of whose stamps, was revoked."""
        if self._revoked and self._revoked.covers(item.id, item.delivery.message.headers):
            return Fate(Obituary(states.REVOKED, "TaskRevokedError", "revoked"))
        return None

    def _read(self, item: Item) -> Fate | None:
        self._intake.read(item)
        early = self._intake.early(item)
        if item.delivery.starts:
            spent = self._intake.spent(item)
            if spent is not None:
                return Fate(spent)
        return Fate(delay=early) if early else None

    def _asked(self, item: Item) -> Fate | None:
        try:
            return self.revoked(item) or self._judge(item)
        except Exception as exc:
            return self._defect(item, exc)

    def _judge(self, item: Item) -> Fate | None:
        hooks = self._extensions.hot.kernel_task_admit
        if hooks is None:
            return None
        try:
            answer = self._extensions.first("kernel_task_admit", hooks, item.delivery)
        except Exception as exc:
            # Nobody knows whether it may run. Kept with the reason, it can be retried when the plugin is mended.
            _log.exception("kernel_task_admit failed for task %s[%s]; it is kept as a dead letter", item.name, item.id)
            text = f"kernel_task_admit failed: {type(exc).__name__}: {exc}"[:_REASON_CHARS]
            answer = DeadLetter("; ".join([text, *getattr(exc, "__notes__", ())]))
        return _fate_of(answer)

    def _invalid(self, item: Item, error: errors.KernelError) -> Fate:
        try:
            answer = self._extensions.decide("kernel_message_invalid", delivery=item.delivery, error=error)
        except Exception as exc:
            _log.error("kernel_message_invalid failed: %s", exc)
            answer = None
        fate = _fate_of(answer)
        if fate is not None:
            return fate
        _log.error("message kept as a dead letter, queue %r: %s", item.delivery.queue, error)
        kind = type(error).__name__
        if item.id and item.name:  # a waiting caller can be told
            return Fate(Obituary(states.FAILURE, kind, str(error)[:_REASON_CHARS], Verdict.DEAD))
        return Fate(verdict=Verdict.DEAD, reason=f"{kind}: {error}"[:_REASON_CHARS])

    def _defect(self, item: Item, error: Exception) -> Fate:
        _log.error("a message of queue %r is kept as a dead letter", item.delivery.queue, exc_info=error)
        reason = f"it cannot be admitted: {type(error).__name__}: {error}"
        return Fate(verdict=Verdict.DEAD, reason=reason[:_REASON_CHARS])


def _fate_of(answer: object) -> Fate | None:
    """What the answer of a plugin decides; None when it does not."""
    if isinstance(answer, Skip):
        error = "TaskRevokedError" if answer.state == states.REVOKED else "TaskError"
        return Fate(Obituary(answer.state, error, answer.reason, Verdict.ACK))
    if isinstance(answer, Delay):
        return Fate(delay=answer.seconds)
    if isinstance(answer, DeadLetter):
        return Fate(Obituary(states.FAILURE, "InvalidTaskError", answer.reason, Verdict.DEAD))
    return None
