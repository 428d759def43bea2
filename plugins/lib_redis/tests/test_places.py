"""Servers that move: Sentinel, Cluster, several hosts; and servers behind TLS."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from kernel_lib_redis import Listener, RedisServer, Script

from kernel import errors
from kernel.testing.redis_servers import (
    Certificates,
    ClusterSet,
    SentinelSet,
    ask,
    redis_cluster,
    redis_sentinel,
    redis_tls_server,
)
from kernel.testing.servers import RedisProcess, redis_server

PUT = Script(
    "redis.call('SET', ARGV[1], ARGV[2]) redis.call('PUBLISH', ARGV[1], ARGV[2]) return redis.call('GET', ARGV[1])"
)
PATIENCE = 30.0


def again(server: RedisServer, *words: str) -> object:
    """Run the script until it goes, as a worker does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return server.script(PUT, *words)
        except errors.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def hear(listener: Listener, kind: str) -> bytes:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            for event in listener.read(0.5):
                if event.kind == kind:
                    return event.data
        except errors.OperationalError:
            time.sleep(0.05)
    raise AssertionError(f"no {kind}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterSet]:
    with redis_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[RedisProcess, Certificates]]:
    with redis_tls_server() as served:
        yield served


class TestSentinel:
    @pytest.fixture
    def sentinels(self) -> Iterator[SentinelSet]:
        with redis_sentinel() as sentinels:
            yield sentinels

    def server(self, sentinels: SentinelSet, **options: object) -> RedisServer:
        return RedisServer(sentinels.url, timeout=2, options={"master_name": sentinels.name, **options})

    def test_a_failover_is_followed(self, sentinels: SentinelSet) -> None:
        server = self.server(sentinels)
        server.open()
        assert again(server, "a", "1") == b"1"
        listener = Listener(server)
        listener.subscribe_now([b"a"], 5)
        old = sentinels.primary()
        sentinels.wait_for_replica()
        old.kill()
        assert again(server, "b", "2") == b"2"
        assert server.call("GET", "a") == b"1"
        assert sentinels.primary() is not old
        hear(listener, "subscribe")
        again(server, "a", "3")
        assert hear(listener, "message") == b"3"
        # It comes back as a replica of the one that took its place, and is not written to.
        old.start()
        assert again(server, "b", "4") == b"4"
        listener.close()
        server.close()

    def test_a_primary_that_hangs_is_given_up(self, sentinels: SentinelSet) -> None:
        server = self.server(sentinels, socket_timeout=0.5, socket_connect_timeout=0.5, health_check_interval=0.5)
        server.open()
        listener = Listener(server)
        listener.subscribe_now([b"a"], 5)
        old = sentinels.primary()
        old.pause()
        try:
            assert again(server, "b", "2") == b"2"
            # Nothing but its silence says that this connection is dead.
            assert hear(listener, "reconnect") == b""
            hear(listener, "subscribe")
            again(server, "a", "3")
            assert hear(listener, "message") == b"3"
        finally:
            old.resume()
        listener.close()
        server.close()

    def test_what_is_wrong_is_said(self, sentinels: SentinelSet) -> None:
        with pytest.raises(errors.ImproperlyConfigured, match=r"knows no primary 'other'.*SENTINEL MASTERS"):
            self.server(sentinels, master_name="other").open()
        with pytest.raises(errors.OperationalError, match="sees 0 other Sentinels, and min_other_sentinels is 1"):
            self.server(sentinels, min_other_sentinels=1).open()
        with pytest.raises(errors.ImproperlyConfigured, match=r"is a Sentinel.*sentinel://"):
            RedisServer(f"redis://127.0.0.1:{sentinels.ports[0]}", timeout=2).open()
        url = f"sentinel://127.0.0.1:{sentinels.primary().port}"
        with pytest.raises(errors.ImproperlyConfigured, match="is no Sentinel; write redis://"):
            RedisServer(url, timeout=2, options={"master_name": "x"}).open()

    def test_sentinels_that_are_away_are_passed_over(self, sentinels: SentinelSet) -> None:
        server = RedisServer(
            f"sentinel://127.0.0.1:1;{sentinels.url}", timeout=2, options={"master_name": sentinels.name}
        )
        assert server.script(PUT, "a", "1") == b"1"
        server.close()
        gone = RedisServer("sentinel://127.0.0.1:1;127.0.0.1:2", timeout=2, options={"master_name": "x"})
        with pytest.raises(errors.OperationalError, match=r"127.0.0.1:1.*127.0.0.1:2"):
            gone.open()

    def test_logins_of_servers_and_of_sentinels(self) -> None:
        with redis_sentinel(password="hidden") as locked:
            url = locked.url.replace("sentinel://", "sentinel://:hidden@")
            options = {"master_name": locked.name, "sentinel_kwargs": {"password": "hidden"}}
            server = RedisServer(url, timeout=2, options=options)
            server.open()
            assert server.script(PUT, "a", "1") == b"1"
            server.close()
            for wrong_url, wrong in ((url, {"master_name": locked.name}), (locked.url, options)):
                with pytest.raises(errors.ImproperlyConfigured, match="login") as caught:
                    RedisServer(wrong_url, timeout=2, options=wrong).open()
                assert "hidden" not in str(caught.value)


class TestCluster:
    def server(self, url: str, prefix: str = "{shop}:") -> RedisServer:
        return RedisServer(url, timeout=2, options={"global_keyprefix": prefix})

    @pytest.mark.parametrize("prefix", ["{shop}:", "a{b}", "{c}", "{d}{e}"])
    def test_any_node_leads_to_the_one_that_has_the_keys(self, cluster: ClusterSet, prefix: str) -> None:
        for node in cluster.nodes:
            server = self.server(f"redis+cluster://127.0.0.1:{node.port}", prefix)
            server.open()
            assert server.script(PUT, f"{prefix}a", "1") == b"1"
            assert server.pipeline([("MGET", f"{prefix}a", f"{prefix}b")]) == [[b"1", None]]
            server.close()

    def test_a_slot_that_moves_is_followed(self, cluster: ClusterSet) -> None:
        server = self.server(f"redis+cluster://127.0.0.1:1;{cluster.url}")
        assert again(server, "{shop}:a", "1") == b"1"
        listener = Listener(server)
        listener.subscribe_now([b"{shop}:a"], 5)
        slot = int(ask(cluster.nodes[0].port, "CLUSTER", "KEYSLOT", "{shop}"))
        at = cluster.owner(slot)
        cluster.move(slot, (at + 1) % 3)
        assert again(server, "{shop}:b", "2") == b"2"
        assert server.call("GET", "{shop}:a") == b"1"
        # Announcements reach all nodes, and a listener on the old one too.
        again(server, "{shop}:a", "3")
        assert hear(listener, "message") == b"3"
        listener.close()
        server.close()

    def test_while_a_slot_moves_no_script_begins(self, cluster: ClusterSet) -> None:
        server = self.server(cluster.url)
        again(server, "{shop}:here", "1")
        slot = int(ask(cluster.nodes[0].port, "CLUSTER", "KEYSLOT", "{shop}"))
        at = cluster.owner(slot)
        port = cluster.nodes[at].port
        # A script that moves something from a key that is here to one that is not would lose it half-way.
        move = Script("redis.call('SET', '{shop}:there', redis.call('GETDEL', '{shop}:here')) return 1")
        ask(port, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", cluster.names[(at + 1) % 3])
        try:
            with pytest.raises(errors.OperationalError, match="the cluster is asked again"):
                server.script(move)
        finally:
            ask(port, "CLUSTER", "SETSLOT", str(slot), "STABLE")
        assert server.call("GET", "{shop}:here") == b"1"
        assert server.script(move) == 1
        assert server.call("GET", "{shop}:there") == b"1"
        server.close()

    def test_a_replica_takes_over(self) -> None:
        with redis_cluster("--repl-diskless-sync-delay", "0", replicas=1) as watched:
            server = self.server(watched.url)
            assert again(server, "{shop}:a", "1") == b"1"
            slot = int(ask(watched.nodes[0].port, "CLUSTER", "KEYSLOT", "{shop}"))
            assert watched.owner(slot) == 0
            watched.nodes[0].kill()
            assert again(server, "{shop}:b", "2") == b"2"
            assert server.place.connect().shown.endswith(str(watched.nodes[3].port))
            server.close()

    def test_urls_of_the_wrong_kind(self, cluster: ClusterSet) -> None:
        with pytest.raises(errors.ImproperlyConfigured, match=r"node of a cluster; write redis\+cluster://"):
            RedisServer(cluster.nodes[0].url, timeout=2).open()
        with redis_server() as alone, pytest.raises(errors.ImproperlyConfigured, match="write redis:// in place"):
            self.server(alone.url.replace("redis://", "redis+cluster://")).open()


class TestSeveral:
    def test_the_one_that_takes_writes_is_taken(self) -> None:
        with redis_server() as primary, redis_server("--replicaof", "127.0.0.1", str(primary.port)) as replica:
            server = RedisServer(f"redis://127.0.0.1:1;{replica.url};{primary.url}", timeout=2)
            server.open()
            assert server.script(PUT, "a", "1") == b"1"
            server.close()
            with pytest.raises(errors.OperationalError, match="is a slave and takes no writes"):
                RedisServer(f"redis://127.0.0.1:1;{replica.url}", timeout=2).open()


class TestTls:
    def test_it_speaks_and_listens(self, served: tuple[RedisProcess, Certificates]) -> None:
        process, made = served
        for url, tls in (
            (f"{process.url}?ssl_ca_certs={made.authority}", None),
            (process.url.replace("rediss", "redis"), {"ssl_ca_certs": str(made.authority)}),
            (f"rediss://localhost:{process.port}?ssl_cert_reqs=none", None),
        ):
            server = RedisServer(url, timeout=5, tls=tls)
            server.open()
            assert server.call("CLIENT", "ID") == server.call("CLIENT", "ID")
            listener = Listener(server)
            listener.subscribe_now([b"a"], 5)
            # More than one record of TLS.
            assert server.script(PUT, "a", "x" * 100_000) == b"x" * 100_000
            assert hear(listener, "message") == b"x" * 100_000
            listener.close()
            server.close()

    @pytest.mark.parametrize(
        ("query", "kind", "why"),
        [
            ("", errors.ImproperlyConfigured, "not trusted.*ssl_ca_certs"),
            ("?ssl_ca_certs={stranger}", errors.ImproperlyConfigured, "not trusted.*ssl_ca_certs"),
            ("?ssl_ca_certs=/nowhere.pem", errors.OperationalError, "No such file.*ssl_ca_certs"),
        ],
    )
    def test_certificates_that_do_not_fit(
        self, served: tuple[RedisProcess, Certificates], query: str, kind: type[Exception], why: str
    ) -> None:
        process, made = served
        with pytest.raises(kind, match=why):
            RedisServer(process.url + query.format(stranger=made.stranger), timeout=5).open()

    def test_one_side_speaks_tls_and_the_other_does_not(self, served: tuple[RedisProcess, Certificates]) -> None:
        process, _ = served
        with pytest.raises(errors.OperationalError, match="write rediss://"):
            RedisServer(process.url.replace("rediss", "redis"), timeout=5).open()
        with redis_server() as plain, pytest.raises(errors.OperationalError, match="TLS"):
            RedisServer(plain.url.replace("redis", "rediss"), timeout=1).open()

    def test_a_server_that_wants_a_certificate_of_ours(self) -> None:
        with redis_tls_server("--tls-auth-clients", "yes") as (process, made):
            anonymous = f"{process.url}?ssl_ca_certs={made.authority}"
            with pytest.raises(errors.KernelError, match="ssl_certfile and ssl_keyfile"):
                RedisServer(anonymous, timeout=5).open()
            named = RedisServer(f"{anonymous}&ssl_certfile={made.certificate}&ssl_keyfile={made.key}", timeout=5)
            named.open()
            named.close()
