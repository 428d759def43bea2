"""The tasks that canvases are made of, for an app of ours or of Celery's, and the ledger where each of them notes its
runs. Standard library alone: the peers' environment imports this, too."""

from __future__ import annotations

import json
import os
import time
from typing import Any

PATIENCE = float(os.environ.get("SHOP_PATIENCE", "30"))
"""Seconds until something that must happen is taken to hang."""


class Ledger:
    """A file with one line for each run of a task, which survives the end of any process."""

    def __init__(self, path: str) -> None:
        self.path = path

    def add(self, entry: dict[str, Any]) -> None:
        """A line, in a single write."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, (json.dumps(entry) + "\n").encode())
        finally:
            os.close(fd)

    def of(self, token: str) -> list[dict[str, Any]]:
        """The lines of one case."""
        if not os.path.exists(self.path):
            return []
        with open(self.path, encoding="utf-8") as file:
            entries = [json.loads(line) for line in file if token in line]
        return [entry for entry in entries if entry["token"] == token]


def fill(app: Any, ledger: Ledger, ignore: type[Exception], reject: type[Exception]) -> None:
    """Give `app` its tasks. `mark` is ``token:label``: who runs for which case."""

    def note(request: Any, mark: str, *args: Any) -> None:
        token, _, label = mark.partition(":")
        found = {name: getattr(request, name) for name in ("id", "root_id", "parent_id", "group", "group_index")}
        ledger.add({"token": token, "label": label, "args": list(args), **found})

    @app.task(name="shop.add", bind=True)
    def add(self: Any, x: Any, y: Any, mark: str = "") -> Any:
        note(self.request, mark, x, y)
        return x + y

    @app.task(name="shop.double", bind=True)
    def double(self: Any, x: Any, mark: str = "") -> Any:
        note(self.request, mark, x)
        return 2 * x

    @app.task(name="shop.total", bind=True)
    def total(self: Any, numbers: list[Any], mark: str = "") -> Any:
        note(self.request, mark, numbers)
        return sum(numbers)

    @app.task(name="shop.echo", bind=True)
    def echo(self: Any, *args: Any, mark: str = "", **kwargs: Any) -> Any:
        note(self.request, mark, *args)
        return [*args, kwargs] if kwargs else list(args)

    @app.task(name="shop.fail", bind=True)
    def fail(self: Any, x: Any = None, mark: str = "") -> None:
        note(self.request, mark, x)
        raise ValueError(f"no {x}")

    @app.task(name="shop.ignore", bind=True)
    def ignored(self: Any, x: Any = None, mark: str = "") -> None:
        note(self.request, mark, x)
        raise ignore()

    @app.task(name="shop.reject", bind=True)
    def rejected(self: Any, x: Any = None, mark: str = "") -> None:
        note(self.request, mark, x)
        raise reject("no")

    @app.task(name="shop.again", bind=True, max_retries=3)
    def again(self: Any, x: Any, times: int = 1, mark: str = "") -> Any:
        """Its value after so many retries."""
        note(self.request, mark, x, self.request.retries)
        if self.request.retries < times:
            raise self.retry(exc=ValueError("not yet"), countdown=0)
        return x

    @app.task(name="shop.old", bind=True)
    def old(self: Any, failed: str, mark: str = "") -> str:
        """An errback of the old kind: a task of its own, called with the id of the failed one."""
        note(self.request, mark, failed)
        return failed

    @app.task(name="shop.new")
    def new(request: Any, exc: BaseException, traceback: Any, mark: str = "") -> None:
        """An errback of the new kind, called where the task failed."""
        note(request, mark, type(exc).__name__, str(exc))


class Shop:
    """What a row of the table makes its canvas with: the primitives of one of the systems, and signatures that are
    marked with the case they are for."""

    def __init__(self, app: Any, primitives: Any, ledger: Ledger, token: str) -> None:
        self.app = app
        self.ledger = ledger
        self.token = token
        for name in ("chain", "group", "chord", "chunks", "xmap", "xstarmap"):
            setattr(self, name, getattr(primitives, name, None))

    def __getattr__(self, name: str) -> Any:
        """``shop.add("label", 1, 2)`` is a signature of the task ``shop.add``."""
        if name.startswith("_"):
            raise AttributeError(name)
        task = self.app.tasks[f"shop.{name}"]
        return lambda label, *args, **kwargs: task.s(*args, mark=f"{self.token}:{label}", **kwargs)

    def task(self, name: str) -> Any:
        return self.app.tasks[f"shop.{name}"]

    def entries(self, count: int) -> list[dict[str, Any]]:
        """The lines of this case, once there are `count` of them."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self.ledger.of(self.token)
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.005)


def frozen(signature: Any) -> Any:
    signature.freeze()
    return signature


def linked(signature: Any, callback: Any) -> Any:
    signature.link(callback)
    return signature


def failing(signature: Any, errback: Any) -> Any:
    signature.link_error(errback)
    return signature


def immutable(signature: Any) -> Any:
    signature.set_immutable(True)
    return signature


def as_json(signature: Any) -> Any:
    """What is left of a signature on its way through JSON."""
    return json.loads(json.dumps(signature))
