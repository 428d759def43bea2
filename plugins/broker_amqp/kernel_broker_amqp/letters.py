"""Dead letters: for each queue a queue of them, oldest first, their story in our header."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from kernel_lib_amqp import ChannelClosed, frames, properties
from kernel_lib_amqp.channel import Channel, Got
from kernel_lib_amqp.faults import NOT_FOUND

from kernel import errors
from kernel.interfaces.broker import DeadLetter
from kernel.message import Message
from kernel_broker_amqp import envelope, names
from kernel_broker_amqp.admin import Admin
from kernel_broker_amqp.delays import release
from kernel_broker_amqp.publisher import Parcel, Publishers

_AT_ONCE: Final = 200
_MAX_REASON: Final = 4000


@dataclass(slots=True)
class _Found:
    letter: DeadLetter
    got: Got


def parcel(message: Message, queue: str, reason: str, starts: int) -> Parcel:
    """A message as a dead letter, ready to be sent."""
    text = reason if len(reason) <= _MAX_REASON else reason[: _MAX_REASON - 3] + "..."
    story = {"starts": starts, "reason": text, "died": time.time(), "letter": uuid.uuid4().hex, "queue": queue}
    head = envelope.restated(message, story)
    return frames.address("", names.dead(queue), mandatory=True), head, message.body


class Letters:
    """The dead letters of one virtual host's queues."""

    def __init__(self, admin: Admin, publishers: Publishers, timeout: float) -> None:
        self._admin = admin
        self._publishers = publishers
        self._timeout = timeout
        self._declared: set[str] = set()

    def keep(self, queues: Iterable[str]) -> None:
        """Make the queues of dead letters exist."""
        for queue in {*queues} - self._declared:
            self._admin.run(partial(_declare, names.dead(queue)))
            self._declared.add(queue)

    def forget(self) -> None:
        self._declared.clear()

    def newest(self, queues: Sequence[str], limit: int) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        if limit > 0:
            for queue in queues:
                with self._admin.channel() as channel:
                    found += [each.letter for each in _look(channel, queue)][::-1][:limit]
                    release(channel)
        # Each queue's are in order already, and sorting keeps that where two have the same time.
        found.sort(key=lambda letter: -letter.died_at)
        return found[:limit]

    def retry(self, queues: Sequence[str], ids: Iterable[str]) -> int:
        return self._remove(queues, ids, again=True)

    def drop(self, queues: Sequence[str], ids: Iterable[str]) -> int:
        return self._remove(queues, ids, again=False)

    def _remove(self, queues: Sequence[str], ids: Iterable[str], *, again: bool) -> int:
        wanted = set(ids)
        count = 0
        for queue in queues if wanted else ():
            with self._admin.channel() as channel:
                chosen = [each for each in _look(channel, queue) if each.letter.id in wanted]
                if again:
                    self._publishers.publish_all([_replayed(each, queue) for each in chosen], self._timeout)
                for each in chosen:
                    channel.ack(each.got.tag)
                release(channel)
            count += len(chosen)
        return count


def _declare(name: str, channel: Channel) -> None:
    channel.declare_queue(name)


def _look(channel: Channel, queue: str) -> list[_Found]:
    """The letters of a queue, oldest first, all unsettled."""
    seen: set[str] = set()
    found: list[_Found] = []
    for got in _all(channel, names.dead(queue)):
        letter = _letter(got, queue, seen)
        seen.add(letter.id)
        found.append(_Found(letter, got))
    return found


def _all(channel: Channel, name: str) -> Iterator[Got]:
    try:
        while part := channel.get_many(name, _AT_ONCE):
            yield from part
            if len(part) < _AT_ONCE:
                return
    except ChannelClosed as exc:
        if exc.code != NOT_FOUND:
            raise
        channel.reopen()


def _letter(got: Got, queue: str, seen: set[str]) -> DeadLetter:
    message = envelope.AmqpMessage(got.head, got.body)
    story: dict[str, Any] = dict(envelope.state(message.table))
    own = str(story.get("letter", f"{queue}:{got.tag}"))
    name = _text(message, "id") or own
    return DeadLetter(
        id=f"{name}:{own[:8]}" if name in seen else name,
        task=_text(message, "task"),
        queue=queue,
        reason=str(story.get("reason", "")),
        died_at=float(story.get("died", 0.0)),
        starts=int(story.get("starts", 0)),
        message=message,
    )


def _text(message: Message, name: str) -> str:
    try:
        value = message.headers.get(name)
    except errors.InvalidTaskError:
        return ""
    return value if isinstance(value, str) else ""


def _replayed(found: _Found, queue: str) -> Parcel:
    message = found.letter.message
    head = found.got.head
    if properties.split(head)[2]:
        head = envelope.restated(message.replayed(), {})
    return frames.address("", queue, mandatory=True), head, message.body
