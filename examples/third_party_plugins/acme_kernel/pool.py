"""A pool that dispatches from the calling thread to an executor."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from kernel.interfaces.pool import Drained, Inbox, Job, PoolCapabilities, PoolConfig
from kernel.interfaces.setting import Setting


class AcmePool:
    """``-P acme``. As many jobs at once as the worker's concurrency says."""

    interface = (1, 0)
    capabilities = PoolCapabilities(default_concurrency=4)
    settings = (Setting("acme_thread_name", "str", "acme", "What the threads of the acme pool are called."),)

    def __init__(self, config: PoolConfig) -> None:
        self._slots = max(1, config.slots)
        self._name = config.settings.get("acme_thread_name", "acme")

    def serve(self, inbox: Inbox) -> None:
        """Returns when the inbox is drained and everything that was taken has ended."""
        free = threading.Semaphore(self._slots)
        idle = threading.Event()
        with ThreadPoolExecutor(self._slots, thread_name_prefix=self._name) as executor:
            try:
                while True:
                    # A job that nobody can run yet stays in the inbox, where another process may take it.
                    free.acquire()
                    jobs = self._take(inbox, idle)
                    if not jobs:
                        free.release()
                    for job in jobs:
                        executor.submit(self._run, job, inbox, free, idle)
            except Drained:
                pass
            finally:
                # From here on each job that ends sends its outcome itself: nobody else will.
                idle.set()
        inbox.idle()

    def _take(self, inbox: Inbox, idle: threading.Event) -> Sequence[Job]:
        jobs = inbox.take(1, 0)
        if jobs:
            return jobs
        inbox.idle()
        idle.set()
        jobs = inbox.take(1, 5.0)
        idle.clear()
        return jobs

    def _run(self, job: Job, inbox: Inbox, free: threading.Semaphore, idle: threading.Event) -> None:
        try:
            job.run()
        finally:
            free.release()
            # While this thread worked, the calling one began to wait: what has ended must not wait with it.
            if idle.is_set():
                inbox.idle()
