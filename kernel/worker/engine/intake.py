"""What the engine decides about a claimed message from its headers alone: may it run, when, and how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from kernel import errors, states
from kernel.interfaces.broker import Delivery, Verdict
from kernel.worker.assignment import Obituary
from kernel.worker.claims.item import Item
from kernel.worker.engine import elder
from kernel.worker.manifest import Manifest

_MAX_ID: Final = 155
_MAX_NAME: Final = 1000
_MAX_SECONDS: Final = 10 * 366 * 86400.0
_EARLY_SECONDS: Final = 0.5
_NO_LIMITS: Final = [None, None]


class Intake:
    """Reads headers. `read` raises `InvalidTaskError` for a message that is no task.

    `judges_time` is for brokers that know no delays. With the others their server's clock has decided already: a
    worker whose own is behind would only send away what is due.
    """

    def __init__(self, manifest: Manifest, *, delivery_limit: int | None, judges_time: bool = True) -> None:
        self._manifest = manifest
        self._limit = delivery_limit
        self._judges_time = judges_time
        self._is_renewed = False
        settings = manifest.settings
        self._soft = float(settings.get("task_soft_time_limit") or 0) or None
        self._hard = float(settings.get("task_time_limit") or 0) or None

    def read(self, item: Item) -> None:
        """Fill the item from its headers."""
        header: Callable[[str], Any] = item.delivery.message.header
        self._is_renewed = False
        name = header("task")
        if name is None:
            header = self._renewed(item.delivery)
            name = header("task")
        item.id = _identifier(header("id"), "id", _MAX_ID)
        item.name = _identifier(name, "task", _MAX_NAME)
        facts = self._manifest.tasks.get(name)
        if facts is None:
            raise errors.NotRegistered(
                f"task {item.name!r} is not registered in this worker's app; is its module imported (`include`, "
                "`imports`)? The message is kept: `kernel dead retry` runs it once the task exists"
            )
        given = header("timelimit")
        hard, soft = (None, None) if given is None or given == _NO_LIMITS else _pair(given)
        # The first that is given: the message's own, the task's, the worker's.
        item.hard = hard or facts.time_limit or self._hard
        item.soft = soft or facts.soft_time_limit or self._soft
        item.early_ack = not facts.acks_late

    def _renewed(self, delivery: Delivery) -> Callable[[str], Any]:
        """What tells the headers of one that has none in their place."""
        newer = elder.renewed(delivery.message)
        if newer is not None:
            # The eta of such a one is in its body, where no broker has seen it.
            self._is_renewed = True
            delivery.message = newer
        return delivery.message.header

    def spent(self, item: Item) -> Obituary | None:
        """The end of a message that was started too often without ever ending."""
        if self._limit is None or item.delivery.starts < self._limit:
            return None
        text = (
            f"started {item.delivery.starts} times and never ended (task_delivery_limit is {self._limit}): "
            "each time the process that ran it died"
        )
        return Obituary(states.FAILURE, "WorkerLostError", text, Verdict.DEAD)

    def early(self, item: Item) -> float:
        """Seconds until the message is due, for brokers that cannot tell; 0.0 when it is. Raises
        `InvalidTaskError`."""
        eta = item.delivery.message.header("eta")
        if eta is None:
            return 0.0
        left = instant(eta, "eta") - time.time()
        return left if (self._judges_time or self._is_renewed) and left > _EARLY_SECONDS else 0.0


def instant(value: object, name: str) -> float:
    """Unix seconds of an ISO 8601 header. Raises `InvalidTaskError`."""
    if not isinstance(value, str) or len(value) > 64:
        raise errors.InvalidTaskError(f"header {name!r} is {str(value)[:64]!r}; an ISO 8601 text is needed")
    try:
        moment = datetime.fromisoformat(value)
        return moment.timestamp() if moment.tzinfo else moment.astimezone().timestamp()
    except (ValueError, OverflowError, OSError) as exc:
        raise errors.InvalidTaskError(f"header {name!r} is {value!r}: {exc}") from exc


def _identifier(value: object, name: str, limit: int) -> str:
    if not isinstance(value, str) or not value:
        raise errors.InvalidTaskError(f"header {name!r} is {_short(value)}; a text is needed")
    if len(value) > limit:
        raise errors.InvalidTaskError(f"header {name!r} has {len(value)} characters; {limit} is the limit")
    if not value.isprintable():
        raise errors.InvalidTaskError(f"header {name!r} has control characters: {_short(value)}")
    return value


def _pair(value: object) -> tuple[float | None, float | None]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise errors.InvalidTaskError(f"header 'timelimit' is {_short(value)}; [hard, soft] is needed")
    return _seconds(value[0]), _seconds(value[1])


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MAX_SECONDS:
        raise errors.InvalidTaskError(f"a time limit of {_short(value)}; seconds above 0 are needed")
    return float(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
