"""`Task`: a function that can be called here, sent to a worker, and retried."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar

from kernel import errors
from kernel.arguments import Arguments
from kernel.attributes import FROM_SETTINGS, Attributes
from kernel.request import Request, current_request
from kernel.requeststack import RequestStack
from kernel.signature import Signature

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Unpack

    from kernel import result as result_module
    from kernel.app import Kernel
    from kernel.canvas.maps import chunks, xmap, xstarmap
    from kernel.interfaces.backend import Backend
    from kernel.options import CallOptions

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Task(Attributes, Generic[P, R_co]):
    """A registered task. Options are attributes, under Celery's names; ``@app.task(option=...)`` sets them.

    Subclasses may override `run` and the hooks, and be used with ``@app.task(base=...)`` or
    `app.register_task`. There is one instance for each task of an app in a process.
    """

    MaxRetriesExceededError: ClassVar = errors.MaxRetriesExceededError
    OperationalError: ClassVar = errors.OperationalError

    is_coroutine: bool = False
    _arguments: Arguments | None = None
    _backend: Backend | None = None

    # --- what it is -----------------------------------------------------------------------------------------

    @property
    def app(self) -> Kernel:
        """The app it is registered with. Raises `ImproperlyConfigured` before that."""
        if self._app is None:
            raise errors.ImproperlyConfigured(
                f"{type(self).__name__} is registered with no app: use app.register_task or @app.task"
            )
        return self._app

    @property
    def arguments(self) -> Arguments:
        """The parameters of the body."""
        if self._arguments is None:
            self._arguments = Arguments(self.name, self.run)
        return self._arguments

    @property
    def request(self) -> Request:
        """The request that this task runs; an empty one when it does not run in this context."""
        request = current_request.get()
        while request is not None and request.task != self.name:
            request = request.outer
        return Request(task=self.name, app=self._app) if request is None else request

    @property
    def request_stack(self) -> RequestStack:
        """The requests of this task in this context: `top`, `push`, `pop`, `stack`."""
        return RequestStack(self)

    @property
    def backend(self) -> Backend:
        """Where its results are; the app's backend unless it was given one of its own."""
        return self.app.backend if self._backend is None else self._backend

    @backend.setter
    def backend(self, backend: Backend | None) -> None:
        self._backend = backend

    def connect(self, app: Kernel, name: str) -> None:
        """Become the task `name` of `app`; called by the app, once."""
        self._app = app
        self.name = name
        self.is_coroutine = inspect.iscoroutinefunction(self.run)
        for option in FROM_SETTINGS & self.__dict__.keys():
            if self.__dict__[option] is None:
                del self.__dict__[option]
        type(self).on_bound(app)

    @classmethod
    def on_bound(cls, app: Kernel) -> None:
        """Called when a task of this class is registered."""

    def __repr__(self) -> str:
        return f"<Task {self.name or type(self).__qualname__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _find_task, (self.__module__, self.name)

    # --- running it here ------------------------------------------------------------------------------------

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The body; a coroutine function is awaited by whoever runs it."""
        raise NotImplementedError(f"{type(self).__name__} must define run(), the body of the task")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the body here and now, without a worker. For a coroutine function, a coroutine comes back."""
        outer = current_request.get()
        if outer is not None and not outer.entered and not outer.called_directly and outer.task == self.name:
            # Whoever set this request runs the task through its __call__, which a subclass may have overridden.
            outer.entered = True
            value: R_co = self.run(*args, **kwargs)
            return value
        request = Request(app=self._app, task=self.name, args=args, kwargs=kwargs, entered=True, outer=outer)
        if self.is_coroutine:
            return self._call_coroutine(request)  # type: ignore[return-value]
        token = current_request.set(request)
        try:
            result: R_co = self.run(*args, **kwargs)
            return result
        finally:
            current_request.reset(token)

    async def _call_coroutine(self, request: Request) -> Any:
        token = current_request.set(request)
        try:
            return await self.run(*request.args, **request.kwargs)
        finally:
            current_request.reset(token)

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> result_module.EagerResult[R_co]:
        """Run it here as a worker would, with hooks and retries. `throw` (default `task_eager_propagates`)
        raises its error; else the result holds it."""
        from kernel import eager

        # Plugins hear of the app before a task of it runs, here as in a worker.
        _ = self.app.opened
        return eager.apply(self, *self.checked(args, kwargs), **options)

    def push_request(self, *fields: Mapping[str, Any], **more: Any) -> None:
        """Make a request of these fields the current one, until `pop_request`; for tests of task bodies."""
        request = Request()
        request.update(*fields, **more)
        self.request_stack.push(request)

    def pop_request(self) -> Request | None:
        """Take away, and return, the innermost request of this task; None if there is none."""
        return self.request_stack.pop()

    # --- sending it to a worker -----------------------------------------------------------------------------

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> result_module.AsyncResult[R_co]:
        """Publish a call; it is stored on the broker when this returns.

        Raises TypeError for arguments that do not fit and `EncodeError` for ones that cannot be serialized, both
        before anything is sent, and `OperationalError` when the broker is away.
        """
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> result_module.AsyncResult[R_co]:
        """`delay` with options: when, where, how, and what comes after."""
        return self.app.calls.call(self, args, kwargs, options)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> result_module.AsyncResult[R_co]:
        """`delay` for coroutines: the event loop goes on while the message is stored."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> result_module.AsyncResult[R_co]:
        """`apply_async` for coroutines."""
        return await self.app.calls.acall(self, args, kwargs, options)

    def map_delay(
        self, calls: Iterable[Sequence[Any] | Mapping[str, Any]], **options: Unpack[CallOptions]
    ) -> list[result_module.AsyncResult[R_co]]:
        """Publish many calls in few round trips: one for each item of `calls`, in order.

        An item is a tuple or list of arguments, a dictionary of keyword arguments, or ``(args, kwargs)``, a
        tuple of exactly a tuple or list and a dictionary. All are encoded before the first is sent. `options`
        go for each of them, so `task_id` is not among them.
        """
        return self.app.calls.call_many(self, calls, options)

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> result_module.AsyncResult[R_co]:
        """`delay` once the caller's transaction has committed: the one of the app's setting `task_on_commit_session`,
        or of a session that stands in front of the arguments, ``task.delay_on_commit(session, 1, 2)``.

        Arguments are checked and encoded now. See `apply_async_on_commit`.
        """
        return self.app.calls.delay_on_commit(self, args, kwargs)

    def apply_async_on_commit(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        session: Any = None,
        **options: Unpack[CallOptions],
    ) -> result_module.AsyncResult[R_co]:
        """`apply_async` once the outermost transaction of `session` (None: of the setting `task_on_commit_session`)
        has committed, and not at all if it, or the savepoint of this call, is rolled back.

        On the SQL broker, with the session on the same database, the message is part of the transaction. Elsewhere it
        is published right after the commit, which raises `OperationalError` if that fails: what was committed stays
        so. Raises `ImproperlyConfigured` where nobody knows of a transaction, and TypeError for what is no session.
        """
        return self.app.calls.on_commit(self, args, kwargs, options, session=session)

    def get_publisher(self, connection: Any = None, **options: Any) -> Any:
        """A producer for ``apply_async(publisher=...)``, over `connection` or one of the app's pool; use it in a
        ``with`` block. `options` are those of `Producer`."""
        if connection is None:
            return self.app.producer_pool.acquire(block=True)
        return self.app.amqp.Producer(connection, **options)

    def checked(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments of a call, if they are such and fit the body. Raises TypeError."""
        if args is None:
            args = ()
        elif not isinstance(args, tuple | list):
            raise TypeError(f"args of task {self.name} is {args!r:.60}; a list or tuple is needed")
        if kwargs is None:
            kwargs = {}
        elif not isinstance(kwargs, Mapping):
            raise TypeError(f"kwargs of task {self.name} is {kwargs!r:.60}; a dictionary is needed")
        typing = self.typing
        if self.app.strict_typing if typing is None else typing:
            (self._arguments or self.arguments).check(args, kwargs)
        return args, kwargs

    def AsyncResult(self, task_id: str) -> result_module.AsyncResult[R_co]:  # noqa: N802 - Celery's name
        """The result of an earlier call of this task."""
        return self.app.AsyncResult(task_id, task_name=self.name)

    # --- calls as data --------------------------------------------------------------------------------------

    def signature(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature[R_co]:
        """A call of this task as data; `immutable=True` for one that takes no more arguments."""
        return Signature(self, args, kwargs, **options)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature[R_co]:
        """A call with these arguments, as data; fewer than the body needs are enough."""
        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature[R_co]:
        """The same, taking no more arguments later."""
        return Signature(self, args, kwargs, immutable=True)

    def map(self, it: Iterable[Any]) -> xmap:
        """One message, in which a worker calls this task with each item of `it` in turn."""
        from kernel.canvas.maps import xmap

        return xmap(self, it, app=self.app)

    def starmap(self, it: Iterable[Sequence[Any]]) -> xstarmap:
        """The same with items that are lists of arguments."""
        from kernel.canvas.maps import xstarmap

        return xstarmap(self, it, app=self.app)

    def chunks(self, it: Iterable[Sequence[Any]], n: int) -> chunks:
        """A group of starmaps over `n` items each."""
        from kernel.canvas.maps import chunks

        return chunks(self, it, n, app=self.app)

    def signature_from_request(
        self,
        request: Request | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **extra: Any,
    ) -> Signature[R_co]:
        """The call that `request` (by default the current one) would be again, under the same id."""
        request = self.request if request is None else request
        new_args, new_kwargs = self.arguments.rebind(args, kwargs, (request.args, request.kwargs))
        options = {k: v for k, v in request.as_execution_options().items() if v is not None}
        if request.stamped_headers:
            options.update(request.stamps or {}, stamped_headers=list(request.stamped_headers))
        if queue is not None:
            options["queue"] = queue
        options.update(extra)
        signature = self.signature(new_args, new_kwargs, options=options)
        signature.rewrites = args is not None or kwargs is not None
        return signature

    subtask_from_request = signature_from_request

    # --- from inside the body -------------------------------------------------------------------------------

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> errors.Retry:
        """End this run, to be run again after `countdown` seconds or at `eta` (default `default_retry_delay`).

        Raises `Retry`, which the worker turns into the message of the next run once the body has ended with it.
        Past `max_retries`, raises `exc` or `MaxRetriesExceededError`, and the task fails. With `throw=False` the
        `Retry` is returned: the next run is published when the body has ended, in whichever way (but not if it
        is requeued, since then this run comes again). Called directly, the current exception or `exc` is raised.
        """
        request = self.request
        current = sys.exc_info()[1]
        if request.called_directly:
            raise exc or current or errors.Retry("Task can be retried", None)
        limit = self.max_retries if max_retries is None else max_retries
        retries = request.retries + 1
        if limit is not None and retries > limit:
            if exc is not None:
                raise exc
            raise errors.MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{request.args!r:.200} kwargs:{request.kwargs!r:.200}",
                task_args=request.args,
                task_kwargs=dict(request.kwargs),
            )
        when: float | datetime = self.default_retry_delay
        if countdown is not None:
            when = countdown
        elif eta is not None:
            when = eta
        signature = self.signature_from_request(request, args, kwargs, **{**options, "retries": retries})
        retry = errors.Retry(exc=exc or current, when=when, is_eager=request.is_eager, sig=signature)
        if throw:
            raise retry
        request.asked_retry = retry
        return retry

    def replace(self, sig: Signature[Any]) -> Any:
        """End this run, and let `sig` take its place: it has this task's id, its group, chord and root, its links, and
        what is left of its chain.

        Raises `Replaced` (an `Ignore`): the worker publishes the replacement when the body has ended with it. Run
        eagerly, returns the value of the replacement, so write ``return self.replace(sig)``. A group gives one
        value, the list of those of its members. Raises `ImproperlyConfigured` for an empty chain and for a signature
        with a chord of its own.
        """
        from kernel.canvas.replacing import replacement

        made = replacement(self.app, self.request, sig)
        self.request.gave_way = True
        return self.on_replace(made)

    def on_replace(self, sig: Signature[Any]) -> Any:
        """What `replace` ends with; for subclasses that do something to the signature first, such as stamping it."""
        request = self.request
        if request.is_eager:
            return sig.apply().get(disable_sync_subtasks=False)
        if request.called_directly:
            sig.apply_async()
            raise errors.Ignore("Replaced by new task")
        raise errors.Replaced(sig=sig)

    def add_trail(self, result: Any) -> Any:
        """Let `result` be one of the children of the task that runs here, unless `trail` is off; returns it."""
        if self.trail:
            self.request.children.append(result)
        return result

    def add_to_chord(self, sig: Signature[Any], lazy: bool = False) -> Any:
        """Let `sig` be a member, too, of the chord that this task is a member of: the body waits for it, and gets its
        value behind those of the others.

        It is published at once, and its result returned; with `lazy` it is returned, frozen, for the caller to send:
        the body waits until somebody does. Raises ValueError in a task that is in no chord, and NotImplementedError
        where the result backend cannot let a chord grow.
        """
        from kernel.canvas.growing import grown, send

        made, result = grown(self.app, self.request, sig)
        if lazy:
            return made
        send(self.app, self.request, made, result)
        return result

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **fields: Any
    ) -> None:
        """Store a state of the user's own, and `meta` with it; durable when it returns.

        By default of the task that runs here; `state` may be any text, `meta` any value the result serializer
        takes. SUCCESS, FAILURE or REVOKED of the task that runs here is stored when it has ended, if it raises
        `Ignore`.
        """
        from kernel import progress

        progress.update_state(self, task_id, state, meta)

    def progress(self, current: float, total: float | None = None, message: str = "", *, always: bool = False) -> bool:
        """Report how far the task that runs here is: ``self.progress(3, 10, "three of ten")``.

        Stored as the state PROGRESS with `current`, `total` and `message`, which ``result.get(progress=True)`` shows.
        Cheap in a loop: ten reports a second are stored, and the last of the whole; others only with `always`.
        Returns whether it was stored.
        """
        from kernel import progress

        return progress.report(self, current, total, message, always=always)

    def send_event(
        self, type_: str, retry: bool = True, retry_policy: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        """Tell the plugins of an event of this run, such as ``self.send_event("task-halfway", done=50)``.

        They hear of it by the hook `kernel_task_event`, with `uuid`, the id of the task, among the fields. Nothing is
        sent by the kernel itself. `retry` and `retry_policy` are for who sends it on. Raises TypeError for a type that
        is no text.
        """
        if not isinstance(type_, str) or not type_:
            raise TypeError(f"the type of an event is {type_!r:.60}; a text such as 'task-halfway' is needed")
        request = self.request
        self.app.extensions.call_observe(
            "kernel_task_event",
            request=request,
            type=type_,
            fields={"uuid": request.id, **fields},
            retry_policy={} if retry and retry_policy is None else retry_policy if retry else None,
        )

    # --- hooks ----------------------------------------------------------------------------------------------

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Before the body; an error fails the task."""

    def on_success(self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """After SUCCESS was stored."""

    def on_retry(
        self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Any
    ) -> None:
        """After RETRY was stored."""

    def on_failure(
        self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Any
    ) -> None:
        """After FAILURE was stored."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: Any
    ) -> None:
        """After a terminal state was stored; not for IGNORED, RETRY and REJECTED."""

    def shadow_name(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
        """A name for this call in logs, events and monitors in place of the task's."""
        return None


def _find_task(module: str, name: str) -> Task[..., Any]:
    """The task that was pickled: looked up in its module, and in the apps of that module."""
    found = vars(importlib.import_module(module))
    for value in found.values():
        if isinstance(value, Task) and value.name == name:
            return value
    for value in found.values():
        tasks = getattr(value, "tasks", None)
        if isinstance(tasks, Mapping) and name in tasks:
            task: Task[..., Any] = tasks[name]
            return task
    raise errors.NotRegistered(f"module {module!r} has no task {name!r} any more, nor an app that has it")
