"""What the tasks of both apps do, and the exceptions they raise. Imported on both sides; standard library only."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import Any

LEDGER = os.environ.get("INTEROP_LEDGER", "")
PATIENCE = 30.0

OURS, THEIRS = "kernel", "celery"


class ShopError(Exception):
    """An exception of the user's own, with two arguments."""


class Wrapping(Exception):
    """One that cannot be made from its `args` by calling its class."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Outer:
    class Nested(ValueError):
        """One whose qualified name has a dot."""


RAISED: dict[str, Any] = {
    "value": lambda: ValueError("no such thing", 7),
    "key": lambda: KeyError("žluť"),
    "file": lambda: FileNotFoundError(2, "No such file or directory", "/nowhere"),
    "shop": lambda: ShopError("sold out", 404),
    "nested": lambda: Outer.Nested("inside"),
    "wrapping": lambda: Wrapping(5, text="wrapped"),
    "bare": lambda: RuntimeError(),
    "lock": lambda: ShopError("cannot be sent", object),
}


def note(*words: object) -> None:
    """A line in the ledger, in a single write."""
    fd = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(fd)


def wait_for(path: str) -> None:
    """Until the file is there."""
    deadline = time.monotonic() + PATIENCE
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)


def facts(side: str, request: Any) -> dict[str, Any]:
    """What a task knows of itself, as far as both systems have a name for it."""
    info = request.delivery_info or {}
    return {
        "side": side,
        "at": time.time(),
        "id": request.id,
        "task": request.task,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "correlation_id": request.correlation_id,
        "retries": request.retries,
        "eta": _text(request.eta),
        "expires": _text(request.expires),
        "timelimit": list(request.timelimit or (None, None)),
        "group": request.group,
        "group_index": request.group_index,
        "headers": request.headers,
        "argsrepr": request.argsrepr,
        "kwargsrepr": request.kwargsrepr,
        "ignore_result": request.ignore_result,
        "shadow": request.shadow,
        "stamped_headers": request.stamped_headers,
        "stamps": request.stamps,
        "priority": info.get("priority"),
        "exchange": info.get("exchange"),
        "routing_key": info.get("routing_key"),
    }


def _text(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
