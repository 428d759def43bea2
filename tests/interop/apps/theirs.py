"""Celery's app."""

from __future__ import annotations

import os
from typing import Any

import bodies
import routes
import tasks
from celery import Celery
from celery.exceptions import Ignore, Reject
from kombu import Exchange, Queue
from kombu.common import Broadcast

FORMATS = ["json", "pickle", "yaml", "msgpack"]


def make(name: str, **settings: Any) -> Celery:
    app = Celery(name, broker=os.environ["INTEROP_BROKER"], backend=os.environ["INTEROP_BACKEND"])
    app.conf.update(
        accept_content=FORMATS,
        result_extended=True,
        task_track_started=True,
        result_serializer=os.environ.get("INTEROP_RESULTS", "json"),
        result_compression=os.environ.get("INTEROP_PRESS"),
        task_default_queue=bodies.THEIRS,
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=int(os.environ.get("INTEROP_PREFETCH", "1")),
        task_acks_late=os.environ.get("INTEROP_LATE") == "1",
        broker_transport_options={"visibility_timeout": float(os.environ.get("INTEROP_VISIBILITY", "3600"))},
    )
    if settings.pop("routed", os.environ.get("INTEROP_ROUTED")):
        app.conf.update(routes.settings(bodies.THEIRS, Queue, Exchange, Broadcast))
    app.conf.update(settings)
    tasks.fill(app, bodies.THEIRS, Ignore, Reject)
    return app


app = make("theirs")
