"""Dramatiq, as shipped. Its worker loads this module."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend
from marks import mark

url = os.environ["BENCH_DATABASE"]
broker: Any
if url.startswith("redis"):
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=url)
else:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    # Confirms are on beside ours where ours are.
    broker = RabbitmqBroker(url=url, confirm_delivery=os.environ.get("BENCH_CONFIRMS") == "1")
if os.environ["BENCH_RESULTS"].startswith("redis"):
    broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_RESULTS"])))
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="noop", queue_name="burning")
def run_noop(number: int, text: str = "") -> None:
    mark(number)


@dramatiq.actor(actor_name="echo", queue_name="single", store_results=os.environ["BENCH_RESULTS"].startswith("redis"))
def run_echo(number: int, text: str = "") -> list[Any]:
    mark(number)
    return [number, text]


noop = run_noop.send
echo = run_echo.send


def get(sent: Any, timeout: float) -> Any:
    return sent.get_result(block=True, timeout=int(timeout * 1000))


async def stop() -> None:
    """Without it, what was sent last is lost where nobody waits for the server's word."""
    broker.close()
