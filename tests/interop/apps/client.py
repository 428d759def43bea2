"""A client of Celery's, driven from outside: one request a line on standard input, one answer a line on standard
output, each a pickle in base64. It runs in the peers' environment."""

from __future__ import annotations

import base64
import pickle
import sys
from typing import Any

import bodies
import theirs
from celery import chain, chord, group


class Client:
    def __init__(self) -> None:
        self.apps: dict[str, Any] = {"": theirs.app}

    def configure(self, name: str, **settings: Any) -> None:
        self.apps[name] = theirs.make(name, **settings)

    def signature(self, app: Any, described: dict[str, Any]) -> Any:
        options = dict(described)
        return app.signature(options.pop("task"), options.pop("args", ()), options.pop("kwargs", {}), **options)

    def send(self, task: str, args: Any, kwargs: Any, options: dict[str, Any]) -> str:
        app = self.apps[options.pop("app", "")]
        for name in ("link", "link_error"):
            if name in options:
                options[name] = [self.signature(app, each) for each in options[name]]
        return app.tasks[task].apply_async(args, kwargs, **options).id

    def send_many(self, task: str, calls: list[Any], **options: Any) -> list[str]:
        return [self.apps[""].tasks[task].apply_async(args, **options).id for args in calls]

    def chain(self, *described: dict[str, Any]) -> list[str]:
        app = self.apps[""]
        result = chain(*(self.signature(app, each) for each in described)).apply_async()
        ids = []
        while result is not None:
            ids.append(result.id)
            result = result.parent
        return ids[::-1]

    def canvas(self, app: Any, described: Any) -> Any:
        """A task, or ``{"chain": [...]}`` or ``{"group": [...]}`` of such."""
        if "chain" in described:
            return chain(*(self.canvas(app, each) for each in described["chain"]))
        if "group" in described:
            return group(*(self.canvas(app, each) for each in described["group"]))
        return self.signature(app, described)

    def chord(self, header: list[Any], body: Any) -> str:
        app = self.apps[""]
        return chord([self.canvas(app, each) for each in header])(self.canvas(app, body)).id

    def apply(self, data: dict[str, Any]) -> list[Any]:
        """Send the canvas that a dictionary is; the ids of its result and its parents, lists for groups."""
        result, path = self.apps[""].signature(data).apply_async(), []
        while result is not None:
            members = getattr(result, "results", None)
            path.append(result.id if members is None else [member.id for member in members])
            result = result.parent
        return path

    def group(self, *described: dict[str, Any], timeout: float) -> Any:
        app = self.apps[""]
        result = group(*(self.signature(app, each) for each in described)).apply_async()
        return result.id, result.get(timeout=timeout)

    def result(self, id: str, app: str = "") -> Any:
        return self.apps[app].AsyncResult(id)

    def get(self, id: str, timeout: float, app: str = "") -> Any:
        """``("value", value)`` or ``("error", what the exception is)``."""
        return outcome(lambda: self.result(id, app).get(timeout=timeout))

    def watch(self, id: str, timeout: float) -> list[Any]:
        """All that is told while waiting for the end."""
        seen: list[Any] = []
        self.result(id).get(timeout=timeout, propagate=False, on_message=seen.append)
        return [(meta["status"], plain(meta["result"])) for meta in seen]

    def look(self, id: str, app: str = "") -> dict[str, Any]:
        result = self.result(id, app)
        return {
            "state": result.state,
            "result": plain(result.result),
            "traceback": result.traceback,
            "children": None if result.children is None else [getattr(child, "id", child) for child in result.children],
            "date_done": result.date_done and result.date_done.isoformat(),
            **{name: getattr(result, name) for name in ("name", "args", "kwargs", "worker", "retries", "queue")},
            "parent_id": result._get_task_meta().get("parent_id"),
        }

    def store(self, id: str, value: Any, state: str, app: str = "", error: str = "") -> None:
        backend = self.apps[app].backend
        backend.store_result(
            id, bodies.RAISED[error]() if error else value, state, traceback="a text" if error else None
        )

    def leave(self, node: str, queue: str) -> bool:
        """Whether the worker `node` said that it takes no more from `queue`."""
        return bool(self.apps[""].control.cancel_consumer(queue, destination=[node], reply=True, timeout=5))

    def held(self, node: str) -> int | None:
        """How many messages the worker `node` has that have not ended; None when it did not answer."""
        asked = self.apps[""].control.inspect(destination=[node], timeout=5, limit=1)
        answers = [asked.reserved(), asked.active()]
        return sum(len(answer[node]) for answer in answers) if all(answers) else None

    def forget(self, id: str) -> None:
        self.result(id).forget()


def outcome(get: Any) -> Any:
    try:
        return "value", get()
    except Exception as exc:
        return "error", described(exc)


def described(exc: BaseException) -> tuple[str, str, list[Any], str]:
    """As data, since the classes that Celery makes up for those it does not find cannot be pickled."""
    args = [arg if isinstance(arg, str | int | float | type(None)) else repr(arg) for arg in exc.args]
    return type(exc).__module__, type(exc).__qualname__, args, str(exc)


def plain(value: Any) -> Any:
    return described(value) if isinstance(value, BaseException) else value


def main() -> None:
    client = Client()
    for line in sys.stdin.buffer:
        verb, args, kwargs = pickle.loads(base64.b64decode(line))
        answer = outcome(lambda verb=verb, args=args, kwargs=kwargs: getattr(client, verb)(*args, **kwargs))
        sys.stdout.buffer.write(base64.b64encode(pickle.dumps(answer)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
