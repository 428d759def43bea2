"""`Calls`: from what a user says (`delay`, `apply_async`, `send_task`) to publications and results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel import errors
from kernel.app.oncommit import HeldCall, is_own_way, split_session, unit_for
from kernel.app.ways import way_of
from kernel.call import Call
from kernel.naming import new_id
from kernel.options import FOLLOWING, ROUTED, SENDING, split_call_options
from kernel.result import AsyncResult
from kernel.routing.spread import declare_entities
from kernel.task import Task

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.interfaces.unit import Unit
    from kernel.message import Publication
    from kernel.request import Request

_NOT_HERE: Final = ("serializer", "compression", "queue", "exchange", "routing_key", "countdown", "eta")
"""Options that mean nothing to what runs here."""

Ids = Callable[[], Sequence[str]]


class Calls:
    """Publishes calls of one app, and hands out their results."""

    def __init__(self, app: Kernel) -> None:
        self._app = app

    def call(
        self,
        task: Task[..., Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> AsyncResult[Any]:
        """One call, stored when this returns; in eager mode, run."""
        if self._app.conf.task_always_eager:
            return self._eager(task, args, kwargs, options)
        publication, options = self._prepared(task, args, kwargs, options)
        self._send((publication,), options)
        return self._result(task, publication, options)

    async def acall(
        self,
        task: Task[..., Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> AsyncResult[Any]:
        """The same, without holding up the event loop."""
        if self._app.conf.task_always_eager:
            import asyncio

            return await asyncio.to_thread(self._eager, task, args, kwargs, options)
        publication, options = self._prepared(task, args, kwargs, options)
        await self._app.bridge.publish(publication, **await self._asending(options))
        return self._result(task, publication, options)

    def call_many(
        self, task: Task[..., Any], calls: Iterable[Sequence[Any] | Mapping[str, Any]], options: Mapping[str, Any]
    ) -> list[AsyncResult[Any]]:
        """Many calls, all encoded before the first is sent."""
        if options.get("task_id") is not None:
            raise TypeError("map_delay makes an id for each call; a task_id would be that of all of them")
        pairs = [_arguments(item) for item in calls]
        if self._app.conf.task_always_eager:
            return [self._eager(task, args, kwargs, options) for args, kwargs in pairs]
        name, publisher = task.name, self._app.publisher
        checked = [task.checked(args, kwargs) for args, kwargs in pairs]
        if not options and not _has_shadow(task):
            publications = [publisher.prepare(Call(name, args, kwargs)) for args, kwargs in checked]
        else:
            publications = [self._prepared(task, args, kwargs, options)[0] for args, kwargs in checked]
        self._send(publications, options)
        made = self._results_of(task, options)
        results = [made(_task_id(publication)) for publication in publications]
        parent = self._parent(options)
        if parent is not None:
            parent.children.extend(results)
        return results

    def send_task(
        self, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """A call by name; arguments are not checked, for whoever runs the task may know other ones."""
        publication = self._named(name, args, kwargs, options)
        self._send((publication,), options)
        return self._result_of(name, publication, options)

    async def asend_task(
        self, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """The same, without holding up the event loop."""
        publication = self._named(name, args, kwargs, options)
        await self._app.bridge.publish(publication, **await self._asending(options))
        return self._result_of(name, publication, options)

    def _named(
        self, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Publication:
        if self._app.conf.task_always_eager:
            warnings.warn(
                f"send_task({name!r}) publishes although task_always_eager is on: it knows only the task's name",
                errors.AlwaysEagerIgnored,
                stacklevel=4,
            )
        if not isinstance(args, list | tuple | None) or not isinstance(kwargs, Mapping | None):
            raise TypeError(f"send_task({name!r}) needs args as a list or tuple and kwargs as a dictionary")
        self._check_following(options)
        return self._app.publisher.prepare(Call(name, args or (), kwargs or {}, options))

    def _result_of(self, name: str, publication: Publication, options: Mapping[str, Any]) -> AsyncResult[Any]:
        made = options.get("result_cls") or AsyncResult
        result: AsyncResult[Any] = made(_task_id(publication), None, name, self._app)
        result.ignored = bool(options.get("ignore_result"))
        self._adopt(result, options)
        return result

    def on_commit(
        self,
        task: Task[..., Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        *,
        session: object = None,
    ) -> AsyncResult[Any]:
        """One call, made and checked now, and sent when the transaction of `session` commits."""
        return self._on_commit(task, args, kwargs, options, unit=unit_for(self._app, session))

    def delay_on_commit(self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> AsyncResult[Any]:
        """The same without options, and with the session in front of the arguments, if there is one."""
        unit, rest = split_session(self._app, args)
        return self._on_commit(task, rest, kwargs, {}, unit=unit)

    def _on_commit(
        self,
        task: Task[..., Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        *,
        unit: Unit,
    ) -> AsyncResult[Any]:
        app = self._app
        if app.conf.task_always_eager:
            task_id = options.get("task_id") or new_id()
            given = {**options, "task_id": task_id}
            checked = task.checked(args, kwargs)
            held = HeldCall(app, None, publish=lambda: self._eager(task, *checked, given), sent=lambda: None)
            unit.hold(held)
            return self._results_of(task, options)(task_id)
        publication, options = self._prepared(task, args, kwargs, options)
        self._sending(options)  # what is wrong with it is told now, and not after the commit
        result, parent = self._made(task, publication, options), self._parent(options)
        unit.hold(
            HeldCall(
                app,
                None if is_own_way(options) else publication,
                publish=lambda: self._send((publication,), options),
                sent=lambda: None if parent is None else parent.children.append(result),
            )
        )
        return result

    def send(self, calls: Iterable[Call], result: Any, options: Mapping[str, Any], *, expected: Ids = tuple) -> None:
        """Calls of a canvas, in one batch; all are checked and encoded before the first is sent.

        `result` becomes a child of the running task; `expected()` are the ids of all tasks that come of them.
        """
        publications = self._canvas(calls)
        if publications:
            self._expect(expected)
            self._send(publications, options, whole=True)
        self._adopt(result, options)

    async def asend(
        self, calls: Iterable[Call], result: Any, options: Mapping[str, Any], *, expected: Ids = tuple
    ) -> None:
        """The same, without holding up the event loop."""
        import asyncio

        publications = self._canvas(calls)
        if publications:
            await asyncio.to_thread(self._expect, expected)
            await self._app.bridge.publish_all(publications, whole=True, **await self._asending(options))
        self._adopt(result, options)

    def _canvas(self, calls: Iterable[Call]) -> list[Publication]:
        from kernel.batch import Batch
        from kernel.canvas.checks import Check

        app, publications = self._app, []
        check, batch = Check(app), Batch(app.publisher)
        for call in calls:
            check.following(call.options)
            task = app.tasks.get(call.name)
            if task is not None:
                call.args, call.kwargs = task.checked(call.args, call.kwargs)
                if _has_shadow(task) and not call.options.get("shadow"):
                    call.options = {**call.options, "shadow": task.shadow_name(call.args, call.kwargs, call.options)}
            publications.append(batch.prepare(call))
        return publications

    def _expect(self, expected: Ids) -> None:
        """Listen for the results of these, where they come to whoever called."""
        expect = self._app.opened.expecting()
        if expect is not None and (ids := expected()):
            expect(ids)

    def _prepared(
        self,
        task: Task[..., Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> tuple[Publication, Mapping[str, Any]]:
        args, kwargs = task.checked(args, kwargs)
        self._check_following(options)
        if _has_shadow(task) and not options.get("shadow"):
            options = {**options, "shadow": task.shadow_name(args, kwargs, options)}
        return self._app.publisher.prepare(Call(task.name, args, kwargs, options)), options

    def _check_following(self, options: Mapping[str, Any]) -> None:
        """What is to come after a call is checked before the call is sent."""
        if options and not FOLLOWING.isdisjoint(options):
            from kernel.canvas.checks import Check

            Check(self._app).following(options)

    def _result(self, task: Task[..., Any], publication: Publication, options: Mapping[str, Any]) -> AsyncResult[Any]:
        result = self._made(task, publication, options)
        self._adopt(result, options)
        return result

    def _made(self, task: Task[..., Any], publication: Publication, options: Mapping[str, Any]) -> AsyncResult[Any]:
        return self._results_of(task, options)(_task_id(publication))

    def _results_of(self, task: Task[..., Any], options: Mapping[str, Any]) -> Callable[[str], AsyncResult[Any]]:
        """What makes the result of a call of `task` out of its id: of the task's own class, where it has one."""
        ignore = options.get("ignore_result") if options else None
        ignored = bool(task.ignore_result if ignore is None else ignore)
        if type(task).AsyncResult is Task.AsyncResult:
            return lambda task_id: AsyncResult(task_id, None, task.name, self._app, ignored=ignored)

        def made(task_id: str) -> AsyncResult[Any]:
            result: AsyncResult[Any] = task.AsyncResult(task_id)
            result.ignored = ignored
            return result

        return made

    def _adopt(self, result: Any, options: Mapping[str, Any]) -> None:
        parent = self._parent(options)
        if parent is not None and result is not None:
            parent.children.append(result)

    def _send(self, publications: Sequence[Publication], options: Mapping[str, Any], *, whole: bool = False) -> None:
        """Send messages as the options of their call say."""
        if not options:
            self._app.publisher.send(publications, whole=whole)
            return
        sending = self._sending(options)
        self._declare(options, sending)
        self._app.publisher.send(publications, whole=whole, **sending)

    async def _asending(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """`_sending`, when what is to be declared is there."""
        sending = self._sending(options)
        if options.get("declare"):
            import asyncio

            await asyncio.to_thread(self._declare, options, sending)
        return sending

    def _sending(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """How `Publisher.send` is to send, out of the options of a call."""
        if not options or SENDING.isdisjoint(options):
            return {}
        return {
            "retry": options.get("retry"),
            "policy": options.get("retry_policy"),
            "way": way_of(self._app, options),
            "timeout": options.get("timeout") or options.get("confirm_timeout"),
        }

    def _declare(self, options: Mapping[str, Any], sending: Mapping[str, Any]) -> None:
        """Make exist what the option `declare` names, where the call goes."""
        if options.get("declare"):
            way = sending["way"] or self._app.opened
            declare_entities(way.broker, options["declare"], self._app.publisher.routing.topology)

    def _parent(self, options: Mapping[str, Any]) -> Request | None:
        """The request whose children this call belongs to."""
        parent = self._app.publisher.parent()
        if parent is None or not options.get("add_to_parent", True):
            return None
        task = self._app.tasks.get(parent.task or "")
        return parent if task is None or task.trail else None

    def _eager(
        self,
        task: Task[..., Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> AsyncResult[Any]:
        """Run it here, with arguments that went through the serializer as they would have on the way."""
        args, kwargs = task.checked(args, kwargs)
        known, _ = split_call_options(options)
        codecs, serializer = self._app.codecs, known.get("serializer") or task.serializer
        body = codecs.encode_body(args, kwargs, serializer=serializer)[0]
        args, kwargs, _ = codecs.serializer(serializer).loads(body)
        for name in (*_NOT_HERE, *SENDING, *ROUTED):
            known.pop(name, None)
        # Whoever called it holds the result of a call, whichever way it was run.
        return task.apply(args, kwargs, **known)  # type: ignore[return-value]


def _arguments(item: Any) -> tuple[Any, Any]:
    """The arguments that an item of `map_delay` means."""
    kind = item.__class__
    if kind is tuple or kind is list:
        if kind is tuple and len(item) == 2 and item[1].__class__ is dict and item[0].__class__ in (tuple, list):
            return item[0], item[1]
        return item, None
    if isinstance(item, Mapping):
        return None, item
    if isinstance(item, tuple | list):
        return tuple(item), None
    raise TypeError(
        f"map_delay takes tuples of arguments, dictionaries of keyword arguments or (args, kwargs); got {item!r:.60}; "
        "write (item,) for a single argument"
    )


def _task_id(publication: Publication) -> str:
    return publication.message.correlation_id or publication.message.id


def _has_shadow(task: Task[..., Any]) -> bool:
    return type(task).shadow_name is not Task.shadow_name
