"""A TCP proxy of the project's own, which breaks what it carries in the ways that networks do.

It forwards a free port of 127.0.0.1 to a server, for Redis, RabbitMQ and PostgreSQL alike::

    with Proxy("127.0.0.1", server.port) as proxy:
        url = proxy.url(server.url)              # the same URL, through the proxy

        proxy.cut()                              # RST on every connection; `fin=True` for a polite end
        proxy.refuse()                           # nobody listens any more; what is connected stays
        proxy.stall(DOWN)                        # answers are held back, and come after `heal`
        proxy.swallow()                          # bytes vanish, new connections are taken and never answered
        proxy.half_open()                        # the server's end is gone, and clients are not told
        proxy.delay(0.05)                        # every piece is held for so long
        proxy.throttle(1000, DOWN)               # bytes a second
        proxy.cut_after(100, DOWN)               # each connection gets 100 more bytes of answers, then RST
        proxy.heal()                             # as new
        proxy.move("127.0.0.1", other.port)      # where new connections go

Without directions both are meant: `UP` is from the client to the server, `DOWN` the way back. `heal` cuts each
connection of which bytes were swallowed: real TCP never goes on behind a hole.

A *trap* waits for words in the stream and then does one thing, once or `times` times::

    trap = proxy.trap(b"EVALSHA", CUT)           # RST, and the words never arrive
    trap = proxy.trap(b"EVALSHA", LOSE)          # they arrive; the answer is thrown away, then RST
    trap = proxy.trap(b"EVALSHA", LOSE, keep=7)  # the same after seven bytes of the answer
    trap = proxy.trap(b"EVALSHA", HOLD)          # they wait for trap.release(); what is behind them waits too
    trap = proxy.trap(b"EVALSHA", ANSWER, answer=b"-LOADING later\r\n")   # answered here, the server sees nothing
    trap = proxy.trap(b"task-7", HOLD, direction=DOWN)   # words of the server; ANSWER then replaces what they came in
    trap.wait(5)                                 # until it was hit; False when it was not

Words that arrive in two pieces are found; what came with the first piece has then been forwarded already.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

_CHUNK: Final = 65536
_CALL_SECONDS: Final = 10.0
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends RST."""

T = TypeVar("T")


class Direction(enum.Enum):
    UP = "up"
    DOWN = "down"


class Action(enum.Enum):
    CUT = "cut"
    LOSE = "lose"
    HOLD = "hold"
    ANSWER = "answer"


UP: Final = Direction.UP
DOWN: Final = Direction.DOWN
CUT: Final = Action.CUT
LOSE: Final = Action.LOSE
HOLD: Final = Action.HOLD
ANSWER: Final = Action.ANSWER


@dataclass(slots=True)
class _Rule:
    """What happens to the bytes of one direction."""

    stalled: bool = False
    swallows: bool = False
    delay: float = 0.0
    rate: float = 0.0


class Trap:
    """Words to wait for. `hits` is how often they were found."""

    def __init__(
        self,
        words: bytes,
        action: Action,
        *,
        direction: Direction,
        times: int,
        keep: int,
        answer: bytes,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.words = words
        self.action = action
        self.direction = direction
        self.keep = keep
        self.answer = answer
        self.hits = 0
        self._left = times
        self._hit = threading.Event()
        self._loop = loop
        self._released = asyncio.Event()

    def wait(self, timeout: float) -> bool:
        """Whether it was hit, within `timeout` seconds."""
        return self._hit.wait(timeout)

    def release(self) -> None:
        """Let go what is held, and disarm the trap."""
        self._left = 0
        self._loop.call_soon_threadsafe(self._released.set)

    def _take(self, seen: bytes) -> bool:
        if self._left <= 0 or self.words not in seen:
            return False
        self._left -= 1
        self.hits += 1
        self._hit.set()
        return True


@dataclass(eq=False, slots=True)
class _Link:
    """One connection of a client, and ours to the server for it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    damaged: bool = False
    orphan: bool = False
    losing: int | None = None
    """Bytes of answers that still pass, before the connection is reset."""
    quota: dict[Direction, int] = field(default_factory=dict)
    tails: dict[Direction, bytes] = field(default_factory=lambda: {UP: b"", DOWN: b""})
    """The ends of what was carried last: words may begin there."""

    def reset(self) -> None:
        for writer in (self.client, self.server):
            _reset(writer)

    def finish(self) -> None:
        for writer in (self.client, self.server):
            writer.close()


class Proxy:
    """Forwards from `port` on 127.0.0.1 (0 picks a free one) to a server; as a context manager it runs inside.

    Its methods are for any thread, and have taken effect when they return. `accepted` counts connections.
    """

    def __init__(self, host: str, server_port: int, *, port: int = 0) -> None:
        self.port = port
        self.accepted = 0
        self.carried: dict[Direction, int] = {UP: 0, DOWN: 0}
        self._target = host, server_port
        self._rules = {UP: _Rule(), DOWN: _Rule()}
        self._traps: list[Trap] = []
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._await(self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._await(self._shut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    def url(self, url: str) -> str:
        """`url` with this proxy in the place of its host and port."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}"))

    # --- faults -------------------------------------------------------------------------------------------------

    def cut(self, *, fin: bool = False) -> int:
        """End every connection; how many there were."""
        return self._do(lambda: self._cut(fin=fin))

    def refuse(self) -> None:
        """Connections are refused until `heal`; those that are open stay."""
        self._await(self._unlisten)

    def stall(self, *directions: Direction) -> None:
        """Hold bytes back until `heal`; the sender's buffers fill up."""
        self._set(directions, stalled=True)

    def swallow(self, *directions: Direction) -> None:
        """Take bytes and forget them."""
        self._set(directions, swallows=True)

    def half_open(self) -> int:
        """Reset the server's end of every connection without a word to the client; how many there were."""
        return self._do(self._orphan)

    def delay(self, seconds: float, *directions: Direction) -> None:
        self._set(directions, delay=seconds)

    def throttle(self, bytes_a_second: float, *directions: Direction) -> None:
        self._set(directions, rate=bytes_a_second)

    def cut_after(self, count: int, direction: Direction = DOWN) -> None:
        """Reset each connection that is open when so many more of its bytes have passed; 0 lets none pass."""

        def limit() -> None:
            for link in self._links:
                link.quota[direction] = count

        self._do(limit)

    def trap(
        self,
        words: bytes,
        action: Action,
        *,
        direction: Direction = UP,
        times: int = 1,
        keep: int = 0,
        answer: bytes = b"",
    ) -> Trap:
        """Wait for `words` in a direction; see the head of this module."""
        trap = Trap(words, action, direction=direction, times=times, keep=keep, answer=answer, loop=self._loop)
        self._do(lambda: self._traps.append(trap))
        return trap

    def heal(self) -> None:
        """Everything passes again: rules, quotas and traps are gone, and damaged connections are reset."""
        self._await(self._heal)

    def move(self, host: str, port: int) -> None:
        """Another server, for connections from now on."""
        self._target = host, port

    @property
    def connections(self) -> int:
        """Open now."""
        return self._do(lambda: len(self._links))

    # --- across threads -----------------------------------------------------------------------------------------

    def _do(self, action: Callable[[], T]) -> T:
        async def call() -> T:
            return action()

        return self._await(call)

    def _await(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        coroutine = make()
        outcome: T = asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS)
        return outcome

    # --- on the proxy's thread ----------------------------------------------------------------------------------

    def _set(self, directions: tuple[Direction, ...], **fields: Any) -> None:
        def change() -> None:
            for direction in directions or (UP, DOWN):
                for name, value in fields.items():
                    setattr(self._rules[direction], name, value)
            self._tell()

        self._do(change)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _cut(self, *, fin: bool) -> int:
        links, self._links = self._links, set()
        for link in links:
            if fin:
                link.finish()
            else:
                link.reset()
        return len(links)

    def _orphan(self) -> int:
        for link in self._links:
            link.orphan = True
            _reset(link.server)
        return len(self._links)

    async def _heal(self) -> None:
        self._rules = {UP: _Rule(), DOWN: _Rule()}
        for trap in self._traps:
            trap.release()
        self._traps.clear()
        for link in [*self._links]:
            link.quota.clear()
            if link.damaged or link.orphan:
                self._links.discard(link)
                link.reset()
        self._tell()
        if self._listener is None:
            await self._listen()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _shut(self) -> None:
        await self._unlisten()
        self._cut(fin=False)
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # Only the end of the proxy cancels it, and nobody wants to hear of that.
            with contextlib.suppress(asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        for each in (writer, to_server):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(writer, to_server)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._lane(link, UP, source=reader, target=to_server),
                self._lane(link, DOWN, source=from_server, target=writer),
            )
        finally:
            self._links.discard(link)
            link.finish()

    async def _lane(
        self, link: _Link, direction: Direction, *, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await source.read(_CHUNK):
                await self._carry(link, direction, data, target)
            await self._passable(direction)
            if not self._rules[direction].swallows and not link.orphan and target.can_write_eof():
                target.write_eof()
        except (OSError, RuntimeError):
            # Whoever is at one end sees what happened at the other.
            if not link.orphan:
                link.reset()

    async def _passable(self, direction: Direction) -> None:
        while self._rules[direction].stalled:
            await self._changed.wait()

    async def _carry(self, link: _Link, direction: Direction, data: bytes, target: asyncio.StreamWriter) -> None:
        await self._passable(direction)
        rule = self._rules[direction]
        if rule.swallows or link.orphan:
            link.damaged = True
            return
        if self._traps and await self._trapped(link, direction, data):
            return
        if direction is DOWN and link.losing is not None:
            data = data[: link.losing]
            link.losing -= len(data)
            if link.losing <= 0:
                await self._last_words(link, data, target)
                return
        if direction in link.quota:
            data = data[: link.quota[direction]]
            link.quota[direction] -= len(data)
            if link.quota[direction] <= 0:
                await self._last_words(link, data, target)
                return
        if rule.delay:
            await asyncio.sleep(rule.delay)
        await self._write(direction, data, target)

    async def _trapped(self, link: _Link, direction: Direction, data: bytes) -> bool:
        """Whether a trap took the bytes; those that were held and let go are the lane's again."""
        traps = [trap for trap in self._traps if trap.direction is direction]
        seen = link.tails[direction] + data
        trap = next((each for each in traps if each._take(seen)), None)
        longest = max((len(each.words) for each in traps), default=1) - 1
        link.tails[direction] = b"" if trap is not None or longest == 0 else seen[-longest:]
        if trap is None:
            return False
        if trap.action is Action.CUT:
            link.reset()
        elif trap.action is Action.ANSWER:
            link.client.write(trap.answer)
        elif trap.action is Action.LOSE:
            link.losing = trap.keep
        else:
            await trap._released.wait()
        return trap.action in (Action.CUT, Action.ANSWER)

    async def _last_words(self, link: _Link, data: bytes, target: asyncio.StreamWriter) -> None:
        if data:
            target.write(data)
            # Sent, and read by the other end: RST throws away what is still in its buffer.
            await asyncio.sleep(0.02)
        link.reset()

    async def _write(self, direction: Direction, data: bytes, target: asyncio.StreamWriter) -> None:
        while data:
            rate = self._rules[direction].rate
            size = len(data) if not rate else max(1, int(rate / 20))
            piece, data = data[:size], data[size:]
            target.write(piece)
            await target.drain()
            self.carried[direction] += len(piece)
            if rate:
                await asyncio.sleep(len(piece) / rate)


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
