"""Reading records: what this process remembers of them, and what to do when the backend cannot be read."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kernel import errors, states

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.backend import Backend, Record

_PASSING: Final = (errors.OperationalError, OSError)


class Remembered:
    """The newest records of SUCCESS that this process read, `most` of them (None: all). Usable from any thread."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, task_id: str) -> Record | None:
        with self._lock:
            record = self._records.get(task_id)
            if record is not None:
                self._records.move_to_end(task_id)
            return record

    def add(self, record: Record, *, most: int | None) -> None:
        if record.state != states.SUCCESS:
            return
        with self._lock:
            self._records[record.id] = record
            self._records.move_to_end(record.id)
            while most and len(self._records) > most:
                self._records.popitem(last=False)

    def forget(self, ids: Sequence[str]) -> None:
        with self._lock:
            for task_id in ids:
                self._records.pop(task_id, None)


def remembers(app: Kernel) -> bool:
    """Whether `result_cache_max` asks for it."""
    most = app.conf.result_cache_max
    return most is None or most >= 0


def load(app: Kernel | None, backend: Backend, ids: Sequence[str]) -> Sequence[Record | None]:
    """`backend.load`; with `result_backend_always_retry` again when it fails for a reason that may pass, as often and
    after such pauses as the settings say."""
    if app is None or not app.conf.result_backend_always_retry:
        return backend.load(ids)
    conf = app.conf
    pause = conf.result_backend_base_sleep_between_retries_ms / 1000
    longest = conf.result_backend_max_sleep_between_retries_ms / 1000
    tries = 0
    while True:
        try:
            return backend.load(ids)
        except _PASSING:
            if tries >= conf.result_backend_max_retries:
                raise
        tries += 1
        time.sleep(min(pause, longest))
        pause *= 2
