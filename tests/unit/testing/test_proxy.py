"""The fault proxy, between a server that echoes and plain sockets."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from kernel.testing.proxy import ANSWER, CUT, DOWN, HOLD, LOSE, UP, Proxy

PATIENCE = 10.0


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.server.seen.append(data)  # type: ignore[attr-defined]
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Cut connections are what this is for."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Echo) as server:
        server.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join(PATIENCE)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", server.server_address[1]) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as client:
        say(client, b"hello")
        yield client


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)


def say(client: socket.socket, words: bytes) -> None:
    client.sendall(words)
    assert receive(client, len(words)) == words


def receive(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (data := client.recv(count - len(got))):
        got += data
    return got


def is_silent(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        return client.recv(1) is None
    except TimeoutError:
        return True
    finally:
        client.settimeout(PATIENCE)


def is_reset(client: socket.socket) -> bool:
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def arrived(server: Server, words: bytes) -> bool:
    deadline = time.monotonic() + PATIENCE
    while words not in b"".join(server.seen) and time.monotonic() < deadline:  # type: ignore[attr-defined]
        time.sleep(0.01)
    return words in b"".join(server.seen)  # type: ignore[attr-defined]


def test_it_carries_much_both_ways(client: socket.socket, proxy: Proxy) -> None:
    words = bytes(range(256)) * 2000
    sender = threading.Thread(target=client.sendall, args=(words,))
    sender.start()
    assert receive(client, len(words)) == words
    sender.join(PATIENCE)
    assert proxy.connections == proxy.accepted == 1
    assert proxy.carried == {UP: len(words) + 5, DOWN: len(words) + 5}


def test_the_end_of_one_side_reaches_the_other(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def test_a_url_leads_through_it(proxy: Proxy) -> None:
    assert proxy.url("redis://u:p@server:6379/1?x=2") == f"redis://u:p@127.0.0.1:{proxy.port}/1?x=2"
    assert proxy.url("amqp://server//") == f"amqp://127.0.0.1:{proxy.port}//"


def test_cut_resets_or_ends_and_the_next_connection_works(client: socket.socket, proxy: Proxy) -> None:
    assert proxy.cut() == 1
    assert is_reset(client)
    with connect(proxy) as again:
        say(again, b"again")
        proxy.cut(fin=True)
        assert again.recv(1) == b""
    assert proxy.accepted == 2


def test_refuse_turns_new_connections_away_until_healed(client: socket.socket, proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    say(client, b"old ones stay")
    proxy.heal()
    with connect(proxy) as again:
        say(again, b"again")


def test_what_is_stalled_comes_later(client: socket.socket, proxy: Proxy, server: Server) -> None:
    proxy.stall(DOWN)
    client.sendall(b"first")
    assert arrived(server, b"first")
    assert is_silent(client)
    proxy.heal()
    assert receive(client, 5) == b"first"
    proxy.stall(UP)
    client.sendall(b"second")
    assert is_silent(client)
    assert b"second" not in b"".join(server.seen)  # type: ignore[attr-defined]
    proxy.heal()
    assert receive(client, 6) == b"second"


def test_behind_swallowed_bytes_nothing_goes_on(client: socket.socket, proxy: Proxy, server: Server) -> None:
    proxy.swallow()
    client.sendall(b"gone")
    assert is_silent(client)
    with connect(proxy) as other:
        assert is_silent(other)
        proxy.heal()
        assert is_reset(client)
        say(other, b"had lost nothing")
    assert b"gone" not in b"".join(server.seen)  # type: ignore[attr-defined]


def test_a_half_open_connection_is_silent_until_healed(client: socket.socket, proxy: Proxy) -> None:
    assert proxy.half_open() == 1
    client.sendall(b"anybody?")
    assert is_silent(client)
    proxy.heal()
    assert is_reset(client)


def test_answers_are_cut_off(client: socket.socket, proxy: Proxy, server: Server) -> None:
    proxy.cut_after(3)
    client.sendall(b"answer")
    assert receive(client, 3) == b"ans"
    assert is_reset(client)
    assert arrived(server, b"answer")


def test_delay_and_throttle_hold_back_and_lose_nothing(client: socket.socket, proxy: Proxy) -> None:
    proxy.delay(0.2, DOWN)
    client.sendall(b"slow")
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(PATIENCE)
    assert receive(client, 4) == b"slow"
    proxy.heal()
    proxy.throttle(10_000, DOWN)
    since = time.monotonic()
    say(client, b"x" * 5000)
    assert time.monotonic() - since > 0.2


def test_a_trap_cuts_before_the_words_arrive(client: socket.socket, proxy: Proxy, server: Server) -> None:
    trap = proxy.trap(b"SECRET", CUT)
    say(client, b"plain")
    client.sendall(b"a SECRET word")
    assert is_reset(client)
    assert trap.wait(0)
    assert b"SECRET" not in b"".join(server.seen)  # type: ignore[attr-defined]
    with connect(proxy) as again:
        say(again, b"SECRET, the second time")
    assert trap.hits == 1


@pytest.mark.parametrize("keep", [0, 4])
def test_a_trap_loses_the_answer(client: socket.socket, proxy: Proxy, server: Server, keep: int) -> None:
    proxy.trap(b"SECRET", LOSE, keep=keep)
    client.sendall(b"a SECRET word")
    assert receive(client, keep) == b"a SECRET word"[:keep]
    assert is_reset(client)
    assert arrived(server, b"SECRET")


def test_a_trap_finds_words_in_two_pieces_and_holds_them(client: socket.socket, proxy: Proxy) -> None:
    trap = proxy.trap(b"SECRET", HOLD)
    say(client, b"SEC")
    client.sendall(b"RET")
    assert trap.wait(PATIENCE)
    assert is_silent(client)
    trap.release()
    assert receive(client, 3) == b"RET"


def test_a_trap_answers_itself(client: socket.socket, proxy: Proxy, server: Server) -> None:
    proxy.trap(b"SECRET", ANSWER, times=2, answer=b"-LOADING later\r\n")
    for _ in range(2):
        client.sendall(b"a SECRET word")
        assert receive(client, 16) == b"-LOADING later\r\n"
    say(client, b"SECRET")
    assert b"".join(server.seen) == b"helloSECRET"  # type: ignore[attr-defined]


def test_a_trap_for_words_of_the_server(client: socket.socket, proxy: Proxy, server: Server) -> None:
    trap = proxy.trap(b"SECRET", HOLD, direction=DOWN)
    client.sendall(b"a SECRET word")
    assert trap.wait(PATIENCE)
    assert arrived(server, b"SECRET")
    assert is_silent(client)
    proxy.heal()
    assert receive(client, 13) == b"a SECRET word"


def test_new_connections_go_where_it_was_moved_to(client: socket.socket, proxy: Proxy, server: Server) -> None:
    with Server(("127.0.0.1", 0), Echo) as other:
        other.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        proxy.move("127.0.0.1", other.server_address[1])
        with connect(proxy) as again:
            say(again, b"moved")
        say(client, b"stayed")
        other.shutdown()
        thread.join(PATIENCE)
        assert b"".join(other.seen) == b"moved"  # type: ignore[attr-defined]
