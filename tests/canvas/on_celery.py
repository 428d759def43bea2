"""The table on Celery: a worker in this process, a broker in its memory. Run by the peers' Python with a folder as its
argument; it writes what was seen of each case, as JSON, on standard output."""

from __future__ import annotations

import dataclasses
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Ignore, Reject

from tests.canvas.case import Seen, check, observe
from tests.canvas.shop import Ledger, Shop, fill
from tests.canvas.table import CASES

ATTEMPTS = 3


def make(folder: Path) -> tuple[Any, Ledger]:
    app = celery.Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=True)
    app.conf.update(
        task_default_retry_delay=0, worker_hijack_root_logger=False, broker_transport_options={"polling_interval": 0.01}
    )
    ledger = Ledger(str(folder / "ledger"))
    fill(app, ledger, Ignore, Reject)
    return app, ledger


def seen_of(case: Any, app: Any, ledger: Ledger) -> dict[str, Any]:
    # What it does may depend on what comes first; asked is whether it can do what the table says.
    for _ in range(ATTEMPTS):
        shop = Shop(app, celery, ledger, uuid.uuid4().hex)
        try:
            seen = observe(case, shop)
            check(dataclasses.replace(case, **case.celery), seen)
            break
        except AssertionError:
            continue
        except Exception as exc:
            seen = Seen(error=(type(exc).__name__, f"at the caller: {exc}"))
    return {**dataclasses.asdict(seen), "children": {label: sorted(ids) for label, ids in seen.children.items()}}


def main(folder: Path) -> None:
    app, ledger = make(folder)
    with start_worker(app, pool="threads", concurrency=4, perform_ping_check=False, loglevel="CRITICAL"):
        found = {case.name: seen_of(case, app, ledger) for case in CASES if not case.celery_cannot}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
