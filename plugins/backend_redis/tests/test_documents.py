"""Records as Celery writes and reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kernel_backend_redis import RedisBackend

from kernel.interfaces.backend import BackendConfig, Record, StoreState
from kernel.testing.servers import RedisProcess


@pytest.fixture
def client(redis_client: Any) -> Any:
    return redis_client


@pytest.fixture
def backend(empty_redis: RedisProcess) -> Iterator[RedisBackend]:
    backend = RedisBackend(BackendConfig(url=empty_redis.url, expires=60.0))
    backend.open()
    yield backend
    backend.close()


def of_celery(**fields: Any) -> bytes:
    document: dict[str, Any] = {
        "status": "SUCCESS",
        "result": {"answer": [42, "žluť"]},
        "traceback": None,
        "children": [],
        "date_done": "2026-11-21T01:57:37.023282+00:00",
        "task_id": "a",
    }
    return json.dumps({**document, **fields}).encode()


def test_what_we_store_is_a_document_of_celerys(backend: RedisBackend, client: Any) -> None:
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("celery-task-meta-a")
    listener.get_message(timeout=5)
    record = Record(
        id="a",
        state="FAILURE",
        result=b'{"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}',
        traceback="Traceback",
        children='[[["b", null], null]]',
        date_done=1_795_226_257.5,
        group_id="g",
        parent_id="p",
        name="shop.add",
        args=b"[1, 2]",
        kwargs=b"{}",
        worker="w@host",
        retries=1,
        queue="celery",
    )
    backend.store([record])
    raw = client.get("celery-task-meta-a")
    assert json.loads(raw) == {
        "status": "FAILURE",
        "result": {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"},
        "traceback": "Traceback",
        "children": [[["b", None], None]],
        "date_done": "2026-11-21T01:57:37.500000+00:00",
        "group_id": "g",
        "parent_id": "p",
        "name": "shop.add",
        "args": [1, 2],
        "kwargs": {},
        "worker": "w@host",
        "retries": 1,
        "queue": "celery",
        "task_id": "a",
    }
    assert 50_000 < client.pttl("celery-task-meta-a") <= 60_000
    announced = next(message for _ in range(20) if (message := listener.get_message(timeout=1)))
    assert announced["data"] == raw
    listener.close()


def test_what_celery_stored_is_loaded(backend: RedisBackend, client: Any) -> None:
    client.set("celery-task-meta-a", of_celery(group_id="g", stamped_headers=["s"], s=[1]))
    (record,) = backend.load(["a"])
    assert record is not None
    assert (record.state, json.loads(record.result), record.group_id) == ("SUCCESS", {"answer": [42, "žluť"]}, "g")
    assert record.date_done == pytest.approx(1_795_226_257.023282, abs=0.001)
    assert json.loads(record.stamps or "") == {"stamped_headers": ["s"], "stamps": {"s": [1]}}


@pytest.mark.parametrize("order", [1, -1])
def test_an_end_that_celery_stored_stands(backend: RedisBackend, client: Any, order: int) -> None:
    fields = json.loads(of_celery(result={"status": "PENDING", "kernel_attempt": 9}))
    client.set("celery-task-meta-a", json.dumps(dict([*fields.items()][::order]), separators=(",", ": ")))
    (outcome,) = backend.store([Record(id="a", state="FAILURE", result=b"1", attempt=3)])
    assert outcome.state is StoreState.STANDING
    assert outcome.standing is not None
    assert outcome.standing.state == "SUCCESS"


def test_a_result_that_looks_like_a_document_deceives_nobody(backend: RedisBackend) -> None:
    hostile = b'{"status": "SUCCESS", "kernel_attempt": 9, "traceback": "x", "task_id": "b"}'
    backend.store([Record(id="a", state="RETRY", result=hostile)])
    assert [outcome.state for outcome in backend.store([Record(id="a", state="SUCCESS", result=b"2")])] == [
        StoreState.WON
    ]
    backend.store([Record(id="c", state="SUCCESS", result=hostile)])
    (record,) = backend.load(["c"])
    assert record is not None
    assert (record.result, record.attempt, record.traceback) == (hostile, 0, None)


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"{", b'{"status": 7}', b"\x80\x04", b'{"status": "SUCCESS", "result": ']
)
def test_what_is_no_document_is_no_result(backend: RedisBackend, client: Any, raw: bytes) -> None:
    client.set("celery-task-meta-a", raw)
    found = backend.load(["a"])
    assert found[0] is None or found[0].state == "7"


def test_failures_have_a_life_of_their_own(empty_redis: RedisProcess, client: Any) -> None:
    for lifetimes, most in ((60.0, 5.0), (5, 60)), ((60.0, None), (60, 60)), ((None, 5.0), (5, -1)):
        expires, failure_expires = lifetimes
        backend = RedisBackend(BackendConfig(url=empty_redis.url, expires=expires, failure_expires=failure_expires))
        names = [f"{state}-{expires}-{failure_expires}" for state in ("FAILURE", "SUCCESS")]
        backend.store([Record(id=name, state=name.partition("-")[0], date_done=1.5e9) for name in names])
        left = [client.ttl(f"celery-task-meta-{name}") for name in names]
        assert all(most_left - 4 <= seconds <= most_left for seconds, most_left in zip(left, most, strict=True)), left
        backend.close()
