"""A distributed task queue, built as a microkernel: `Kernel` is the app, `@app.task` makes tasks of functions.

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.blueprint import Blueprint, shared_task
    from kernel.canvas import StampingVisitor, chain, chunks, group, xmap, xstarmap
    from kernel.canvas.chord import chord
    from kernel.errors import Ignore, KernelError, OperationalError, Reject, Retry, SoftTimeLimitExceeded
    from kernel.groupresult import GroupResult, ResultSet
    from kernel.hooks import hookimpl
    from kernel.log import get_task_logger
    from kernel.request import Request
    from kernel.result import AsyncResult, EagerResult, allow_join_result
    from kernel.routing.exchange import Exchange
    from kernel.routing.queue import Broadcast, Queue, binding
    from kernel.signature import Signature, maybe_signature
    from kernel.task import Task

__all__ = [
    "AsyncResult",
    "Blueprint",
    "Broadcast",
    "EagerResult",
    "Exchange",
    "GroupResult",
    "Ignore",
    "Kernel",
    "KernelError",
    "OperationalError",
    "Queue",
    "Reject",
    "Request",
    "ResultSet",
    "Retry",
    "Signature",
    "SoftTimeLimitExceeded",
    "StampingVisitor",
    "Task",
    "allow_join_result",
    "binding",
    "chain",
    "chord",
    "chunks",
    "get_task_logger",
    "group",
    "hookimpl",
    "maybe_signature",
    "shared_task",
    "xmap",
    "xstarmap",
]

__version__ = "2026.11.0"

_HOMES = {
    "AsyncResult": "result",
    "Blueprint": "blueprint",
    "Broadcast": "routing.queue",
    "EagerResult": "result",
    "Exchange": "routing.exchange",
    "GroupResult": "groupresult",
    "Ignore": "errors",
    "Kernel": "app",
    "KernelError": "errors",
    "OperationalError": "errors",
    "Queue": "routing.queue",
    "Reject": "errors",
    "Request": "request",
    "ResultSet": "groupresult",
    "Retry": "errors",
    "Signature": "signature",
    "SoftTimeLimitExceeded": "errors",
    "StampingVisitor": "canvas",
    "Task": "task",
    "allow_join_result": "result",
    "binding": "routing.queue",
    "chain": "canvas",
    "chord": "canvas",
    "chunks": "canvas",
    "get_task_logger": "log",
    "group": "canvas",
    "hookimpl": "hooks",
    "maybe_signature": "signature",
    "shared_task": "blueprint",
    "xmap": "canvas",
    "xstarmap": "canvas",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'kernel' has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f"kernel.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
