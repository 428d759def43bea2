"""One connection for what is not done often: declaring, counting, looking."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from kernel_lib_amqp import AmqpServer, ChannelClosed, ConnectionLost
from kernel_lib_amqp.channel import Channel
from kernel_lib_amqp.faults import NOT_FOUND

T = TypeVar("T")


class Admin:
    """A channel that is made when it is needed, and made again when it was lost. Usable from any thread."""

    def __init__(self, server: AmqpServer) -> None:
        self._server = server
        self._lock = threading.RLock()
        self._channel: Channel | None = None
        self._pid = os.getpid()

    @contextmanager
    def channel(self) -> Iterator[Channel]:
        """The channel for the length of the block; what is unsettled when an error ends it goes back."""
        with self._lock:
            channel = self._get()
            try:
                yield channel
            except ChannelClosed:
                raise
            except BaseException:
                self._drop()
                raise

    def _get(self) -> Channel:
        if self._pid != os.getpid():
            # The socket is the parent's too.
            self._pid, self._channel = os.getpid(), None
        if self._channel is not None:
            try:
                self._channel.wire.take()
                self._channel.wire.check(self._channel.number)
            except ChannelClosed:
                self._channel.reopen()
            except ConnectionLost:
                self._drop()
        if self._channel is None:
            wire = self._server.connect(role="admin")
            try:
                self._channel = Channel(wire)
            except BaseException:
                wire.close()
                raise
        return self._channel

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.wire.close()
            self._channel = None

    def run(self, work: Callable[[Channel], T]) -> T:
        """What may be done twice, tried a second time when the connection broke."""
        try:
            with self.channel() as channel:
                return work(channel)
        except ConnectionLost:
            with self.channel() as channel:
                return work(channel)

    def depth(self, queue: str) -> tuple[int, int] | None:
        """Waiting messages and consumers of a queue; None when there is no such queue."""
        try:
            return self.run(lambda channel: channel.declare_queue(queue, passive=True)[1:])
        except ChannelClosed as exc:
            if exc.code == NOT_FOUND:
                return None
            raise

    def doubt(self, why: str) -> None:
        """Its connection may be dead without a word: end it, also under whoever waits for an answer on it."""
        channel = self._channel
        if channel is not None and self._pid == os.getpid():
            channel.wire.sever(why)

    def close(self) -> None:
        with self._lock:
            self._drop()
