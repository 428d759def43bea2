"""One connection, spoken to in whole batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import exceptions

from kernel import errors
from kernel_lib_redis.faults import connect_fault, fault, is_away
from kernel_lib_redis.script import Script
from kernel_lib_redis.urls import Target

Command = tuple[object, ...]


class Link:
    """A connected, authenticated connection, for one thread at a time.

    It never reconnects: whoever sees it broken throws it away, and with it all that the server knew of it. Replies
    are bytes, numbers, lists and None. Raises `OperationalError` (`ConnectionLost` when a command may have been
    carried out); `broken` is then True if the connection cannot be used any more.
    """

    def __init__(self, target: Target) -> None:
        self.shown = target.shown
        self.broken = False
        self._connection: Any = target.connection()
        try:
            self._connection.connect()
        except (exceptions.RedisError, OSError) as exc:
            self.close()
            raise connect_fault(exc, self.shown) from exc

    def call(self, *command: object, timeout: float | None = None) -> Any:
        (reply,) = self.pipeline([command], timeout=timeout)
        if isinstance(reply, BaseException):
            raise fault(reply, self.shown) from reply
        return reply

    def script(self, script: Script, *args: object) -> Any:
        """Run a script; one that the server has forgotten is sent again."""
        (reply,) = self.pipeline([script.by_digest(*args)])
        if isinstance(reply, exceptions.NoScriptError):
            (reply,) = self.pipeline([script.by_text(*args)])
        if isinstance(reply, BaseException):
            raise fault(reply, self.shown) from reply
        return reply

    def scripts(self, script: Script, batches: Sequence[Sequence[object]]) -> list[Any]:
        """The same script many times in one round trip; errors are returned in their place."""
        replies = self.pipeline([script.by_digest(*args) for args in batches])
        again = [at for at, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)]
        if again:
            repeated = self.pipeline([script.by_text(*batches[at]) for at in again])
            for at, reply in zip(again, repeated, strict=True):
                replies[at] = reply
        return replies

    def pipeline(self, commands: Sequence[Command], *, timeout: float | None = None) -> list[Any]:
        """One round trip; an error that the server replied stands in the place of its answer."""
        self.send(commands)
        return [self._answer(timeout) for _ in commands]

    def _answer(self, timeout: float | None) -> Any:
        try:
            return self.receive(timeout)
        except exceptions.ResponseError as exc:
            if is_away(exc):
                self.broken = True
            return exc

    def send(self, commands: Sequence[Command]) -> None:
        """Without waiting for answers."""
        try:
            connection = self._connection
            if len(commands) == 1:
                connection.send_packed_command(connection.pack_command(*commands[0]), check_health=False)
            else:
                connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as exc:
            self.close()
            raise fault(exc, self.shown) from exc

    def receive(self, timeout: float | None = None) -> Any:
        """The next answer. Raises redis-py's `ResponseError` for one that is an error."""
        try:
            if timeout is None:
                return self._connection.read_response(disable_decoding=True)
            return self._connection.read_response(disable_decoding=True, timeout=timeout)
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as exc:
            if isinstance(exc, exceptions.ResponseError):
                raise
            self.close()
            raise fault(exc, self.shown) from exc
        except exceptions.ResponseError:
            raise
        except exceptions.RedisError as exc:
            # What the server sent is no protocol: what follows cannot be trusted either.
            self.close()
            raise fault(exc, self.shown) from exc

    def readable(self) -> bool:
        """Whether something waits to be read, or the connection was closed."""
        try:
            return bool(self._connection.can_read(0))
        except (exceptions.RedisError, OSError):
            return True

    def fileno(self) -> int:
        sock = self._connection._get_socket()
        if sock is None:
            raise errors.OperationalError(f"the connection to {self.shown} is closed")
        return int(sock.fileno())

    def close(self) -> None:
        self.broken = True
        self._connection.disconnect()
