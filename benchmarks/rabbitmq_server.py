"""A RabbitMQ node of our own for all runs, and for each run a virtual host with nothing of an earlier run in it."""

from __future__ import annotations

import atexit
import functools
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from benchmarks.postgresql import Missing
from kernel.testing.rabbitmq import RabbitProcess, rabbitmq_server

_NUMBERS = itertools.count()


@contextmanager
def server() -> Iterator[str]:
    """The URL of a new virtual host, which is gone afterwards."""
    node = _node()
    name = f"bench{next(_NUMBERS)}"
    url = node.add_vhost(name)
    try:
        yield url
    finally:
        node.delete_vhost(name)


@functools.cache
def _node() -> RabbitProcess:
    # A start takes seconds, and there are hundreds of runs.
    stack = ExitStack()
    try:
        node = stack.enter_context(rabbitmq_server())
    except (pytest.skip.Exception, pytest.fail.Exception) as error:
        raise Missing(str(error)) from None
    atexit.register(stack.close)
    return node
