"""One connection, opened by py-amqp and from then on spoken to in frames, many at a time."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Final

import amqp

from kernel import errors
from kernel_lib_amqp import frames
from kernel_lib_amqp.faults import Blocked, ChannelClosed, ConnectionLost, broke, connect_fault
from kernel_lib_amqp.frames import Frame, Parser
from kernel_lib_amqp.urls import Target

_AT_ONCE: Final = 256 * 1024
_code = struct.Struct(">H").unpack_from


class Wire:
    """A connected connection that never reconnects: whoever sees it broken throws it away.

    `send` may be called from any thread; what reads (`read`, `call`) from one thread at a time. What breaks the
    connection raises `ConnectionLost`, and everything after it too.
    """

    def __init__(
        self,
        target: Target,
        *,
        timeout: float,
        heartbeat: float = 0,
        name: str = "",
        login_method: str | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        self.shown = target.shown
        self.timeout = timeout
        self.blocked = ""
        """Why the server takes no messages now; empty when it does."""
        self.lost: ConnectionLost | None = None
        self._sending = threading.Lock()
        self._closed_channels: dict[int, ChannelClosed] = {}
        self._waiting: list[Frame] = []
        opened = _open(target, timeout, heartbeat, {"connection_name": name, **(properties or {})}, login_method)
        self.heartbeat = float(opened.heartbeat or 0)
        self._longest_silence = self.heartbeat * 2 + 0.5
        self.frame_max = int(opened.frame_max)
        self.server_properties: Mapping[str, Any] = opened.server_properties or {}
        self._origin = opened
        self._sock: socket.socket = opened.transport.sock
        self._tls = isinstance(self._sock, ssl.SSLSocket)
        self._parser = Parser(self.frame_max, bytes(opened.transport._read_buffer))
        self._sock.setblocking(False)
        self._bell_out, self._bell = os.pipe()
        for end in (self._bell, self._bell_out):
            os.set_blocking(end, False)
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(self._bell_out, select.POLLIN)
        self.sent_at = self.heard_at = time.monotonic()

    # --- writing ------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """All of it, or `ConnectionLost` when the server takes nothing for as long as the timeout."""
        with self._sending:
            self._send(data)

    def _send(self, data: bytes) -> None:
        if self.lost is not None:
            raise self.lost
        try:
            sent = self._some(data)
            if sent < len(data):
                self._rest(memoryview(data)[sent:])
        except (OSError, ValueError) as exc:
            raise self._break(broke(exc, self.shown)) from exc
        self.sent_at = time.monotonic()

    def _some(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0

    def _rest(self, view: memoryview) -> None:
        deadline = time.monotonic() + self.timeout
        writable = select.poll()
        writable.register(self._sock, select.POLLOUT)
        while view:
            if not writable.poll(max(0.0, deadline - time.monotonic()) * 1000):
                why = f"it takes no messages: {self.blocked}" if self.blocked else "it takes nothing"
                raise TimeoutError(f"{why} (for {self.timeout:g} s)")
            sent = self._some(view)
            if sent:
                view = view[sent:]
                deadline = time.monotonic() + self.timeout

    def beat(self) -> None:
        """Send a heartbeat when one is due. Never waits: with somebody writing none is needed."""
        if not self.heartbeat or time.monotonic() - self.sent_at < self.heartbeat / 2 - 0.01:
            return
        if self._sending.acquire(blocking=False):
            try:
                if self.lost is None:
                    self._send(frames.HEARTBEAT)
            finally:
                self._sending.release()

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self, timeout: float) -> list[Frame]:
        """What came in, after at most `timeout` seconds; empty when nothing did or `wake` was called.

        A channel that the server closed is answered, and shows as a frame of CHANNEL_CLOSE.
        """
        if self._waiting:
            found, self._waiting = self._waiting, []
            return found
        return self._read(timeout)

    def _read(self, timeout: float) -> list[Frame]:
        if self.lost is not None:
            raise self.lost
        end = time.monotonic() + timeout
        while True:
            found = self._received()
            if found is not None:
                if found:
                    return found
                continue  # heartbeats, or a part of a frame
            left = end - time.monotonic()
            if left <= 0:
                self._check_silence()
                return []
            if self._rang(self._wait(left)):
                return []

    def _wait(self, seconds: float) -> list[tuple[int, int]]:
        if self.heartbeat:
            seconds = max(0.0, min(seconds, self.heard_at + self._longest_silence - time.monotonic()))
        try:
            ready = self._poll.poll(seconds * 1000 + 0.5)
        except (OSError, ValueError) as exc:
            raise self._break(broke(exc, self.shown)) from exc
        if not ready:
            self._check_silence()
        return ready

    def _rang(self, ready: list[tuple[int, int]]) -> bool:
        for fd, _ in ready:
            if fd == self._bell_out:
                with suppress(BlockingIOError):
                    os.read(self._bell_out, 4096)
                return True
        return False

    def _check_silence(self) -> None:
        """A server that sends no heartbeats is gone, whatever TCP thinks."""
        silent = time.monotonic() - self.heard_at
        # What has come meanwhile is for whoever reads: taken here it would be lost.
        if self.heartbeat and silent >= self._longest_silence and not self._poll.poll(0):
            raise self._break(broke(TimeoutError(f"no heartbeat for {silent:.1f} s"), self.shown))

    def _received(self) -> list[Frame] | None:
        """Frames that are there already; None when nothing is to be read."""
        try:
            data = self._sock.recv(_AT_ONCE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (OSError, ValueError) as exc:
            raise self._break(broke(exc, self.shown)) from exc
        if not data:
            raise self._break(broke(ConnectionResetError("the server closed it"), self.shown))
        self.heard_at = time.monotonic()
        try:
            found = self._parser.feed(data)
        except ConnectionLost as exc:
            raise self._break(broke(exc, self.shown)) from exc
        if any(frame[0] == 0 or frame[1] == frames.CHANNEL_CLOSE for frame in found):
            found = [frame for frame in found if not self._own(frame)]
        return found

    def _own(self, frame: Frame) -> bool:
        """See to what is about the connection; whether that was all."""
        channel, method, args, _, _ = frame
        if channel == 0:
            if method == frames.CONNECTION_CLOSE:
                code, (text, _) = _code(args)[0], frames.read_short(args, 2)
                with suppress(errors.OperationalError):
                    self.send(frames.method(0, frames.CONNECTION_CLOSE_OK))
                raise self._break(ConnectionLost(f"{self.shown} closed the connection: {text} ({code})"))
            if method == frames.CONNECTION_BLOCKED:
                self.blocked = frames.read_short(args, 0)[0] or "no reason given"
            elif method == frames.CONNECTION_UNBLOCKED:
                self.blocked = ""
            return True
        if method != frames.CHANNEL_CLOSE:
            return False
        code, (text, _) = _code(args)[0], frames.read_short(args, 2)
        self._closed_channels[channel] = ChannelClosed(f"{self.shown}: {text} ({code})", channel=channel, code=code)
        self.send(frames.method(channel, frames.CHANNEL_CLOSE_OK))
        return False

    def wake(self) -> None:
        """End a waiting `read` at once, or the next one. From any thread, and from a signal handler."""
        with suppress(OSError):
            os.write(self._bell, b"\0")

    # --- asking -------------------------------------------------------------------------------------------------

    def call(
        self, channel: int, method: int, args: bytes, replies: Collection[int], timeout: float | None = None
    ) -> Frame:
        """Send a method and wait for the answer; other frames are kept for `read`.

        Raises `ChannelClosed` when the server closes the channel instead.
        """
        self.send(frames.method(channel, method, args))
        return self.answer(channel, replies, timeout)

    def answer(self, channel: int, replies: Collection[int], timeout: float | None = None) -> Frame:
        """The next frame of one of these methods on this channel."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        at = 0
        while True:
            for position in range(at, len(self._waiting)):
                found = self._waiting[position]
                if found[0] == channel and (found[1] in replies or found[1] == frames.CHANNEL_CLOSE):
                    del self._waiting[position]
                    self.check(channel)
                    return found
            at = len(self._waiting)
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._break(broke(TimeoutError(f"no answer within {self.timeout:g} s"), self.shown))
            self._waiting += self._read(left)

    def open_channel(self, channel: int) -> None:
        self._closed_channels.pop(channel, None)
        self.call(channel, frames.CHANNEL_OPEN, b"\x00", (frames.CHANNEL_OPEN_OK,))

    def close_channel(self, channel: int) -> None:
        """What is unsettled on it goes back to its queue, and has when this returns."""
        if channel in self._closed_channels:
            return
        self._closed_channels[channel] = ChannelClosed(f"channel {channel} is closed", channel=channel, code=200)
        self.send(frames.method(channel, frames.CHANNEL_CLOSE, b"\x00\xc8\x00\x00\x00\x00\x00"))
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            # What else came on it has gone back with the rest.
            found = self._waiting + self._read(deadline - time.monotonic())
            over = any(f[0] == channel and f[1] in (frames.CHANNEL_CLOSE_OK, frames.CHANNEL_CLOSE) for f in found)
            self._waiting = [frame for frame in found if frame[0] != channel]
            if over:
                return

    def check(self, channel: int) -> None:
        """Raises `ChannelClosed` when the server has closed it."""
        fault = self._closed_channels.get(channel)
        if fault is not None:
            raise ChannelClosed(str(fault), channel=channel, code=fault.code)

    def take(self, wait: float = 0.0) -> None:
        """See to what has come in without handing it out: `blocked`, `lost` and `check` are as new as can be."""
        self._waiting += self._read(wait)

    def refuse_blocked(self, timeout: float) -> None:
        """Wait for a blocked server; `Blocked` when it stays so for `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.blocked:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Blocked(
                    f"{self.shown} takes no messages: {self.blocked}; give it memory or disk, or work queues off"
                )
            self.take(left)

    # --- the end ------------------------------------------------------------------------------------------------

    def _break(self, fault: ConnectionLost) -> ConnectionLost:
        if self.lost is None:
            self.lost = fault
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        return self.lost

    def sever(self, why: str) -> None:
        """Break the connection from any thread: the server takes back what was not settled."""
        self._break(broke(ConnectionResetError(why), self.shown))
        self.wake()

    def close(self) -> None:
        """Say goodbye where that can be done at once, and release everything. By the thread that reads."""
        if self.lost is None:
            with suppress(errors.KernelError):
                self.send(frames.method(0, frames.CONNECTION_CLOSE, b"\x00\xc8\x00\x00\x00\x00\x00"))
                self._await_goodbye()
        self._break(broke(ConnectionResetError("we closed it"), self.shown))
        with self._sending:
            with suppress(OSError):
                self._sock.close()
            for end in (self._bell, self._bell_out):
                with suppress(OSError):
                    os.close(end)
            self._bell = self._bell_out = -1
        self._origin.transport.sock = None

    def _await_goodbye(self) -> None:
        """Until the server has answered: everything that was written has been seen to by then."""
        deadline = time.monotonic() + min(1.0, self.timeout)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            if not poll.poll(left * 1000):
                return
            with suppress(BlockingIOError, ssl.SSLWantReadError):
                try:
                    data = self._sock.recv(_AT_ONCE)
                except OSError as exc:
                    if isinstance(exc, BlockingIOError | ssl.SSLWantReadError):
                        raise
                    return
                # It answers when it has seen to everything, and hangs up a second later.
                if not data or any(frame[1] == frames.CONNECTION_CLOSE_OK for frame in self._parser.feed(data)):
                    return


def _open(
    target: Target, timeout: float, heartbeat: float, properties: Mapping[str, Any], login_method: str | None
) -> Any:
    """A connection of py-amqp's after the handshake."""
    limit = max(0.1, timeout)
    connection = amqp.Connection(
        host=f"{target.host}:{target.port}",
        userid=target.user,
        password=target.password,
        login_method=login_method or "PLAIN",
        virtual_host=target.vhost,
        ssl=dict(target.tls) if target.tls is not None else False,
        connect_timeout=limit,
        read_timeout=limit,
        write_timeout=limit,
        heartbeat=heartbeat,
        client_properties={name: value for name, value in properties.items() if value},
    )
    try:
        connection.connect()
    except BaseException as exc:
        with suppress(Exception):
            connection.collect()
        if isinstance(exc, Exception):
            raise connect_fault(exc, target.shown) from exc
        raise
    return connection
