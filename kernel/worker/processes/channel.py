"""Datagrams between the engine and its children.

One socket pair is the inbox, read by all children, so that a free child takes the next task; one is the outbox,
written by all. A datagram that does not fit travels as the descriptor of an anonymous file.
On Linux the pairs are `SOCK_SEQPACKET`, whose readers see the end when the engine closes its side; elsewhere, or
with ``KERNEL_WORKER_CHANNEL=dgram``, they are `SOCK_DGRAM`.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from typing import Final

from kernel import errors
from kernel.worker.slots import anonymous_file

INLINE_LIMIT: Final = 60_000
_BUFFER: Final = 1 << 22
# Below malloc's threshold for pages of its own (128 KiB), which would be mapped and faulted in at every call.
_RECEIVE: Final = 61_440
_BY_FILE: Final = b"\x00kernel-file"
_WOULD_BLOCK: Final = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ETOOMANYREFS)
# A peer sends frames of at most this size through a file; a larger one is damage, not data.
_FILE_LIMIT: Final = 1 << 31


class Channel:
    """One end. Several processes and threads may use the same end."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    @classmethod
    def pair(cls, kind: str = "") -> tuple[Channel, Channel]:
        """A writing and a reading end, in that order."""
        if kind not in ("", "seqpacket", "dgram"):
            raise errors.ImproperlyConfigured(f"channel {kind!r} is unknown; 'seqpacket' and 'dgram' are there")
        family = getattr(socket, "SOCK_SEQPACKET", None) if kind != "dgram" else None
        writer, reader = socket.socketpair(socket.AF_UNIX, family or socket.SOCK_DGRAM)
        for end in (writer, reader):
            end.set_inheritable(True)
            _grow(end, socket.SO_SNDBUF)
            _grow(end, socket.SO_RCVBUF)
        return cls(writer), cls(reader)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        return cls(socket.socket(fileno=fd))

    @property
    def has_end(self) -> bool:
        """Whether a reader notices that the other side was closed."""
        return self.socket.type != socket.SOCK_DGRAM

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, frame: bytes, *, block: bool) -> bool:
        """Send one datagram; False when it would block and may not.

        Raises BrokenPipeError when the other side is gone.
        """
        flags = 0 if block else socket.MSG_DONTWAIT
        try:
            if len(frame) <= INLINE_LIMIT:
                self.socket.send(frame, flags)
            else:
                self._send_file(frame, flags)
        except OSError as exc:
            if exc.errno in _WOULD_BLOCK:
                return False
            raise
        return True

    def _send_file(self, frame: bytes, flags: int) -> None:
        fd = anonymous_file("kernel-frame")
        try:
            view = memoryview(frame)
            while view:
                view = view[os.write(fd, view) :]
            self.socket.sendmsg([_BY_FILE], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))], flags)
        finally:
            os.close(fd)

    def receive(self, *, block: bool) -> bytes | None:
        """The next datagram; None when there is none now, ``b""`` at the end."""
        try:
            frame, rights, _, _ = self.socket.recvmsg(
                _RECEIVE, socket.CMSG_SPACE(4), 0 if block else socket.MSG_DONTWAIT
            )
        except OSError as exc:
            if exc.errno in _WOULD_BLOCK:
                return None
            if exc.errno in (errno.ECONNRESET, errno.ENOTCONN, errno.EBADF):
                return b""
            raise
        if rights:
            return _read_file(int.from_bytes(rights[0][2][:4], "little"))
        return frame

    def close(self) -> None:
        self.socket.close()


def _grow(end: socket.socket, option: int) -> None:
    """Ask for a large buffer: the default holds 167 small datagrams."""
    force = {socket.SO_SNDBUF: 32, socket.SO_RCVBUF: 33}[option]  # SO_SNDBUFFORCE, SO_RCVBUFFORCE on Linux
    for candidate in (force, option):
        try:
            end.setsockopt(socket.SOL_SOCKET, candidate, _BUFFER)
        except OSError:
            continue
        return


def _read_file(fd: int) -> bytes:
    try:
        size = os.fstat(fd).st_size
        if size > _FILE_LIMIT:
            raise errors.InvalidTaskError(f"a frame of {size} bytes between our own processes")
        chunks, at = [], 0
        while at < size:
            chunk = os.pread(fd, size - at, at)
            if not chunk:
                break
            chunks.append(chunk)
            at += len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)
