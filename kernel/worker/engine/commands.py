"""Commands from `app.control`, and what a worker remembers of them.

A thread reads the subscription, since that waits; the loop carries the commands out. Whatever comes in is from
strangers: it is checked before it is looked into, and a command that makes no sense is logged and dropped.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kernel import errors
from kernel.control import TOPIC
from kernel.interfaces.broker import Broker
from kernel.message import Message
from kernel.worker.claims.hearing import Hearing
from kernel.worker.engine.stamps import RevokedStamps
from kernel.worker.outage import Outage

_log = logging.getLogger("kernel.worker")

_MAX_BYTES: Final = 1 << 20
_MAX_IDS: Final = 50_000
_PAUSE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Command:
    """A command for this node."""

    method: str
    arguments: Mapping[str, Any]


class Revoked:
    """Ids, and stamps, that must not run; the oldest ids are forgotten when there are more than 50,000."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, bool] = OrderedDict()
        self.stamps = RevokedStamps()

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._ids

    def __bool__(self) -> bool:
        return bool(self._ids or self.stamps)

    def covers(self, task_id: str, headers: Mapping[str, Any]) -> bool:
        """Whether a message of this id and with these headers must not run."""
        return task_id in self._ids or bool(self.stamps and self.stamps.match(headers))

    def ends(self, task_id: str) -> bool:
        """Whether it is to be ended where it runs, too."""
        return self._ids.get(task_id, False)

    def add(self, task_id: str, *, terminate: bool = False) -> None:
        self._ids[task_id] = terminate or self.ends(task_id)
        while len(self._ids) > _MAX_IDS:
            self._ids.popitem(last=False)


class CommandReader:
    """Reads commands on a thread and hands those for `hostname` to `post`. `outage` is told of a broker that fails."""

    def __init__(self, broker: Broker, hostname: str, post: Callable[[Command], None], *, outage: Outage) -> None:
        self._can_hear = broker.capabilities.broadcast
        self._hostname = hostname
        self._post = post
        self._outage = outage
        self._has_failed = False
        self._hearing = Hearing(
            broker,
            TOPIC,
            name="kernel-commands",
            take=self._take,
            failed=self._failed,
            works=self._works,
            pause=_PAUSE,
        )

    def start(self) -> None:
        if self._can_hear:
            self._hearing.start()

    def stop(self) -> None:
        self._hearing.stop()

    def join(self, timeout: float) -> None:
        self._hearing.join(timeout)

    def _failed(self, error: Exception) -> None:
        self._has_failed = True
        self._outage.failed("commands cannot be read", _PAUSE, error)

    def _works(self) -> None:
        if self._has_failed:
            self._has_failed = False
            self._outage.ended("the broker works again")

    def _take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            try:
                command = parse(message, self._hostname)
            except errors.InvalidTaskError as exc:
                _log.warning("a command was dropped: %s", exc)
                continue
            if command is not None:
                self._post(command)


def parse(message: Message, hostname: str) -> Command | None:
    """The command in a message; None when it is for others or too old. Raises `InvalidTaskError`."""
    if message.content_type != "application/json" or len(message.body) > _MAX_BYTES:
        raise errors.InvalidTaskError(f"{len(message.body)} bytes of {message.content_type!r}; small JSON is needed")
    try:
        document = json.loads(message.body)
    except (ValueError, RecursionError) as exc:
        raise errors.InvalidTaskError(f"not JSON: {exc}") from exc
    if not isinstance(document, dict) or not isinstance(document.get("method"), str):
        raise errors.InvalidTaskError("an object with a method is needed")
    destination, arguments = document.get("destination"), document.get("arguments") or {}
    expires = message.headers.get("expires")
    if isinstance(expires, int | float) and 0 < expires < time.time():
        return None
    if destination is not None and (not isinstance(destination, list) or hostname not in destination):
        return None
    if not isinstance(arguments, dict):
        raise errors.InvalidTaskError(f"arguments are a {type(arguments).__name__}, not an object")
    return Command(document["method"], arguments)


def task_ids(arguments: Mapping[str, Any]) -> list[str]:
    """The ids in a command. Raises `InvalidTaskError`."""
    value = arguments.get("task_id")
    ids = [value] if isinstance(value, str) else value
    if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
        raise errors.InvalidTaskError(f"task_id is {str(value)[:80]!r}; an id or a list of ids is needed")
    return ids
