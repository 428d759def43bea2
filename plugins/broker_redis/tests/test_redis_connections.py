"""An app's settings as they reach the server: TLS, a user with few rights, and what `kernel doctor` says."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path

import pytest
import redis
from kernel_broker_redis import RedisBroker

from kernel import Kernel, errors
from kernel.interfaces.broker import BrokerConfig, ConsumeOptions, Settlement, Verdict
from kernel.message import Message, Publication
from kernel.testing.redis_servers import redis_tls_server
from kernel.testing.servers import redis_server
from kernel.testing.workers import WorkerProcess, project_in, results_within

RIGHTS = ("~shop:*", "&shop:*", "+@all", "-@admin", "+info", "+role")
PATIENCE = 40.0


def publication(number: int) -> Publication:
    headers = {"id": f"task-{number}", "task": "proj.add"}
    return Publication(Message(headers, b"[[], {}, null]", content_type="application/json"), "celery")


def test_the_rights_that_are_asked_for_are_enough() -> None:
    with redis_server() as process:
        with redis.Redis.from_url(process.url) as admin:
            admin.execute_command("ACL", "SETUSER", "shop", "on", ">hidden", *RIGHTS)
        url = process.url.replace("redis://", "redis://shop:hidden@")
        broker = RedisBroker(BrokerConfig(url=url, options={"global_keyprefix": "shop:"}))
        with contextlib.closing(broker):
            broker.open()
            assert [each.state.value for each in broker.publish([publication(1), publication(2)])] == ["stored"] * 2
            consumer = broker.consume(["celery"], ConsumeOptions("me"))
            first, second = consumer.fetch(10, 1_000_000, 5)
            verdicts = [Settlement(first, Verdict.ACK), Settlement(second, Verdict.DEAD, reason="test")]
            assert [each.value for each in consumer.settle(verdicts)] == ["done", "done"]
            (stats,) = broker.stats()
            assert (stats.ready, stats.dead) == (0, 1)
            assert "fail" not in [finding.level for finding in broker.findings()]
        stranger = RedisBroker(BrokerConfig(url=url, options={"global_keyprefix": "other:"}))
        with contextlib.closing(stranger):
            stranger.open()
            with pytest.raises(errors.OperationalError, match="needs the rights") as caught:
                stranger.publish([publication(3)])
        assert "hidden" not in str(caught.value)


def test_a_worker_behind_tls(tmp_path: Path) -> None:
    with redis_tls_server() as (process, made):
        certificates = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(made.authority)}
        plain = process.url.replace("rediss://", "redis://")
        settings = {"broker_use_ssl": certificates, "redis_backend_use_ssl": certificates}
        with (
            project_in(tmp_path, broker_url=plain, result_backend=plain, **settings) as project,
            WorkerProcess(project, "-P", "threads", "-c", "2") as worker,
        ):
            results = [project.task("add").delay(1, number) for number in range(20)]
            assert results_within(results, PATIENCE) == [1 + number for number in range(20)]
            assert "no effect" not in worker.log


def test_settings_of_celery_are_taken_without_a_word() -> None:
    with redis_server() as process, warnings.catch_warnings():
        warnings.simplefilter("error")
        app = Kernel("quiet", broker=process.url, backend=process.url)
        app.conf.update(
            redis_client_name="quiet",
            redis_max_connections=5,
            redis_socket_timeout=3,
            redis_socket_keepalive=True,
            redis_backend_health_check_interval=9,
            result_backend_transport_options={"global_keyprefix": "results:"},
            broker_transport_options={"global_keyprefix": "shop:", "visibility_timeout": 60},
        )
        with contextlib.closing(app):
            app.backend.save_group("one", "{}")
            with redis.Redis.from_url(process.url) as admin:
                assert admin.keys() == [b"results:celery-taskset-meta-one"]
                assert "quiet" in [each["name"] for each in admin.client_list()]


def test_doctor_looks_at_both(tmp_path: Path) -> None:
    with (
        redis_server("--maxmemory-policy", "allkeys-lru") as process,
        project_in(tmp_path, broker_url=process.url, result_backend=process.url) as project,
    ):
        done = project.command("-A", "proj", "doctor", "--json", check=False)
        lines = json.loads(done.stdout)["findings"]
        found = {line["subject"]: line["level"] for line in lines}
        assert found["broker Redis"] == found["result backend Redis"] == "ok"
        assert (found["broker memory"], found["result backend memory"]) == ("fail", "warn")
        assert found["broker persistence"] == "warn"
        assert done.returncode != 0
