"""The way of messages into their lists.

What goes into a list is pushed by the plain command (several of them in a transaction), and those who wait are asked
for by the next one in the same round trip: a script would copy each message twice more. Only where somebody waits for a
list that he does not watch by himself, a second round trip wakes him.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel_lib_redis import Link, fault
from redis import exceptions

from kernel import errors
from kernel.interfaces import broker as api
from kernel_broker_redis import queue_scripts
from kernel_broker_redis.envelope import Writer, has_eta

if TYPE_CHECKING:
    from kernel_lib_redis import RedisServer

    from kernel.message import Publication
    from kernel_broker_redis.layout import Layout

MAX_BYTES: Final = 256 * 1024 * 1024
"""Of a body: in base64 it is a third more, and Redis takes words of 512 MiB."""
_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 4 * 1024 * 1024
_MOST_WOKEN: Final = 32
_MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"
_KNOWN: Final = 1000
_LONG: Final = 8 * 1024
"""Bytes of a body from which on it is not copied once more."""


class Sender:
    """Publishes on one server. Usable from any thread."""

    def __init__(self, server: RedisServer, layout: Layout) -> None:
        self._server = server
        self._layout = layout
        self._writer = Writer()
        self._known: dict[tuple[str, int], _List] = {}

    def publish(self, batch: Sequence[Publication]) -> Sequence[api.PublishOutcome]:
        """As `Broker.publish`."""
        if len(batch) == 1 and batch[0].due is None:
            return (self._publish_one(batch[0]),)
        outcomes: list[api.PublishOutcome] = [api.STORED] * len(batch)
        pushes, delays = self._sorted(batch, outcomes)
        if not pushes and not delays:
            return outcomes
        with self._server.link() as link:
            replies = self._push(link, pushes) if pushes else []
            replies += self._delay(link, delays) if delays else []
        failed = [reply for reply in replies if isinstance(reply, BaseException)]
        if failed:
            if len(failed) == len(replies) and not any(isinstance(each, _Lost) for each in failed):
                raise fault(failed[0], self._server.shown) from failed[0]
            for call, reply in zip((*pushes, *delays), replies, strict=True):
                if isinstance(reply, BaseException):
                    for at in call.indexes:
                        outcomes[at] = api.PublishOutcome(api.PublishState.UNKNOWN, str(reply))
        return outcomes

    def _publish_one(self, item: Publication) -> api.PublishOutcome:
        """What `delay()` does, without the lists that many messages need."""
        if why := self._refusal(item):
            return api.PublishOutcome(api.PublishState.REFUSED, why)
        where = self._list(item.queue, item.priority)
        parts = self._writer.parts(item)
        words = (where.one, b"%d\r\n" % sum(map(len, parts)), *parts, where.ask_for_one)
        link = self._server.take()
        try:
            if len(item.message.body) >= _LONG:
                link.send_parts(words)
            else:
                link.send_packed(b"".join(words))
            stored = _answer(link, link.receive_soon)
            woken = _consumers([_answer(link) for _ in where.asks])
            if woken:
                self._wake(link, woken)
        except errors.OperationalError as exc:
            link.close()
            return api.PublishOutcome(api.PublishState.UNKNOWN, str(exc))
        except BaseException:
            link.close()
            raise
        finally:
            self._server.give(link)
        if isinstance(stored, BaseException):
            raise fault(stored, self._server.shown) from stored
        return api.STORED

    def place(self, item: Publication) -> tuple[str, int | str, bytes]:
        """Where a message goes, in words for a script: the list, when it is due (ms, or ""), and itself. Raises
        `PublishRefused`."""
        if why := self._refusal(item):
            raise errors.PublishRefused(why)
        due = _milliseconds(item.due) if item.due is not None and not has_eta(item.message) else ""
        return self._list(item.queue, item.priority).key, due, self._writer.publication(item)

    # --- what goes where ----------------------------------------------------------------------------------------

    def _sorted(
        self, batch: Sequence[Publication], outcomes: list[api.PublishOutcome]
    ) -> tuple[list[_Call], list[_Call]]:
        """Pushes and delays; refusals are filled into `outcomes`."""
        pushes: list[_Call] = []
        delays: list[_Call] = []
        open_calls: dict[tuple[_List, bool], _Call] = {}
        for at, item in enumerate(batch):
            if why := self._refusal(item):
                outcomes[at] = api.PublishOutcome(api.PublishState.REFUSED, why)
                continue
            where = self._list(item.queue, item.priority)
            delayed = item.due is not None and not has_eta(item.message)
            call = open_calls.get((where, delayed))
            if call is None or len(call.indexes) >= _AT_ONCE or call.size > _BYTES_AT_ONCE:
                call = open_calls[where, delayed] = _Call(where)
                (delays if delayed else pushes).append(call)
            raw = self._writer.publication(item)
            if delayed and item.due is not None:
                call.words.append(_milliseconds(item.due))
            call.words.append(raw)
            call.indexes.append(at)
            call.size += len(raw)
        return pushes, delays

    def _refusal(self, item: Publication) -> str:
        if (item.queue, item.priority) not in self._known and (why := self._layout.fault(item.queue)):
            return f"queue {item.queue!r}: {why}"
        if len(item.message.body) > MAX_BYTES:
            return f"the body has {len(item.message.body)} bytes; {MAX_BYTES} are the most this broker takes"
        try:
            item.message.check()
        except errors.InvalidTaskError as exc:
            return str(exc)
        return ""

    def _list(self, queue: str, priority: int) -> _List:
        found = self._known.get((queue, priority))
        if found is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            found = self._known[queue, priority] = _List(self._layout, queue, priority)
        return found

    # --- commands -----------------------------------------------------------------------------------------------

    def _push(self, link: Link, calls: Sequence[_Call]) -> list[Any]:
        """One reply or error for each call. Several are one transaction: a canvas is there wholly or not at all."""
        together = len(calls) > 1
        parts: list[bytes] = [_MULTI] if together else []
        waiting: dict[_List, int] = {}
        for call in calls:
            parts.append(call.where.head % (len(call.words) + 2))
            for raw in call.words:
                parts += (b"$%d\r\n" % len(raw), raw, b"\r\n")
            waiting[call.where] = waiting.get(call.where, 0) + len(call.words)
        if together:
            parts.append(_EXEC)
        asked = 0
        for where, count in waiting.items():
            # A few more than there is work for: one may be dead, or have found something else to do.
            number = str(min(count + 2, _MOST_WOKEN)).encode()
            for ask in where.asks:
                parts.append(ask % (len(number), number))
                asked += 1
        found: list[Any] = []
        try:
            link.send_packed(b"".join(parts))
            if together:
                found += _transacted(link, len(calls))
            for _ in range(len(calls) + asked - len(found)):
                found.append(_answer(link))
        except errors.OperationalError as exc:
            missing = len(calls) - len(found)
            return [*found[: len(calls)], *([_Lost(str(exc))] * missing)]
        woken = _consumers(found[len(calls) :])
        if woken:
            self._wake(link, woken)
        return found[: len(calls)]

    def _wake(self, link: Link, consumers: set[bytes]) -> None:
        try:
            link.pipeline([("PUBLISH", self._layout.wake(cid.decode()), b"1") for cid in consumers])
        except errors.OperationalError:
            # The messages are stored, and whoever was not woken looks by himself.
            link.close()

    def _delay(self, link: Link, calls: Sequence[_Call]) -> list[Any]:
        batches = [[self._layout.prefix, self._layout.sep, call.where.key, *call.words] for call in calls]
        try:
            return link.scripts(queue_scripts.DELAY, batches)
        except errors.OperationalError as exc:
            return [_Lost(str(exc))] * len(calls)


class _List:
    """A list, and what is said to the server about it, packed as far as it can be."""

    __slots__ = ("ask_for_one", "asks", "head", "key", "one")

    def __init__(self, layout: Layout, queue: str, priority: int) -> None:
        self.key = layout.list_of(queue, priority)
        self.one = b"*3\r\n$5\r\nLPUSH\r\n%b$" % (_word(self.key) % ())
        self.head = b"*%%d\r\n$5\r\nLPUSH\r\n%b" % _word(self.key)
        sets = ["idle"] if self.key == layout.queue(queue) else ["idle", "idle:first"]
        self.asks = [b"*3\r\n$4\r\nSPOP\r\n%b$%%d\r\n%%b\r\n" % _word(layout.own(queue, what)) for what in sets]
        self.ask_for_one = b"\r\n" + b"".join(ask % (1, b"3") for ask in self.asks)


class _Call:
    """Some messages for one list, and their places in the batch."""

    __slots__ = ("indexes", "size", "where", "words")

    def __init__(self, where: _List) -> None:
        self.where = where
        self.words: list[Any] = []
        self.indexes: list[int] = []
        self.size = 0


class _Lost(Exception):
    """In the place of a reply that never came."""


def _consumers(replies: Sequence[Any]) -> set[bytes]:
    return {cid for reply in replies if isinstance(reply, list) for cid in reply}


def _transacted(link: Link, count: int) -> list[Any]:
    """The replies to `count` commands between MULTI and EXEC."""
    said = [_answer(link) for _ in range(count + 2)]
    done = said.pop()
    if isinstance(done, list) and len(done) == count:
        return [link.refused(each) if isinstance(each, exceptions.ResponseError) else each for each in done]
    # Nothing was done: the first that was refused says why.
    why = next((each for each in said if isinstance(each, BaseException)), done)
    return [why if isinstance(why, BaseException) else _Lost(f"an answer to EXEC that is none: {why!r:.80}")] * count


def _answer(link: Link, receive: Callable[[], Any] | None = None) -> Any:
    try:
        return (receive or link.receive)()
    except exceptions.ResponseError as exc:
        return link.refused(exc)


def _word(text: str) -> bytes:
    """A word of the protocol, in a template that is filled in by ``%``."""
    raw = text.encode("utf-8")
    return b"$%d\r\n%b\r\n" % (len(raw), raw.replace(b"%", b"%%"))


def _milliseconds(due: float) -> int:
    # Rounded up: never early.
    return -int(-due * 1000 // 1)
