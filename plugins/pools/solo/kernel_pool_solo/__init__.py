"""One task at a time, on the thread that calls."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from kernel.interfaces.pool import INTERFACE, Drained, Inbox, Job, PoolCapabilities, PoolConfig
from kernel.interfaces.setting import Setting

__all__ = ["SoloPool"]

_log = logging.getLogger("kernel.pool.solo")

_WAIT: Final = 5.0


class SoloPool:
    """See `kernel.interfaces.pool.Pool`. Has one slot, whatever the configuration says."""

    interface = INTERFACE
    capabilities = PoolCapabilities(default_concurrency=1)
    settings: tuple[Setting, ...] = ()

    def __init__(self, config: PoolConfig) -> None:
        self._config = config

    def serve(self, inbox: Inbox) -> None:
        try:
            while True:
                for job in _take(inbox):
                    _run(job)
        except Drained:
            inbox.idle()


def _take(inbox: Inbox) -> Sequence[Job]:
    # One at a time: a job that waits in here can be taken back by nobody.
    jobs = inbox.take(1, 0)
    if not jobs:
        inbox.idle()
        jobs = inbox.take(1, _WAIT)
    return jobs


def _run(job: Job) -> None:
    try:
        job.run()
    except Exception:
        # Jobs do not raise. One that does is a defect of its maker, and no reason to leave the others unrun.
        _log.exception("a job raised, and how it ended is not known: %r", job)
