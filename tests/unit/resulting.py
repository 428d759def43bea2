"""What tests of results stand on: records of any state in a backend, and groups of results by their ids."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from kernel import failure, states
from kernel.app import Kernel
from kernel.groupresult import GroupResult
from kernel.interfaces.backend import Record


def record(app: Kernel, task_id: str, state: str, value: Any = None, **fields: Any) -> Record:
    if isinstance(value, BaseException):
        value = failure.encode_exception(value)
    data, content_type, encoding = app.codecs.encode_result(value)
    return Record(id=task_id, state=state, result=data, content_type=content_type, content_encoding=encoding, **fields)


def store(app: Kernel, task_id: str, value: Any = None, *, state: str = states.SUCCESS, **fields: Any) -> None:
    app.backend.store([record(app, task_id, state, value, **fields)])


def group_of(app: Kernel, *names: str, id: str = "g") -> GroupResult:
    return GroupResult(id, [app.AsyncResult(name) for name in names], app=app)


def later(step: Callable[[], object], seconds: float = 0.05) -> threading.Timer:
    timer = threading.Timer(seconds, step)
    timer.daemon = True
    timer.start()
    return timer
