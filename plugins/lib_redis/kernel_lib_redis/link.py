"""One connection, spoken to in whole batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions

from kernel import errors
from kernel_lib_redis.faults import connect_fault, fault, is_away
from kernel_lib_redis.script import Script
from kernel_lib_redis.target import Target
from kernel_lib_redis.wire import Wire

Command = tuple[object, ...]


class Link:
    """A connected, authenticated connection, for one thread at a time.

    It never reconnects: whoever sees it broken throws it away, and with it all that the server knew of it. Replies
    are bytes, numbers, lists and None. Raises `OperationalError` (`ConnectionLost` when a command may have been
    carried out); `broken` is then True if the connection cannot be used any more. `keys` are what scripts have to
    declare on it, with their number.
    """

    def __init__(self, target: Target) -> None:
        self.shown = target.shown
        self.keys: Sequence[object] = (1, target.guard) if target.guard else (0,)
        self.broken = False
        self._connection: Any = target.connection()
        try:
            self._connection.connect()
            self._wire = Wire(self._connection)
        except (exceptions.RedisError, OSError) as exc:
            self.close()
            raise connect_fault(exc, self.shown, tls=target.tls) from exc

    def call(self, *command: object, timeout: float | None = None) -> Any:
        (reply,) = self.pipeline([command], timeout=timeout)
        if isinstance(reply, BaseException):
            raise fault(reply, self.shown) from reply
        return reply

    def script(self, script: Script, *args: object, meanwhile: Callable[[], None] | None = None) -> Any:
        """Run a script; one that the server has forgotten is sent again. With `meanwhile`, which is called while the
        server is at work, the answer is looked for before it is waited for."""
        (reply,) = self.pipeline([script.by_digest(self.keys, args)], meanwhile=meanwhile)
        if isinstance(reply, exceptions.NoScriptError):
            (reply,) = self.pipeline([script.by_text(self.keys, args)])
        if isinstance(reply, BaseException):
            raise fault(reply, self.shown) from reply
        return reply

    def scripts(self, script: Script, batches: Sequence[Sequence[object]]) -> list[Any]:
        """The same script many times in one round trip; errors are returned in their place."""
        replies = self.pipeline([script.by_digest(self.keys, args) for args in batches])
        again = [at for at, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]
        if again:
            repeated = self.pipeline([script.by_text(self.keys, batches[at]) for at in again])
            for at, reply in zip(again, repeated, strict=True):
                replies[at] = reply
        return replies

    def pipeline(
        self,
        commands: Sequence[Command],
        *,
        timeout: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Any]:
        """One round trip; an error that the server replied stands in the place of its answer."""
        self.send(commands)
        if meanwhile is not None:
            meanwhile()
        return [self._answer(timeout, soon=meanwhile is not None) for _ in commands]

    def _answer(self, timeout: float | None, *, soon: bool) -> Any:
        try:
            return self.receive_soon() if soon else self.receive(timeout)
        except exceptions.ResponseError as exc:
            return self.refused(exc)

    def refused(self, exc: exceptions.ResponseError) -> exceptions.ResponseError:
        """The same error; one of a server that is not ours any more ends the link."""
        if is_away(exc):
            self.broken = True
        return exc

    def send(self, commands: Sequence[Command]) -> None:
        """Without waiting for answers."""
        pack = self._connection.pack_command
        self.send_packed(b"".join([part for command in commands for part in pack(*command)]))

    def send_packed(self, data: bytes) -> None:
        """Commands in the words of the protocol, without waiting for answers."""
        try:
            self._wire.send(data)
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as exc:
            self.close()
            raise fault(exc, self.shown) from exc

    def send_parts(self, parts: Sequence[bytes]) -> None:
        """`send_packed` of what need not be copied together: worth it for long words."""
        try:
            self._wire.send_parts(parts)
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as exc:
            self.close()
            raise fault(exc, self.shown) from exc

    def receive(self, timeout: float | None = None) -> Any:
        """The next answer. Raises redis-py's `ResponseError` for one that is an error."""
        return self._received(lambda: self._wire.receive(timeout))

    def receive_soon(self) -> Any:
        """`receive` of an answer that mostly comes at once."""
        return self._received(self._wire.receive_soon)

    def _received(self, receive: Callable[[], Any]) -> Any:
        try:
            return receive()
        except exceptions.ResponseError:
            raise
        except (exceptions.RedisError, OSError) as exc:
            # What is no protocol, too: what follows cannot be trusted either.
            self.close()
            raise fault(exc, self.shown) from exc

    def drain(self) -> list[Any]:
        """The answers that have come, errors among them, where the connection is readable or something is `pending`:
        without waiting for the rest."""
        try:
            return self._wire.drain()
        except (exceptions.RedisError, OSError) as exc:
            self.close()
            raise fault(exc, self.shown) from exc

    def pending(self) -> bool:
        """Whether something lies here of which the socket tells no more."""
        return self._wire.pending()

    def readable(self) -> bool:
        """Whether something waits to be read, or the connection was closed."""
        try:
            return self._wire.readable()
        except (exceptions.RedisError, OSError):
            return True

    def fileno(self) -> int:
        number = self._wire.fileno()
        if number < 0:
            raise errors.OperationalError(f"the connection to {self.shown} is closed")
        return number

    def close(self) -> None:
        self.broken = True
        self._connection.disconnect()
