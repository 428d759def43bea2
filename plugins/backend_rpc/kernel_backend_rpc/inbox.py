"""The reply queue of a process, and the thread that reads it.

The queue is on the server before the first call leaves. It outlives a broken connection, so that replies wait in it
until the next one; only a restart of the server, somebody who deletes it, or an absence of hours ends it, and then
whoever waits is told that the reply was lost. It lives and dies with the messages in it: a queue that is found missing
means that messages may be, and one that is there has all of them.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from kernel_lib_amqp import AmqpServer, ChannelClosed, Wire, frames, properties
from kernel_lib_amqp.channel import Channel
from kernel_lib_amqp.faults import NOT_FOUND
from kernel_lib_amqp.frames import Frame

from kernel import errors
from kernel_backend_rpc.letters import Letter
from kernel_backend_rpc.loan import Loan
from kernel_backend_rpc.shelf import Shelf

_log = logging.getLogger("kernel.rpc")

_PREFETCH: Final = 1000
_TAG: Final = "replies"
_DAY: Final = 86400.0
_SHORTEST_ABSENCE: Final = 60.0
_LONGEST_PAUSE: Final = 2.0
_TELL_EVERY: Final = 60.0
_MOST_OWED: Final = 64
_MOST_BYTES_OWED: Final = 1024 * 1024
_tag = struct.Struct(">Q").unpack_from


class _QueueLost(Exception):
    """The reply queue is not there any more; the text says how that came about."""


class Inbox:
    """Started by the first call or the first wait; reads replies once anybody asks for one.

    `expires` is `result_expires`: unread replies are deleted after it. Usable from any thread.
    """

    def __init__(
        self, server: AmqpServer, shelf: Shelf, *, queue: str, expires: float | None, persistent: bool
    ) -> None:
        self.queue = queue
        self._server = server
        self._shelf = shelf
        self._durable = persistent
        # How long a queue is kept that nobody reads: what its process left behind when it was killed.
        self._absence = max(_SHORTEST_ABSENCE, min(expires or _DAY, _DAY))
        self._expires = expires
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wire: Wire | None = None
        self._ready = self._was_ready = False
        self._attempts = 0
        self._fault: errors.KernelError | None = None
        self._tell_at = 0.0
        self._wanted = False
        self._consuming = False
        self._generation = 0
        self._declared = False
        # Looks that were asked for, those that a thread is at work on, and those that are over.
        self._asked = self._looked = 0
        self.loan = Loan(self.nudge)
        # Replies that the server has not been told to delete, since somebody waits for the last of them just now.
        self._last = self._owed = self._bytes_owed = 0

    # --- for callers --------------------------------------------------------------------------------------------

    def ensure(self) -> None:
        """Return once replies can come in. Raises what a connection that cannot be made raises."""
        if self._ready:
            return
        deadline = time.monotonic() + self._server.timeout
        with self._changed:
            self._start()
            attempts = self._attempts
            while not self._ready:
                if self._attempts > attempts and self._fault is not None:
                    raise self._fault
                if self._closed:
                    raise errors.OperationalError("the result backend is closed")
                if not self._changed.wait(deadline - time.monotonic()):
                    raise self._fault or errors.OperationalError(
                        f"{self._server.shown} did not make a reply queue within {self._server.timeout:g} s"
                    )

    def want(self) -> None:
        """Read replies from now on."""
        with self._changed:
            if self._wanted and self._thread is not None:
                return
            self._wanted = True
            self._start()
            self._recall()

    def look(self) -> None:
        """Return once everything is on the shelf that was in the queue at the time of the call. Raises
        `OperationalError` within the timeout."""
        deadline = time.monotonic() + self._server.timeout
        self.want()
        with self._changed:
            self._asked += 1
            mine, attempts = self._asked, self._attempts
            self._recall()
            while self._looked < mine:
                if self._attempts > attempts and self._fault is not None:
                    raise self._fault
                if self._closed:
                    raise errors.OperationalError("the result backend is closed")
                if not self._changed.wait(deadline - time.monotonic()):
                    raise self._fault or errors.OperationalError(f"{self._server.shown} does not answer")

    def anew(self) -> Inbox:
        """One that was not used yet, for the same queue."""
        return Inbox(self._server, self._shelf, queue=self.queue, expires=self._expires, persistent=self._durable)

    @property
    def started(self) -> bool:
        return self._thread is not None

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="kernel-rpc-replies", daemon=True)
            self._thread.start()

    def _recall(self) -> None:
        """Have the thread look at what is asked of it."""
        self.loan.recall()
        self.nudge()

    def nudge(self) -> None:
        """End a wait for the server, whoever waits."""
        wire = self._wire
        if wire is not None:
            wire.wake()

    def sever(self, why: str) -> None:
        """Break the connection: another one is made."""
        wire = self._wire
        if wire is not None:
            wire.sever(why)
        self.loan.recall()

    def close(self) -> None:
        """Take the queue away: nobody else could read it."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
            self._recall()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._server.timeout + 1.0)

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.05
        while not self._closed:
            started = time.monotonic()
            try:
                self._serve()
            except errors.KernelError as exc:
                fault = exc
            except Exception as exc:
                _log.exception("reading replies failed; it goes on")
                fault = errors.OperationalError(f"reading replies failed: {exc}")
            else:
                return
            if time.monotonic() - started > _LONGEST_PAUSE:
                pause = 0.05
            with self._changed:
                self._fault = fault
                # One that broke is made again at once, and whoever waits for something knows nothing of it.
                self._attempts += not self._was_ready
                self._was_ready = False
                self._changed.notify_all()
                if self._closed:
                    return
                self._tell(fault)
                self._changed.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _tell(self, fault: errors.KernelError) -> None:
        """When it begins, and then once a minute: a server may be away for long."""
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + _TELL_EVERY
            _log.warning("no replies for now: %s; it is tried again until the server is back", fault)
        else:
            _log.debug("still no replies: %s", fault)

    def _serve(self) -> None:
        """Until the end, or a broken connection."""
        wire = self._server.connect(role="results")
        with self._changed:
            self._wire = wire
        try:
            channel = Channel(wire, 1)
            while not self._closed:
                try:
                    self._establish(channel)
                    self._read(wire, channel)
                except _QueueLost as exc:
                    self._mourn(str(exc))
                    channel = self._anew(channel)
                except ChannelClosed as exc:
                    if exc.code != NOT_FOUND:
                        raise
                    self._mourn(str(exc))
                    channel = self._anew(channel)
            with suppress(errors.KernelError):
                channel.delete_queue(self.queue)
        finally:
            with self._changed:
                self._wire = None
                self._was_ready |= self._ready
                self._ready = self._consuming = False
            wire.close()

    def _anew(self, channel: Channel) -> Channel:
        self._ready = self._consuming = False
        with suppress(errors.KernelError):
            channel.close()
        return Channel(channel.wire, channel.number)

    def _mourn(self, why: str) -> None:
        self._declared = False
        text = f"the reply queue {self.queue} was gone ({why})"
        told = self._shelf.lose(text)
        _log.warning("%s; %d waiting for a result are told so, and it is made again", text, told)

    def _establish(self, channel: Channel) -> None:
        """The queue is there, and read if anybody wants replies."""
        if self._declared:
            # Raises NOT_FOUND if it has gone in the meantime.
            channel.declare_queue(self.queue, passive=True)
        else:
            self._declare(channel)
        with self._changed:
            self._declared = self._ready = True
            self._fault = None
            self._changed.notify_all()
        if self._tell_at:
            self._tell_at = 0.0
            _log.warning("replies from %s come again", self._server.shown)

    def _declare(self, channel: Channel) -> None:
        arguments: dict[str, Any] = {"x-expires": round(self._absence * 1000), "x-queue-type": "classic"}
        if self._expires is not None:
            arguments["x-message-ttl"] = max(1, round(self._expires * 1000))
        try:
            channel.declare_queue(self.queue, durable=self._durable, arguments=arguments)
        except errors.OperationalError as exc:
            if "transient_nonexcl_queues" in str(exc):
                # A server may refuse queues that end with it. One that outlives it will do: all that is missed then
                # is a word about the messages that were lost with a server.
                self._durable = True
            raise

    def _read(self, wire: Wire, channel: Channel) -> None:
        self._consuming = False
        redeclare = time.monotonic() + self._absence / 3

        def read(seconds: float) -> None:
            self._handle(wire.read(seconds), channel)
            if self._owed >= _MOST_OWED or self._bytes_owed >= _MOST_BYTES_OWED:
                self._settle(channel)

        # A call to wake the connection ends whatever waits on it, so all reasons for one are looked at after each
        # question to the server, and right before a read.
        while not self._closed:
            if self._wanted and not self._consuming:
                self._consume(channel)
            elif self._consuming and self._asked > self._looked:
                self._look(wire, channel)
            elif time.monotonic() >= redeclare:
                # Being asked for is what keeps a queue that nobody reads yet.
                channel.declare_queue(self.queue, passive=True)
                redeclare = time.monotonic() + self._absence / 3
            elif self._consuming and self.loan.wanted:
                self.loan.lend(read, until=redeclare)
                self._settle(channel)
            else:
                self._handle(wire.read(redeclare - time.monotonic()), channel)
                self._settle(channel)

    def _consume(self, channel: Channel) -> None:
        # Before a broken connection whose end the server has not noticed.
        self._generation += 1
        self._owed = self._bytes_owed = 0
        channel.qos(_PREFETCH)
        channel.consume(self.queue, _TAG, arguments={"x-priority": self._generation})
        self._consuming = True

    def _look(self, wire: Wire, channel: Channel) -> None:
        """The queue answers after it has handed all it has to the channel, and the channel after it has sent that."""
        asked = self._asked
        while True:
            _, waiting, _ = channel.declare_queue(self.queue, passive=True)
            channel.qos(_PREFETCH)
            self._handle(wire.read(0), channel)
            self._settle(channel)
            if not waiting or self._closed:
                break
        with self._changed:
            self._looked = asked
            self._changed.notify_all()

    def _handle(self, found: Sequence[Frame], channel: Channel) -> None:
        replies: list[tuple[str, Letter]] = []
        gone = ""
        for _, method, args, head, body in found:
            if method == frames.BASIC_DELIVER:
                self._last = _tag(args, 1 + args[0])[0]
                self._owed += 1
                self._bytes_owed += len(body)
                reply = _reply(head, body)
                if reply is not None:
                    replies.append(reply)
            elif method == frames.BASIC_CANCEL:
                gone = "it was deleted"
            elif method == frames.CHANNEL_CLOSE:
                channel.wire.check(channel.number)
        if replies:
            self._shelf.take(replies)
        if gone:
            raise _QueueLost(gone)

    def _settle(self, channel: Channel) -> None:
        """What is on the shelf need not be kept by the server."""
        if self._owed:
            self._owed = self._bytes_owed = 0
            channel.ack(self._last, multiple=True)


def _reply(head: bytes, body: bytes) -> tuple[str, Letter] | None:
    """The call that a message answers; None for what is no answer."""
    try:
        kind, encoding, _, flags, at = properties.split(head)
        task_id = properties.load(head, flags, at).get("correlation_id")
    except errors.KernelError:
        return None
    return (task_id, Letter(body, kind, encoding)) if task_id else None
