"""A hook plugin: a line in a file for each task that ends, and a switch that holds tasks back.

The worker's engine and its children are different processes, and each has an instance of its own. Hooks of the
engine learn the settings from `worker.settings`, those of a child from `child.app.conf`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel import states
from kernel.hooks import ChildInfo, Finding, TaskOption, WorkerInfo, hookimpl
from kernel.interfaces.broker import Delivery
from kernel.interfaces.outcome import Admission, Delay, Outcome
from kernel.interfaces.setting import Setting

if TYPE_CHECKING:
    from kernel import Kernel, Request


class Audit:
    """The plugin ``acme-audit``."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._hold: Path | None = None
        self._lock = threading.Lock()

    @hookimpl
    def kernel_settings(self) -> Sequence[Setting]:
        return (
            Setting("acme_audit_file", "str", None, "File that gets a line for each task that ends.", optional=True),
            Setting("acme_hold_file", "str", None, "While this file exists, no task starts.", optional=True),
        )

    @hookimpl
    def kernel_task_options(self, app: Kernel) -> Mapping[str, TaskOption]:
        return {"audit": TaskOption(True, bool, "Whether the ends of this task are noted.")}

    # --- in the engine --------------------------------------------------------------------------------------

    @hookimpl
    def kernel_worker_start(self, worker: WorkerInfo) -> None:
        self._hold = _path(worker.settings.get("acme_hold_file"))

    @hookimpl
    def kernel_task_admit(self, delivery: Delivery) -> Admission | None:
        # Called for every message: one look at a file, and no opinion in the ordinary case.
        return Delay(1.0) if self._hold is not None and self._hold.exists() else None

    # --- in the children ------------------------------------------------------------------------------------

    @hookimpl
    def kernel_child_start(self, child: ChildInfo) -> None:
        self._file = _path(child.app.conf["acme_audit_file"])

    @hookimpl
    def kernel_task_end(self, request: Request, outcome: Outcome) -> None:
        if self._file is None or outcome.state == states.RETRY or not _is_audited(request):
            return
        line = json.dumps({"id": request.id, "task": request.task, "state": outcome.state})
        with self._lock, self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    # --- on the command line --------------------------------------------------------------------------------

    @hookimpl
    def kernel_doctor(self, app: Kernel) -> Sequence[Finding]:
        file = _path(app.conf["acme_audit_file"])
        if file is None:
            return [Finding("acme-audit", "ok", "off: acme_audit_file is not set")]
        if not file.parent.is_dir():
            return [Finding("acme-audit", "fail", f"there is no folder {file.parent}", "make it, or name another file")]
        return [Finding("acme-audit", "ok", f"writes to {file}")]


def _path(value: Any) -> Path | None:
    return Path(value) if value else None


def _is_audited(request: Request) -> bool:
    task = request.app.tasks.get(request.task) if request.app is not None and request.task else None
    return bool(getattr(task, "audit", True))
