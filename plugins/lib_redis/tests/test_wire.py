"""The socket's side of a connection: what is sent in parts arrives whole."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace

from kernel_lib_redis.wire import Wire


def test_parts_that_do_not_fit_into_the_socket_at_once_arrive_in_order() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        theirs.settimeout(20)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        parser = SimpleNamespace(parse_error=Exception)
        wire = Wire(SimpleNamespace(_get_socket=lambda: ours, socket_timeout=20, _parser=parser))
        parts = [b"head", bytes(range(256)) * 4000, b"", b"middle", b"x" * 300_000, b"end"]
        whole = b"".join(parts)
        received = bytearray()

        def read() -> None:
            while len(received) < len(whole) and (chunk := theirs.recv(65536)):
                received.extend(chunk)

        reader = threading.Thread(target=read)
        reader.start()
        wire.send_parts(parts)
        wire.send_parts([b"", b""])
        reader.join(20)
        assert bytes(received) == whole
