"""Dead letters: a hash of messages and one of facts for each queue."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from kernel_lib_redis import RedisServer

from kernel.interfaces.broker import DeadLetter
from kernel_broker_redis import envelope, queue_scripts
from kernel_broker_redis.layout import Layout


class Letters:
    """The dead letters of one server's queues."""

    def __init__(self, server: RedisServer, layout: Layout) -> None:
        self._server = server
        self._layout = layout

    def newest(self, queues: Sequence[str], limit: int) -> list[DeadLetter]:
        """Newest first, of these queues."""
        if limit <= 0 or not queues:
            return []
        orders = [("ZREVRANGE", self._layout.own(name, "dead:order"), 0, limit - 1) for name in queues]
        found: list[DeadLetter] = []
        for name, letters in zip(queues, self._server.pipeline(orders), strict=True):
            if letters:
                found += self._load(name, letters)
        if len(queues) > 1:
            # Each queue's are in order already, and sorting keeps that where two have the same time.
            found.sort(key=lambda letter: -letter.died_at)
        return found[:limit]

    def _load(self, queue: str, letters: Sequence[bytes]) -> list[DeadLetter]:
        raws, metas = self._server.pipeline(
            [("HMGET", self._layout.own(queue, what), *letters) for what in ("dead", "dead:meta")]
        )
        rows = zip(letters, raws, metas, strict=True)
        # One that was retried meanwhile is gone.
        return [_letter(queue, name, raw, meta) for name, raw, meta in rows if raw is not None and meta is not None]

    def retry(self, queues: Sequence[str], ids: Iterable[str]) -> int:
        return self._remove(queues, ids, retry=True)

    def drop(self, queues: Sequence[str], ids: Iterable[str]) -> int:
        return self._remove(queues, ids, retry=False)

    def _remove(self, queues: Sequence[str], ids: Iterable[str], *, retry: bool) -> int:
        names = [name.encode("utf-8", "backslashreplace") for name in dict.fromkeys(ids)]
        if not names or not queues:
            return 0
        commands = [("HMGET", self._layout.own(queue, "dead"), *names) for queue in queues]
        count = 0
        for queue, raws in zip(queues, self._server.pipeline(commands), strict=True):
            for name, raw in zip(names, raws, strict=True):
                if raw is not None:
                    count += self._exhume(queue, name, raw if retry else None)
        return count

    def _exhume(self, queue: str, name: bytes, raw: bytes | None) -> int:
        layout = self._layout
        target: tuple[object, object] = ("", "")
        if raw is not None:
            message = envelope.decode(raw)
            again = raw
            if message.content_type != envelope.UNREADABLE:
                again = envelope.encode(message.replayed(), queue, priority=message.priority)
            target = layout.list_of(queue, message.priority), again
        return int(
            self._server.script(queue_scripts.EXHUME, layout.prefix, layout.sep, layout.queue(queue), name, *target)
        )


def _letter(queue: str, name: bytes, raw: bytes, meta: bytes) -> DeadLetter:
    starts, died_at, text = meta.split(b"\n", 2)
    facts: dict[str, Any] = json.loads(text)
    return DeadLetter(
        id=name.decode("utf-8", "replace"),
        task=facts.get("task", ""),
        queue=queue,
        reason=facts.get("reason", ""),
        died_at=int(died_at) / 1000,
        starts=int(starts),
        message=envelope.decode(raw),
    )
