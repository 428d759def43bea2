"""Celery, as shipped. Its worker loads this module."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from marks import mark

app: Any = Celery("wire", broker=os.environ["BENCH_DATABASE"], backend=os.environ["BENCH_RESULTS"])
if os.environ.get("BENCH_CONFIRMS") == "1":
    app.conf.broker_transport_options = {"confirm_publish": True}
app.conf.task_routes = {
    "noop": {"queue": "burning"},
    **{name: {"queue": "single"} for name in ("echo", "step", "collect")},
}


@app.task(name="noop", ignore_result=True)
def run_noop(number: int, text: str = "") -> None:
    mark(number)


@app.task(name="echo")
def run_echo(number: int, text: str = "") -> list[Any]:
    mark(number)
    return [number, text]


@app.task(name="step")
def step(number: int) -> int:
    mark(number)
    return number + 1


@app.task(name="collect")
def collect(values: list[list[Any]]) -> list[int]:
    return [len(values), sum(number for number, _ in values)]


noop = run_noop.delay
echo = run_echo.delay


def get(sent: Any, timeout: float) -> Any:
    return sent.get(timeout=timeout)
