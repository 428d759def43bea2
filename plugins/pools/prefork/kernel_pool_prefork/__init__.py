"""One task at a time in each of several child processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from kernel.interfaces.pool import INTERFACE, Drained, Inbox, Job, PoolCapabilities, PoolConfig
from kernel.interfaces.setting import Setting

__all__ = ["PreforkPool"]

_log = logging.getLogger("kernel.pool.prefork")

_WAIT: Final = 5.0


class PreforkPool:
    """See `kernel.interfaces.pool.Pool`. One slot; concurrency is the number of processes."""

    interface = INTERFACE
    capabilities = PoolCapabilities(slots_are_processes=True, in_process=False)
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
