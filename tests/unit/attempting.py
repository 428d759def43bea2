"""Attempts without a worker: a request, a task, and the conclusion."""

from __future__ import annotations

import contextvars
from typing import Any

from kernel import attempt
from kernel.app import Kernel
from kernel.attempt import Conclusion, Loops, Prepared
from kernel.guard import Guard
from kernel.request import Request, current_request
from kernel.task import Task


def request_of(app: Kernel, task: Task[..., Any], *args: Any, **fields: Any) -> Request:
    return Request(
        **{"app": app, "id": "id-1", "task": task.name, "args": args, "called_directly": False, "root_id": "id-1"}
        | fields
    )


def attempted(
    app: Kernel, task: Task[..., Any], *args: Any, guard: Guard | None = None, loops: Loops | None = None, **fields: Any
) -> Conclusion:
    request = request_of(app, task, *args, **fields)
    used = loops or Loops()

    def run() -> Conclusion:
        current_request.set(request)
        return attempt.run(Prepared(app, task), request, guard=guard or Guard(), loops=used)

    try:
        return contextvars.copy_context().run(run)
    finally:
        if loops is None:
            used.close()
