"""The peers that run on the brokers that are servers, and how each starts a worker with so many slots."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from benchmarks.cases.wire import Peer

Commands = Sequence[Sequence[str]]


def _celery(kind: str) -> Commands:
    pool = {"processes": ["-P", "prefork", "-c", "2"], "threads": ["-P", "threads", "-c", "8"]}[kind]
    return [["celery", "-A", "wire_celery", "worker", "-Q", "single,burning", "-l", "INFO", *pool]]


def _dramatiq(kind: str) -> Commands:
    shape = {"processes": ["-p", "2"], "threads": ["-p", "1", "-t", "8"]}[kind]
    return [["dramatiq", "wire_dramatiq", *shape]]


def _taskiq(kind: str) -> Commands:
    shape = {"processes": ["-w", "2"], "threads": ["-w", "1", "--max-threadpool-threads", "8"], "asyncio": ["-w", "1"]}
    return [["taskiq", "worker", "wire_taskiq:broker", *shape[kind], "--max-async-tasks", "100"]]


def _huey(kind: str) -> Commands:
    shape = {"processes": ["-k", "process", "-w", "2"], "threads": ["-k", "thread", "-w", "8"]}[kind]
    return [["huey_consumer", "wire_huey.huey", *shape]]


def _arq(kind: str) -> Commands:
    return [["arq", "wire_arq.WorkerSettings"]] * (2 if kind == "processes" else 1)


def _rq(_kind: str) -> Commands:
    return [["rq", "worker-pool", "-n", "2", "-c", "wire_rq_settings", "single", "burning"]]


CELERY = Peer("celery", _celery, ("processes", "threads"), share=0.25, neighbours=True)
DRAMATIQ = Peer("dramatiq", _dramatiq, ("processes", "threads"), share=0.5, neighbours=True)
TASKIQ = Peer("taskiq", _taskiq, ("processes", "threads", "asyncio"), share=0.4)
HUEY = Peer("huey", _huey, ("processes", "threads"), share=0.4, stop=signal.SIGINT)
ARQ = Peer("arq", _arq, ("processes", "asyncio"), share=0.1, home="arq")
RQ = Peer("rq", _rq, share=0.02)
