"""RQ, as shipped: its worker forks for each task."""

from __future__ import annotations

import os
from typing import Any

from marks import mark
from redis import Redis
from rq import Queue

connection = Redis.from_url(os.environ["BENCH_DATABASE"])
burning = Queue("burning", connection=connection)
single = Queue("single", connection=connection)


def run_noop(number: int, text: str = "") -> None:
    mark(number)


def run_echo(number: int, text: str = "") -> list[Any]:
    mark(number)
    return [number, text]


def noop(number: int, text: str) -> Any:
    return burning.enqueue("wire_rq.run_noop", number, text, result_ttl=0)


def echo(number: int, text: str) -> Any:
    return single.enqueue("wire_rq.run_echo", number, text)


def get(sent: Any, timeout: float) -> Any:
    return sent.latest_result(timeout=timeout).return_value
