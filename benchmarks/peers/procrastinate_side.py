"""Drives Procrastinate for one run; prints one JSON object. Run with the peers' Python."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import procrastinate
from procrastinate_app import app, noop

BATCH = 1000


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """The app on a synchronous connection, which is what a program without asyncio uses to send."""
    connector = procrastinate.SyncPsycopgConnector(conninfo=os.environ["BENCH_DATABASE"])
    with app.replace_connector(connector) as ready, ready.open():
        yield ready


def schema() -> dict[str, Any]:
    with opened() as ready:
        ready.schema_manager.apply_schema()
    return {}


def send_bulk(count: int) -> dict[str, Any]:
    with opened():
        began = time.perf_counter()
        for first in range(0, count, BATCH):
            noop.batch_defer(*({"number": number} for number in range(first, min(first + BATCH, count))))
        return {"seconds": time.perf_counter() - began}


def send_single(count: int) -> dict[str, Any]:
    with opened():
        began = time.perf_counter()
        for number in range(count):
            noop.defer(number=number)
        return {"seconds": time.perf_counter() - began}


VERBS = {"schema": schema, "send_bulk": send_bulk, "send_single": send_single}

if __name__ == "__main__":
    print(json.dumps(VERBS[sys.argv[1]](*map(int, sys.argv[2:]))))
