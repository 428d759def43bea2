"""Taskiq: its brokers that acknowledge, as its documentation begins. Its worker loads this module."""

from __future__ import annotations

import os
from typing import Any

from marks import mark
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

url = os.environ["BENCH_DATABASE"]
broker: Any
if not url.startswith("redis"):
    from taskiq_aio_pika import AioPikaBroker

    broker = AioPikaBroker(url)
elif os.environ.get("BENCH_TASKIQ") == "stream":
    broker = RedisStreamBroker(url)
else:
    # The faster of its two: it loses what a worker held that died.
    broker = ListQueueBroker(url)
results: Any = RedisAsyncResultBackend(os.environ["BENCH_RESULTS"])
if os.environ.get("BENCH_WANTS_RESULTS") == "1":
    broker = broker.with_result_backend(results)


@broker.task(task_name="noop")
def run_noop(number: int, text: str = "") -> None:
    mark(number)


@broker.task(task_name="anoop")
async def run_anoop(number: int, text: str = "") -> None:
    mark(number)


@broker.task(task_name="echo")
async def run_echo(number: int, text: str = "") -> list[Any]:
    mark(number)
    return [number, text]


start = broker.startup
stop = broker.shutdown
anoop = run_anoop.kiq
echo = run_echo.kiq
# A thread of its own for each run costs it a third: in processes it runs coroutines, which is what it is made for.
noop = run_noop.kiq if os.environ.get("BENCH_KIND") == "threads" else run_anoop.kiq


async def get(sent: Any, seconds: float) -> Any:
    return (await sent.wait_result(check_interval=0.001, timeout=seconds)).return_value
