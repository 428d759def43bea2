"""`Kernel`: the app. It has settings, tasks and plugins, and opens its broker and backend when they are needed."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from kernel import errors
from kernel import task as task_module
from kernel.annotations import Annotations
from kernel.app.addresses import Addresses
from kernel.app.connecting import Connecting
from kernel.app.embedded import calling_file
from kernel.app.importing import Discovery, Packages, import_modules, name_main
from kernel.app.zone import zone_of
from kernel.codecs import Codecs
from kernel.config import Settings
from kernel.decorator import decorate, register
from kernel.extensions import Extensions
from kernel.naming import task_name
from kernel.registry import TaskRegistry
from kernel.request import Request, current_request, running_request

if TYPE_CHECKING:
    from datetime import tzinfo
    from types import ModuleType, TracebackType
    from typing import Self, Unpack

    from kernel import groupresult
    from kernel import result as result_module
    from kernel.app.aio import Bridge
    from kernel.app.amqp import Amqp
    from kernel.app.calls import Calls
    from kernel.app.groups import Groups
    from kernel.app.opened import Opened
    from kernel.blueprint import Blueprint
    from kernel.control import Control
    from kernel.decorator import BoundDecorator, CoroutineTask, Decorator
    from kernel.interfaces.backend import Backend
    from kernel.interfaces.broker import Broker, BrokerConfig
    from kernel.options import CallOptions, TaskOptions
    from kernel.publish import Publisher
    from kernel.signature import Signature
    from kernel.waiter import Waiter

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=task_module.Task[..., Any])

State = Literal["new", "open", "closed"]


class Kernel(Connecting):
    """A task queue as a program sees it.

        app = Kernel("shop")                                # one SQLite file beside this module
        app = Kernel("shop", broker="...", backend="...")

    `main` names the app, and the tasks of a module that is run as a script. Without a broker and a backend
    both are one SQLite file (``.kernel/<main>.db``, or what KERNEL_DATA says); with a broker alone no results are
    kept. Other keywords are settings. Making an app reads no file and opens nothing: `state` is ``new`` until
    broker or backend is first needed, then ``open``, and ``closed`` after `close`. Usable from any thread; a
    forked process opens its own connections.
    """

    Task: type[task_module.Task[..., Any]] = task_module.Task
    task_cls: type[task_module.Task[..., Any]] | None = None

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | Sequence[str] | None = None,
        backend: str | None = None,
        include: Sequence[str] | None = None,
        task_cls: type[task_module.Task[..., Any]] | None = None,
        strict_typing: bool = True,
        config_source: object = None,
        namespace: str | None = None,
        plugins: Sequence[object] = (),
        **settings: Any,
    ) -> None:
        self.main = main
        self.strict_typing = strict_typing
        self.tasks = TaskRegistry(main)
        self._namespace = namespace
        self.registering = threading.RLock()
        self._state: State = "new"
        self._configured = False
        self._opened: dict[int, Opened] = {}
        self._inherited: list[Opened] = []
        self._discoveries: list[Discovery] = []
        self._codecs: Codecs | None = None
        self._calls: Calls | None = None
        self._amqp: Amqp | None = None
        given = {"broker_url": broker, "result_backend": backend, "include": include, **settings}
        named = [plugin for plugin in plugins if isinstance(plugin, str)]
        if named:
            given["plugins"] = named
        file = calling_file(self)
        self.conf = Settings(
            {name: value for name, value in given.items() if value is not None},
            directory=os.path.dirname(os.path.abspath(file)) if file else None,
            discover=self._declare_settings,
            source=f"Kernel({main!r})",
        )
        self.addresses = Addresses(self.conf, name=main, file=file)
        self.extensions = Extensions(self.conf, plugins=[item for item in plugins if not isinstance(item, str)])
        base = task_cls or self.task_cls
        if base is not None:
            self.Task = base
        if config_source is not None:
            self.config_from_object(config_source)

    # --- tasks ----------------------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> task_module.Task[P, R]: ...
    @overload
    def task(
        self, *, bind: Literal[True], plugin_options: Mapping[str, Any] = ..., **options: Unpack[TaskOptions]
    ) -> BoundDecorator: ...
    @overload
    def task(
        self, *, bind: Literal[False] = False, plugin_options: Mapping[str, Any] = ..., **options: Unpack[TaskOptions]
    ) -> Decorator: ...
    # The checker does not see that **options takes what the TypedDict of the overloads lists.
    def task(  # type: ignore[misc]
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Any:
        """Make a function a task: ``@app.task`` or ``@app.task(option=...)``; see `kernel.options.TaskOptions`.

        Options that plugins own go in `plugin_options`, or beside the others where no type checker looks. An
        unknown option is a TypeError. Of two functions with one name the first stays registered, with a warning.
        """
        bind = bool(options.pop("bind", False))
        options.update(options.pop("plugin_options", None) or {})
        if function is None:
            return lambda found: decorate(self, found, options, bind=bind)
        if not callable(function):
            raise TypeError(f"@app.task takes a function, or options by name; got {function!r:.60}")
        return decorate(self, function, options, bind=bind)

    def register_task(self, task: T | type[T]) -> T:
        """Register an instance of a `Task` class, or a class, of which one is made; returns the instance."""
        return register(self, task)

    def add_task(self, task: task_module.Task[..., Any], name: str) -> None:
        """Make `task` the one of that name, whatever was there; `register_task` asks first."""
        task.connect(self, name)
        self.tasks[name] = task
        self.forget_plan(name)
        if self._configured:
            self.annotate_tasks([task])
            self.extensions.setup("kernel_task_registered", app=self, task=task)

    def annotate_tasks(self, tasks: Iterable[task_module.Task[..., Any]] | None = None) -> None:
        """Change tasks (by default all) as `task_annotations` says, each once; done when the settings are final."""
        found = self.conf.task_annotations
        if found is not None:
            annotations = Annotations(found)
            for task in [*self.tasks.values()] if tasks is None else tasks:
                annotations.apply(task)

    def take(self, *sources: Blueprint | ModuleType) -> None:
        """Make the tasks of blueprints this app's own. A module stands for the blueprints in it, and for what
        `shared_task` defined there. Taken again, nothing changes."""
        from kernel.blueprint import Blueprint, blueprints_of

        for source in sources:
            for blueprint in [source] if isinstance(source, Blueprint) else blueprints_of(source):
                blueprint.register(self)

    def add_builtin_tasks(self) -> None:
        """Register the tasks that `map`, `starmap` and `chunks` are messages of; done where they are needed, and by
        workers. Called again it does nothing."""
        from kernel.canvas.maps import add_builtin_tasks

        add_builtin_tasks(self)

    def forget_plan(self, name: str) -> None:
        """A task of that name was added or changed."""
        for opened in self._opened.values():
            opened.publisher.forget_plan(name)

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task that was given none; may be overridden."""
        return task_name(name, module, self.main)

    def signature(
        self,
        task: str | task_module.Task[..., Any] | Mapping[str, Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Signature[Any]:
        """A call as data, of a task that need not be registered here."""
        from kernel.signature import signature

        return signature(task, args, kwargs, app=self, **options)

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> result_module.AsyncResult[Any]:
        """Publish a call by name. Options of a task of that name count, if it is registered here."""
        return self.calls.send_task(name, args, kwargs, options)

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> result_module.AsyncResult[Any]:
        """`send_task` for coroutines; holds up no event loop."""
        return await self.calls.asend_task(name, args, kwargs, options)

    def AsyncResult(  # noqa: N802 - Celery's name
        self,
        id: str,
        backend: Backend | None = None,
        task_name: str | None = None,
        parent: result_module.AsyncResult[Any] | None = None,
    ) -> result_module.AsyncResult[Any]:
        """The result of an earlier call, by its id. Costs no I/O."""

        from kernel import result

        return result.AsyncResult(id, backend, task_name, self, parent)

    @property
    def GroupResult(self) -> Groups:  # noqa: N802 - Celery's name
        """Called, the results of a group under its id; ``app.GroupResult.restore(id)`` those that were saved."""
        from kernel.app.groups import Groups

        return Groups(self)

    def ResultSet(self, results: Iterable[Any] = ()) -> groupresult.ResultSet:  # noqa: N802 - Celery's name
        """Results that are asked and awaited together."""
        from kernel import groupresult

        return groupresult.ResultSet(results, self)

    @property
    def current_task(self) -> task_module.Task[..., Any] | None:
        """The task of this app whose body runs in this context, called by a worker or directly."""
        return self._task_of(current_request.get())

    @property
    def current_worker_task(self) -> task_module.Task[..., Any] | None:
        """The same, past direct calls: the task that the worker runs."""
        return self._task_of(running_request())

    def _task_of(self, request: Request | None) -> task_module.Task[..., Any] | None:
        return None if request is None or request.app is not self else self.tasks.get(request.task or "")

    # --- modules --------------------------------------------------------------------------------------------

    def autodiscover_tasks(
        self, packages: Packages = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:
        """Import ``<package>.<related_name>`` of each package, where there is one, when a worker loads the app
        (at once with `force`). `packages` may be a callable that returns them; None are those of Django."""
        discovery = Discovery(packages, related_name)
        if force:
            self.take(*discovery.run())
        else:
            self._discoveries.append(discovery)

    def import_default_modules(self) -> None:
        """Import all modules in which tasks are: the settings `imports` and `include`, and what
        `autodiscover_tasks` was told. Raises `ImproperlyConfigured`, and what the modules raise."""
        import_modules(self.conf.imports, setting="imports")
        import_modules(self.conf.include, setting="include")
        self.take(*[sys.modules[name] for name in [*self.conf.imports, *self.conf.include] if name in sys.modules])
        for discovery in self._discoveries:
            self.take(*discovery.run())
        self.add_builtin_tasks()

    # --- settings -------------------------------------------------------------------------------------------

    def config_from_object(
        self, obj: object, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Read settings from a module, its name, a class or an object; see `Settings.config_from_object`."""
        self.conf.config_from_object(obj, silent, force, namespace or self._namespace)

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """The same from the module that an environment variable names."""
        return self.conf.config_from_envvar(variable_name, silent, force)

    def add_defaults(self, defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Settings that count where nothing else gives a value."""
        self.conf.add_defaults(defaults)

    def broker_config(self, *, read: bool = False) -> BrokerConfig:
        """What the broker is built from; with `read`, the one that workers consume from."""
        return self.addresses.broker_config(read=read)

    @property
    def backend_url(self) -> str | None:
        """The URL of the result backend; None when no results are kept."""
        return self.addresses.backend_url

    # --- time -----------------------------------------------------------------------------------------------

    @property
    def timezone(self) -> tzinfo:
        """The zone of the setting `timezone`."""
        return zone_of(self.conf.timezone, enable_utc=self.conf.enable_utc)

    def uses_utc_timezone(self) -> bool:
        return str(self.timezone) == "UTC"

    def now(self) -> datetime:
        """The present, aware, in the app's zone."""
        return datetime.now(self.timezone)

    # --- what is open ---------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """``new`` until something is opened, ``open``, or ``closed``."""
        return self._state

    @property
    def opened(self) -> Opened:
        """What this process has opened. Raises `AppClosed`."""
        found = self._opened.get(os.getpid())
        return self._open_process() if found is None else found

    def _open_process(self) -> Opened:
        if self._state == "closed":
            raise errors.AppClosed(
                f"the app {self.main!r} is closed: use it before close() or the end of its with block, or call open()"
            )
        self._configure()
        from kernel.app.opened import Opened  # what a program that only defines tasks does not need

        # No lock: one that another thread held when this process was forked would never be released here.
        mine = self._opened.setdefault(os.getpid(), Opened(self))
        for pid in [pid for pid in self._opened if pid != os.getpid()]:
            # Kept, since collecting it would close connections of the parent; but not where a process that is
            # given the parent's number one day would find it.
            self._inherited.append(self._opened.pop(pid))
        return mine

    def _configure(self) -> None:
        """The settings are final from here on: plugins are told of them, and of the tasks there are."""
        if self._configured:
            return
        with self.registering:
            if self._configured:
                return
            self._declare_settings()
            self.conf.freeze()
            self.annotate_tasks()
            self.extensions.setup("kernel_configure", app=self)
            # From here on `_add` tells of further tasks, also of those that are registered meanwhile.
            self._configured = True
            for task in list(self.tasks.values()):
                self.extensions.setup("kernel_task_registered", app=self, task=task)
            self._state = "open"

    def _declare_settings(self) -> None:
        for plugin, settings in self.extensions.collect_from("kernel_settings"):
            self.conf.declare(settings, f"the plugin {plugin}" if plugin else "a plugin")

    def open(self) -> Self:
        """Make a closed app usable again; broker and backend are opened when they are needed."""
        if self._state == "closed":
            self._state = "new"
        return self

    def close(self) -> None:
        """Close broker, backend and threads. Publishing and reading results raises `AppClosed` from then on.

        Called again it does nothing. Raises what closing raised, when all of it is done.
        """
        opened = self._opened.pop(os.getpid(), None)
        self._state = "closed"
        failures = opened.close() if opened is not None else []
        if self._configured:
            self._configured = False
            try:
                self.extensions.setup("kernel_unconfigure", app=self)
            except Exception as exc:
                failures.append(exc)
        self.conf.thaw()
        self._codecs = None
        if failures:
            raise failures[0] if len(failures) == 1 else ExceptionGroup(f"closing {self!r} failed", failures)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def broker(self) -> Broker:
        """The broker, opened at first use. Raises `OperationalError`, `ImproperlyConfigured` or `AppClosed`."""
        return self.opened.broker

    def broker_for_worker(self) -> Broker:
        """The broker that workers consume from."""
        return self.opened.reader

    @property
    def backend(self) -> Backend:
        """The result backend, opened at first use; a `DisabledBackend` when none is configured."""
        return self.opened.backend

    @property
    def publisher(self) -> Publisher:
        return self.opened.publisher

    @property
    def bridge(self) -> Bridge:
        """What publishes for coroutines."""
        return self.opened.bridge

    @property
    def waiter(self) -> Waiter:
        """What waits for results."""
        return self.opened.waiter

    @property
    def oid(self) -> str:
        """An id of this app in this process."""
        return self.opened.oid

    @property
    def control(self) -> Control:
        """Commands to running workers."""
        from kernel.control import Control

        return Control(self)

    @property
    def calls(self) -> Calls:
        """How this app's tasks are called."""
        if self._calls is None:
            from kernel.app.calls import Calls

            self._calls = Calls(self)
        return self._calls

    @property
    def codecs(self) -> Codecs:
        """The serializers and compressors that this app accepts."""
        if self._codecs is None:
            self._codecs = Codecs.of(self.conf, self.extensions)
        return self._codecs

    # --- the rest -------------------------------------------------------------------------------------------

    def start(self, argv: Sequence[str] | None = None) -> int:
        """Run the command line with this app; returns its exit code."""
        name_main(self)
        # By name, since the command line is a room above this one and imports it.
        return int(importlib.import_module("kernel.cli").main(argv, app=self))

    def worker_main(self, argv: Sequence[str] | None = None) -> int:
        """`start` for the command ``worker``, which must be in `argv`. Raises ValueError."""
        arguments = list(sys.argv[1:] if argv is None else argv)
        if "worker" not in arguments:
            raise ValueError("worker_main needs the command 'worker' among its arguments")
        return self.start(arguments)

    def __repr__(self) -> str:
        return f"<Kernel {self.main or '(no name)'} at {id(self):#x}>"
