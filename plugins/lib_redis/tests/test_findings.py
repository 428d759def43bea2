"""What is said of a server that cannot be used, and what `kernel doctor` says of one that can."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from kernel_lib_redis import RedisServer, examine

from kernel import errors
from kernel.hooks import Finding
from kernel.testing.redis_servers import redis_cluster, redis_sentinel
from kernel.testing.servers import RedisProcess, redis_server

RIGHTS = "+@all -@admin +info +role"


@pytest.fixture(scope="module")
def process() -> Iterator[RedisProcess]:
    with redis_server() as process:
        yield process


def client(process: RedisProcess) -> redis.Redis:
    return redis.Redis.from_url(process.url)


def found(url: str, subject: str, use: str = "broker", **options: object) -> list[Finding]:
    server = RedisServer(url, timeout=5, options=options)
    with contextlib.closing(server):
        findings = examine(server, use)  # type: ignore[arg-type]
    return [finding for finding in findings if finding.subject == f"{use} {subject}"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("url", "kind", "why"),
        [
            ("redis://:hidden@127.0.0.1:1/0", errors.OperationalError, "nobody listens there"),
            ("redis://:hidden@no-such-host.invalid/0", errors.OperationalError, "its host has no address"),
            ("redis+socket:///no/such.sock?password=hidden", errors.OperationalError, "check the path of the socket"),
            ("sentinel://:hidden@127.0.0.1:1", errors.OperationalError, "nobody listens there"),
            ("redis+cluster://:hidden@127.0.0.1:1", errors.OperationalError, "nobody listens there"),
        ],
    )
    def test_nobody_there(self, url: str, kind: type[Exception], why: str) -> None:
        server = RedisServer(url, timeout=2, options={"master_name": "m", "global_keyprefix": "{p}"})
        with pytest.raises(kind, match=why) as caught:
            server.open()
        assert "hidden" not in str(caught.value)

    def test_a_database_that_is_not_there(self, process: RedisProcess) -> None:
        with pytest.raises(errors.ImproperlyConfigured, match=r"no such database.*`databases` - 1"):
            RedisServer(process.url.replace("/0", "/99"), timeout=5).open()

    def test_a_user_without_rights(self, process: RedisProcess) -> None:
        with client(process) as admin:
            admin.execute_command("ACL", "SETUSER", "guest", "on", ">hidden", "+ping", "+select", "+client")
        url = process.url.replace("redis://", "redis://guest:hidden@")
        with pytest.raises(errors.ImproperlyConfigured, match=r"needs the rights `~\*") as caught:
            RedisServer(url, timeout=5).open()
        assert "hidden" not in str(caught.value)
        with pytest.raises(errors.ImproperlyConfigured, match="refused the login"):
            RedisServer(url.replace("hidden", "wrong"), timeout=5).open()

    def test_a_login_that_stops_being_right_may_be_right_again(self) -> None:
        with redis_server("--requirepass", "hidden") as locked:
            server = RedisServer(locked.url.replace("redis://", "redis://:hidden@"), timeout=5)
            server.open()
            with redis.Redis(port=locked.port, password="hidden") as admin:
                for password in ("other", "hidden"):
                    admin.config_set("requirepass", password)
                    admin.client_kill_filter(skipme=True, _type="normal")
                    if password == "other":
                        with pytest.raises(errors.OperationalError, match="refused the login"):
                            server.call("PING")
            assert server.call("PING") == b"PONG"
            server.close()

    def test_an_old_server_is_told_by_its_version(self, monkeypatch: pytest.MonkeyPatch, process: RedisProcess) -> None:
        monkeypatch.setattr("kernel_lib_redis.greeting.OLDEST", (99, 0))
        with pytest.raises(errors.ImproperlyConfigured, match=r"is Redis \d+\.\d+.*; 99\.0 or later is needed"):
            RedisServer(process.url, timeout=5).open()

    def test_the_pool_has_a_bound(self, process: RedisProcess) -> None:
        server = RedisServer(process.url, timeout=0.3, options={"max_connections": 1})
        with (
            server.link(),
            pytest.raises(errors.OperationalError, match=r"all 1 connections .* raise max_connections"),
        ):
            server.call("PING")
        assert server.call("PING") == b"PONG"
        server.timeout = 20
        with server.link():
            pinging = threading.Thread(target=server.call, args=("SET", "waited", "1"))
            pinging.start()
            assert pinging.is_alive()
        pinging.join(10)
        assert server.call("GET", "waited") == b"1"
        server.close()

    def test_a_connection_that_was_idle_is_asked_before_it_is_used(self, process: RedisProcess) -> None:
        server = RedisServer(process.url, timeout=5, options={"health_check_interval": 0.01, "client_name": "asked"})
        first = server.call("CLIENT", "ID")
        time.sleep(0.02)
        assert server.call("CLIENT", "ID") == first
        with client(process) as admin:
            (mine,) = (each for each in admin.client_list() if each["name"] == "asked")
            assert mine["id"] == str(first)
            assert admin.info("commandstats")["cmdstat_ping"]["calls"] >= 1
        server.close()

    def test_options_without_effect_are_told_once(
        self, process: RedisProcess, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = {"unacked_key": "mine", "queue_order_strategy": "round_robin", "fanout_patterns": False}
        server = RedisServer(process.url, timeout=5, options=options)
        server.open()
        server.open()
        server.close()
        told = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
        assert len(told) == 2
        assert "unacked_key" in told[0]
        assert "fanout_patterns" in told[1]


class TestDoctor:
    @pytest.mark.parametrize(
        ("fsync", "level", "text"),
        [
            (None, "warn", "appendonly no: when the server ends, all of the messages are lost"),
            ("everysec", "warn", "a power cut loses the last second or two"),
            ("always", "ok", "what is confirmed is on disk"),
        ],
    )
    def test_persistence(self, fsync: str | None, level: str, text: str) -> None:
        with redis_server(fsync=fsync) as process:
            (finding,) = found(process.url, "persistence")
        assert finding.level == level
        assert text in finding.text
        assert bool(finding.remedy) is (level != "ok")

    def test_snapshots(self, process: RedisProcess) -> None:
        with client(process) as admin:
            admin.config_set("save", "3600 1")
        (finding,) = found(process.url, "persistence", "result backend")
        assert "save 3600 1: when the server ends, all since the last snapshot of the results is lost" in finding.text

    def test_eviction(self, process: RedisProcess) -> None:
        with client(process) as admin:
            for policy, use, level in (
                ("allkeys-lru", "broker", "fail"),
                ("allkeys-lru", "result backend", "warn"),
                ("volatile-ttl", "result backend", "warn"),
                ("volatile-ttl", "broker", "ok"),
                ("noeviction", "broker", "ok"),
            ):
                admin.config_set("maxmemory-policy", policy)
                (finding,) = found(process.url, "memory", use)
                assert (policy, use, finding.level) == (policy, use, level)
            admin.config_set("maxmemory", int(admin.info("memory")["used_memory"] * 1.05))
            (finding,) = found(process.url, "memory")
            assert "a full server refuses" in finding.text
            admin.config_set("maxmemory", 0)

    def test_a_replica(self) -> None:
        with redis_server() as primary, redis_server("--replicaof", "127.0.0.1", str(primary.port)) as replica:
            (finding,) = found(replica.url, "Redis")
        assert (finding.level, finding.remedy) == (
            "fail",
            "name the primary in the URL, or let Sentinel find it: sentinel://",
        )

    def test_what_replicas_are_good_for(self) -> None:
        with redis_sentinel() as sentinels:
            (finding,) = found(sentinels.url, "Redis", master_name=sentinels.name)
            assert "standalone, 1 replica" in finding.text
            (finding,) = found(sentinels.url, "replication", master_name=sentinels.name)
            assert "a failover loses the last ones" in finding.text
            assert "min-replicas-to-write 1" in finding.remedy

    def test_a_cluster_and_the_way_to_it(self) -> None:
        with redis_cluster(nodes=1) as cluster:
            (finding,) = found(cluster.url, "Redis", global_keyprefix="{p}")
            assert "cluster" in finding.text
            (finding,) = found(cluster.url, "latency", global_keyprefix="{p}")
            assert "for a round trip" in finding.text

    def test_a_server_that_tells_little(self, process: RedisProcess) -> None:
        with client(process) as admin:
            admin.execute_command("ACL", "SETUSER", "plain", "on", "nopass", "~*", "&*", *RIGHTS.split())
        findings = found(process.url.replace("redis://", "redis://plain:x@"), "persistence")
        assert [finding.level for finding in findings] == ["warn"]

    def test_a_server_that_is_away(self) -> None:
        (finding,) = found("redis://127.0.0.1:1", "Redis")
        assert finding.level == "fail"
        assert "nobody listens" in finding.text
