"""Procrastinate on PostgreSQL. Its worker loads this module."""

from __future__ import annotations

import os
from typing import Any

import procrastinate
from marks import mark

app: Any = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_DATABASE"]))


@app.task(name="noop")
def noop(number: int) -> None:
    mark(number)
