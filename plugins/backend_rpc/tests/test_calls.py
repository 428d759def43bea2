"""Calls and their answers over one RabbitMQ: threads, coroutines, lost connections and lost queues."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import unquote

import pytest
from kernel_backend_rpc import RpcBackend

from kernel import Kernel, errors
from kernel.extensions import Extensions
from kernel.interfaces.backend import BackendConfig, Record
from kernel.interfaces.broker import BrokerConfig
from kernel.testing.rabbitmq import RabbitProcess
from kernel.testing.workers import wait_for
from kernel.worker.worker import Worker


@pytest.fixture
def kernel_app(kernel_rabbitmq_url: str) -> Iterator[Kernel]:
    app = Kernel("tests", broker=kernel_rabbitmq_url, backend="rpc://", include=[])
    app.extensions = Extensions(app.conf, autoload=False)

    @app.task(name="double", bind=True)
    def double(self: Any, value: int) -> int:
        self.update_state(state="HALF", meta={"value": value})
        return value * 2

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no", 7)

    yield app
    app.close()


def backend_of(app: Kernel) -> RpcBackend:
    return cast("RpcBackend", app.backend)


def answer(app: Kernel, task_id: str, value: int, *, state: str = "SUCCESS") -> None:
    """What a worker would send."""
    backend_of(app).store([Record(id=task_id, state=state, result=b"%d" % value, reply_to=app.oid)])


def call(app: Kernel) -> Any:
    """A call that nobody runs."""
    return app.send_task("double", (1,), queue="nobody")


def test_results_come_to_who_called(kernel_app: Kernel, kernel_worker: Worker) -> None:
    results = [kernel_app.tasks["double"].delay(number) for number in range(50)]
    assert [result.get(timeout=20) for result in results] == [number * 2 for number in range(50)]
    failed = kernel_app.tasks["fail"].delay()
    with pytest.raises(ValueError, match="no"):
        failed.get(timeout=20)
    assert failed.state == "FAILURE"
    assert "ValueError" in str(failed.traceback)


def test_states_on_the_way_are_told(kernel_app: Kernel, kernel_worker: Worker) -> None:
    seen: list[Any] = []
    result = kernel_app.tasks["double"].delay(4)
    assert result.get(timeout=20, on_message=seen.append) == 8
    assert [(each["status"], each["result"]) for each in seen] == [("HALF", {"value": 4}), ("SUCCESS", 8)]


def test_polling_finds_what_has_come(kernel_app: Kernel) -> None:
    result = call(kernel_app)
    assert result.state == "PENDING"
    answer(kernel_app, result.id, 3)
    assert result.ready()
    assert result.get(timeout=0) == 3


def test_thousands_wait_on_one_connection(
    kernel_app: Kernel, kernel_rabbitmq: RabbitProcess, kernel_rabbitmq_url: str
) -> None:
    results = [call(kernel_app) for _ in range(50)]
    ids = [result.id for result in results] + [f"more-{number}" for number in range(1950)]

    async def gather() -> list[Any]:
        waiting = [asyncio.create_task(kernel_app.AsyncResult(each).aget(timeout=30)) for each in ids]
        await asyncio.sleep(0.1)
        threading.Thread(target=send).start()
        return await asyncio.gather(*waiting)

    def send() -> None:
        records = [
            Record(id=each, state="SUCCESS", result=b"%d" % at, reply_to=kernel_app.oid) for at, each in enumerate(ids)
        ]
        for start in range(0, len(ids), 100):
            backend_of(kernel_app).store(records[start : start + 100])

    assert asyncio.run(gather()) == [*range(2000)]
    # Of this test alone: others are on the same node.
    place = unquote(kernel_rabbitmq_url.rpartition("/")[2])
    count = kernel_rabbitmq.evaluate(f'rabbit_connection_tracking:count_tracked_items_in({{vhost, <<"{place}">>}})')
    # Calls, replies out, replies in; the broker may have one more for its own questions.
    assert 1 <= int(count) <= 4


def test_a_cut_connection_loses_nothing(kernel_app: Kernel, kernel_rabbitmq: RabbitProcess) -> None:
    results = [call(kernel_app) for _ in range(20)]
    got: dict[str, Any] = {}

    def wait(result: Any) -> None:
        got[result.id] = result.get(timeout=30, propagate=False)

    threads = [threading.Thread(target=wait, args=(result,)) for result in results]
    for thread in threads:
        thread.start()
    for at, result in enumerate(results):
        if at % 5 == 0:
            kernel_rabbitmq.close_connections()
        answer(kernel_app, result.id, at)
    for thread in threads:
        thread.join(30)
    assert got == {result.id: at for at, result in enumerate(results)}


def test_a_server_that_is_away_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    backend = RpcBackend(
        BackendConfig(url="rpc://", timeout=0.2, broker=BrokerConfig(url="amqp://127.0.0.1:1//", timeout=0.2))
    )
    try:
        # The thread tries again and again; each of these waits for one of its attempts.
        for _ in range(4):
            with pytest.raises(errors.OperationalError, match="cannot connect"):
                backend.expect(["one"])
    finally:
        backend.close()
    told = [record for record in caplog.records if "no replies for now" in record.getMessage()]
    assert len(told) == 1


def test_a_deleted_queue_is_told_of_and_made_again(kernel_app: Kernel, kernel_rabbitmq: RabbitProcess) -> None:
    before, unasked = call(kernel_app), call(kernel_app)
    vhost = kernel_app.conf.broker_url.rpartition("/")[2]
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            before.get(timeout=30)
        except Exception as exc:
            failures.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: backend_of(kernel_app)._shelf._waiting, 10)
    delete_queue(kernel_rabbitmq, vhost, kernel_app.oid)
    thread.join(10)
    assert [type(failure) for failure in failures] == [errors.ResultLost]
    assert before.id in str(failures[0])
    with pytest.raises(errors.ResultLost):
        unasked.get(timeout=10)
    wait_for(lambda: kernel_app.oid in kernel_rabbitmq.queues(vhost), 10)
    after = call(kernel_app)
    answer(kernel_app, after.id, 5)
    assert after.get(timeout=10) == 5


def test_replies_wait_for_a_process_that_reads_nothing_yet(kernel_app: Kernel, kernel_rabbitmq: RabbitProcess) -> None:
    vhost = kernel_app.conf.broker_url.rpartition("/")[2]
    result = call(kernel_app)
    answer(kernel_app, result.id, 1)
    wait_for(lambda: kernel_rabbitmq.queues(vhost)[kernel_app.oid] == (1, 0), 10)
    assert result.get(timeout=10) == 1
    wait_for(lambda: kernel_rabbitmq.queues(vhost)[kernel_app.oid] == (0, 0), 10)


def test_a_closed_app_leaves_no_queue(kernel_app: Kernel, kernel_rabbitmq: RabbitProcess) -> None:
    vhost = kernel_app.conf.broker_url.rpartition("/")[2]
    call(kernel_app)
    oid = kernel_app.oid
    assert oid in kernel_rabbitmq.queues(vhost)
    kernel_app.close()
    assert oid not in kernel_rabbitmq.queues(vhost)


def test_a_fork_has_a_queue_of_its_own(kernel_app: Kernel) -> None:
    result = call(kernel_app)
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            own = call(kernel_app)
            answer(kernel_app, own.id, 9)
            os.write(into, f"{own.get(timeout=20)} {kernel_app.oid}".encode())
            kernel_app.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    value, oid = os.read(out, 1000).decode().split()
    os.close(out)
    os.close(into)
    assert value == "9"
    assert oid != kernel_app.oid
    answer(kernel_app, result.id, 4)
    assert result.get(timeout=10) == 4


def test_a_reply_to_nobody_holds_up_nobody(kernel_app: Kernel) -> None:
    records = [Record(id="a", state="SUCCESS", reply_to="nobody-there"), Record(id="b", state="SUCCESS")]
    begun = time.monotonic()
    assert len(backend_of(kernel_app).store(records)) == 2
    assert time.monotonic() - begun < 5


def delete_queue(server: RabbitProcess, vhost: str, name: str) -> None:
    answered = server.evaluate(
        f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{name}">>)), '
        'element(1, rabbit_amqqueue:delete(Q, false, false, <<"tests">>))'
    )
    assert answered == "ok", answered
