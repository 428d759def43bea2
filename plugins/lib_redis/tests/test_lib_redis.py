"""Connections that break, scripts that were forgotten, and listening."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import redis
from kernel_lib_redis import Link, Listener, RedisServer, Script

from kernel import errors
from kernel.testing.servers import RedisProcess, redis_server

ECHO = Script("return ARGV[1]")


@pytest.fixture(scope="module")
def process() -> Iterator[RedisProcess]:
    with redis_server() as process:
        yield process


@pytest.fixture
def server(process: RedisProcess) -> Iterator[RedisServer]:
    server = RedisServer(process.url, timeout=5.0)
    yield server
    server.close()


class TestServer:
    def test_it_opens_and_calls(self, server: RedisServer) -> None:
        server.open()
        server.open()
        assert server.call("ECHO", "žluť") == "žluť".encode()

    def test_nobody_there(self) -> None:
        away = RedisServer("redis://:secret@127.0.0.1:1/0", timeout=1)
        with pytest.raises(errors.OperationalError, match="check that the server runs") as caught:
            away.open()
        assert "secret" not in str(caught.value)

    def test_a_wrong_password_is_no_matter_of_time(self) -> None:
        with redis_server("--requirepass", "right") as locked:
            address = locked.url.removeprefix("redis://")
            for login in (f"redis://:wrong@{address}", f"redis://{address}"):
                with pytest.raises(errors.ImproperlyConfigured, match="login"):
                    RedisServer(login, timeout=5).open()
            RedisServer(f"redis://:right@{address}", timeout=5).open()

    def test_a_script_that_was_forgotten_runs_all_the_same(self, server: RedisServer) -> None:
        assert server.script(ECHO, "1") == b"1"
        server.call("SCRIPT", "FLUSH")
        assert server.script(ECHO, "2") == b"2"
        server.call("SCRIPT", "FLUSH")
        with server.link() as link:
            assert link.scripts(ECHO, [["a"], ["b"]]) == [b"a", b"b"]

    def test_an_error_reply_leaves_the_connection_in_step(self, server: RedisServer) -> None:
        with server.link() as link:
            with pytest.raises(errors.OperationalError, match="refused a command"):
                link.call("INCR")
            replies = link.pipeline([("SET", "text", "x"), ("INCR", "text"), ("ECHO", "next")])
            assert isinstance(replies[1], Exception)
            assert (replies[0], replies[2]) == (b"OK", b"next")

    def test_connections_that_were_cut_are_replaced(self, server: RedisServer, process: RedisProcess) -> None:
        with server.link() as link, server.link() as other:
            assert link.call("PING") == other.call("PING") == b"PONG"
        cut(process)
        assert server.script(ECHO, "back") == b"back"

    def test_a_cut_in_the_middle_is_told(self, server: RedisServer, process: RedisProcess) -> None:
        def use(link: Link) -> None:
            cut(process)
            link.call("PING")

        with pytest.raises(errors.OperationalError, match="broke"), server.link() as link:
            use(link)
        assert server.call("PING") == b"PONG"

    def test_no_answer_in_time(self, process: RedisProcess) -> None:
        hasty = RedisServer(process.url, timeout=0.3)
        with hasty.link() as link:
            assert link.call("PING") == b"PONG"
        process.pause()
        try:
            with pytest.raises(errors.OperationalError, match="broke"), hasty.link() as link:
                link.call("PING")
        finally:
            process.resume()
        assert hasty.call("PING") == b"PONG"
        hasty.close()

    def test_a_replica_takes_no_writes(self) -> None:
        with redis_server() as primary, redis_server("--replicaof", "127.0.0.1", str(primary.port)) as replica:
            server = RedisServer(replica.url, timeout=5)
            with server.link() as link:
                with pytest.raises(errors.OperationalError, match="replica"):
                    link.call("SET", "a", "b")
                assert link.broken
            server.close()

    def test_a_forked_process_has_connections_of_its_own(self, server: RedisServer) -> None:
        assert server.call("PING") == b"PONG"
        ours = server.call("CLIENT", "ID")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, str(server.call("CLIENT", "ID")).encode())
            os._exit(0)
        os.waitpid(child, 0)
        theirs = int(os.read(reading, 100))
        os.close(reading)
        os.close(writing)
        assert theirs != ours
        assert server.call("CLIENT", "ID") == ours


class TestListener:
    def test_it_hears_what_it_asked_for(self, server: RedisServer) -> None:
        listener = Listener(server)
        listener.subscribe_now([b"a"], 5)
        server.call("PUBLISH", "b", "no")
        server.call("PUBLISH", "a", "yes")
        assert [(event.kind, event.data) for event in listener.read(5)] == [("message", b"yes")]
        listener.close()

    def test_waking_and_closing_end_a_wait(self, server: RedisServer) -> None:
        for end in (Listener.wake, Listener.close):
            listener = Listener(server)
            listener.subscribe_now([b"a"], 5)
            timer = threading.Timer(0.2, end, [listener])
            timer.start()
            assert listener.read(60) == []
            timer.join()
            listener.close()

    def test_a_cut_is_told_and_healed(self, server: RedisServer, process: RedisProcess) -> None:
        listener = Listener(server)
        listener.subscribe_now([b"a"], 5)
        cut(process)
        kinds: list[str] = []
        for _ in range(20):
            kinds += [event.kind for event in listener.read(0.5)]
            if "subscribe" in kinds:
                break
        assert kinds == ["reconnect", "subscribe"]
        server.call("PUBLISH", "a", "again")
        # A read may end with nothing, when the listener was woken.
        found = next((events for events in (listener.read(0.5) for _ in range(20)) if events), [])
        assert [event.data for event in found] == [b"again"]
        listener.close()


def cut(process: RedisProcess) -> None:
    client = redis.Redis.from_url(process.url)
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(skipme=True, _type=kind)
    client.close()
