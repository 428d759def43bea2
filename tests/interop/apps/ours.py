"""Our app. The worker takes `app`; the tests make their own with `make`."""

from __future__ import annotations

import os
from typing import Any

import bodies
import routes
import tasks

from kernel import Broadcast, Exchange, Kernel, Queue
from kernel.errors import Ignore, Reject

FORMATS = ["json", "pickle", "yaml", "msgpack"]


def make(name: str, broker: str, backend: str, **settings: Any) -> Kernel:
    chosen = {
        "accept_content": FORMATS,
        "result_extended": True,
        "task_track_started": True,
        "result_serializer": os.environ.get("INTEROP_RESULTS", "json"),
        "result_compression": os.environ.get("INTEROP_PRESS"),
        "task_default_queue": bodies.OURS,
        "worker_lease": 2.0,
        **settings,
    }
    if chosen.pop("routed", os.environ.get("INTEROP_ROUTED")):
        chosen.update(routes.settings(bodies.OURS, Queue, Exchange, Broadcast))
    app = Kernel(name, broker=broker, backend=backend, **chosen)
    tasks.fill(app, bodies.OURS, Ignore, Reject)
    return app


if "INTEROP_BROKER" in os.environ:
    app = make("ours", os.environ["INTEROP_BROKER"], os.environ["INTEROP_BACKEND"])
