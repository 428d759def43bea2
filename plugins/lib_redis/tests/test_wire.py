"""The socket's side of a connection: what is sent in parts arrives whole."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import redis
from kernel_lib_redis.wire import Wire


def wire_on(sock: socket.socket) -> Wire:
    parser = SimpleNamespace(parse_error=Exception)
    return Wire(SimpleNamespace(_get_socket=lambda: sock, socket_timeout=20, _parser=parser))


def test_parts_that_do_not_fit_into_the_socket_at_once_arrive_in_order() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        theirs.settimeout(20)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        wire = wire_on(ours)
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


def test_a_reply_that_is_looked_for_comes_whenever_it_comes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        wire = wire_on(ours)
        for number in range(300):
            theirs.sendall(b":%d\r\n" % number)
            assert wire.receive_soon() == number
        for number in range(20):
            # Later than anybody looks, and in two parts.
            sender = threading.Thread(target=send_late, args=(theirs, (b":%d" % number, b"\r\n+next\r\n")))
            sender.start()
            assert wire.receive_soon() == number
            assert wire.receive_soon() == b"next"
            sender.join(20)


def send_late(sock: socket.socket, parts: Sequence[bytes]) -> None:
    for part in parts:
        time.sleep(0.005)
        sock.sendall(part)


def test_a_connection_that_ends_while_it_is_looked_at_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(20)
        theirs.close()
        with pytest.raises(redis.ConnectionError):
            wire_on(ours).receive_soon()


def test_what_has_come_is_taken_without_waiting_for_the_rest() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        wire = wire_on(ours)
        theirs.sendall(b":1\r\n-ERR no\r\n$5\r\nhel")
        one, error = wire.drain()
        assert one == 1
        assert isinstance(error, Exception)
        theirs.sendall(b"lo\r\n")
        assert wire.drain() == [b"hello"]
        # Just as much as is read at once, and nothing behind it.
        theirs.sendall(b"+%b\r\n" % (b"x" * (64 * 1024 - 3)))
        assert wire.drain() == [b"x" * (64 * 1024 - 3)]
        theirs.close()
        with pytest.raises(redis.ConnectionError):
            wire.drain()
