"""arq. Its worker loads this module."""

from __future__ import annotations

import os
from typing import Any

from arq import create_pool, func
from arq.connections import RedisSettings
from marks import mark

settings = RedisSettings.from_dsn(os.environ["BENCH_DATABASE"])
pools: list[Any] = []


async def run_noop(_context: dict[str, Any], number: int, text: str = "") -> None:
    mark(number)


async def run_echo(_context: dict[str, Any], number: int, text: str = "") -> list[Any]:
    mark(number)
    return [number, text]


class WorkerSettings:
    functions = (func(run_noop, name="noop", keep_result=0), func(run_echo, name="echo"))
    redis_settings = settings
    max_jobs = 100 if os.environ.get("BENCH_KIND") == "asyncio" else 10


async def start() -> None:
    pools.append(await create_pool(settings))


async def stop() -> None:
    await pools.pop().aclose()


async def noop(number: int, text: str) -> Any:
    return await pools[0].enqueue_job("noop", number, text)


anoop = noop


async def echo(number: int, text: str) -> Any:
    return await pools[0].enqueue_job("echo", number, text)


async def get(sent: Any, seconds: float) -> Any:
    return await sent.result(timeout=seconds, poll_delay=0.001)
