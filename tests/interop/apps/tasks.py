"""The tasks of both apps. `fill` adds them to an app of either kind: their decorators take the same options."""

from __future__ import annotations

import time
from typing import Any

import bodies


def fill(app: Any, side: str, ignore: type[Exception], reject: Any) -> None:
    """Give `app` its tasks. `side` is what they call themselves; `ignore` and `reject` are its exceptions."""

    @app.task(name="shop.echo")
    def echo(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"side": side, "args": list(args), "kwargs": kwargs}

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="shop.mark")
    def mark(key: str, seconds: float = 0.0) -> None:
        if seconds:
            time.sleep(seconds)
        bodies.note("mark", side, key)

    @app.task(name="shop.count", bind=True)
    def count(self: Any, seconds: float) -> None:
        time.sleep(seconds)
        bodies.note("count", side, self.request.id)

    @app.task(name="shop.fail")
    def fail(kind: str) -> None:
        raise bodies.RAISED[kind]()

    @app.task(name="shop.give_up", bind=True)
    def give_up(self: Any, how: str) -> None:
        raise (ignore() if how == "ignore" else reject("no", requeue=False))

    @app.task(name="shop.about", bind=True)
    def about(self: Any, *args: Any) -> dict[str, Any]:
        return {**bodies.facts(side, self.request), "args": list(args)}

    @app.task(name="shop.hop", bind=True, max_retries=20)
    def hop(self: Any, times: int, queues: list[str], path: list[str], pause: float = 0.0) -> list[str]:
        """Asks to be run again in the next of `queues`, until it has been so `times`; the sides that it ran on."""
        path = [*path, f"{side}:{self.request.retries}"]
        if self.request.retries >= times:
            return path
        following = queues[(self.request.retries + 1) % len(queues)]
        raise self.retry(args=(times, queues, path, pause), queue=following, countdown=pause)

    @app.task(name="shop.stubborn", bind=True, max_retries=2, default_retry_delay=0)
    def stubborn(self: Any) -> None:
        try:
            raise bodies.ShopError("never", self.request.retries)
        except bodies.ShopError as exc:
            raise self.retry(exc=exc) from exc

    @app.task(name="shop.later", bind=True, max_retries=1)
    def later(self: Any, pause: float) -> str:
        if not self.request.retries:
            raise self.retry(exc=bodies.ShopError("not yet", 1), countdown=pause)
        return side

    @app.task(name="shop.progress", bind=True)
    def progress(self: Any, *paths: str) -> str:
        """Stays in STARTED until the first file is there, and in PROGRESS until the second."""
        bodies.wait_for(paths[0])
        self.update_state(state="PROGRESS", meta={"done": 3, "of": 7})
        bodies.wait_for(paths[1])
        return side

    @app.task(name="shop.noted")
    def noted(*words: Any) -> None:
        bodies.note("noted", side, *words)

    @app.task(name="shop.old_errback", bind=True)
    def old_errback(self: Any, failed: str) -> None:
        bodies.note("old", side, failed, self.request.parent_id)

    @app.task(name="shop.new_errback")
    def new_errback(request: Any, exc: Any, traceback: Any) -> None:
        bodies.note("new", side, request.id, type(exc).__name__)
