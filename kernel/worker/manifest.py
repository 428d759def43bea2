"""What the engine knows of the app, which it never imports: tasks, options, settings, drivers."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kernel import drivers, errors
from kernel.interfaces.broker import BrokerConfig
from kernel.routing.consuming import Consuming, consuming
from kernel.routing.router import Router
from kernel.routing.topology import Topology
from kernel.worker.options import WorkerOptions

if TYPE_CHECKING:
    from kernel.app import Kernel


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """The options of a task that the engine acts on."""

    acks_late: bool = True
    reject_on_worker_lost: bool | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    rate_limit: str | float | None = None


@dataclass(slots=True)
class Manifest:
    """Travels from the fork server to the engine as JSON. `slots` is per process; `processes` 0 means this one."""

    app_name: str
    hostname: str
    pool: str
    processes: int
    slots: int
    consuming: Consuming
    tasks: Mapping[str, TaskFacts]
    settings: Mapping[str, Any]
    broker: Mapping[str, Any]
    atomic_end: bool = False
    atomic_chords: bool = False
    shortcuts: bool = False
    """Children may settle by themselves what they ran (`kernel.interfaces.shortcut`)."""
    plugins: Sequence[str] = ()
    pool_settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    backend_url: str = ""

    @property
    def queues(self) -> Sequence[str]:
        """The queues it claims from."""
        return self.consuming.names

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "consuming": self.consuming.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Manifest:
        tasks = {name: TaskFacts(**facts) for name, facts in values["tasks"].items()}
        return cls(**{**values, "tasks": tasks, "consuming": Consuming.from_json(values["consuming"])})


class LiveTasks(Mapping[str, TaskFacts]):
    """The tasks of an app in this process, with those that are made while the worker runs."""

    def __init__(self, app: Kernel) -> None:
        self._app = app
        self._known: dict[str, TaskFacts] = {}

    def __getitem__(self, name: str) -> TaskFacts:
        facts = self._known.get(name)
        if facts is None:
            facts = self._known[name] = _facts(self._app.tasks[name], self._app.conf)
        return facts

    def __iter__(self) -> Iterator[str]:
        return iter([*self._app.tasks])

    def __len__(self) -> int:
        return len(self._app.tasks)


def load_app(options: WorkerOptions) -> Kernel:
    """Find the app that the options name. Raises what its import raises."""
    from kernel.finding import find_app  # what the fork server alone needs

    return find_app(options.app)


def describe(app: Kernel, options: WorkerOptions) -> Manifest:
    """The manifest of an app as this worker runs it.

    Raises `ImproperlyConfigured` for a pool, broker or number that cannot work.
    """
    app.import_default_modules()
    if options.settings:
        app.conf.override(options.settings)
    conf = app.conf
    app.annotate_tasks()
    # The engine's plugins read their settings from the manifest, which carries defaults of what is declared alone.
    for plugin, declared in app.extensions.collect_from("kernel_settings"):
        conf.declare(declared, f"the plugin {plugin}")
    pool_name = options.pool or conf.worker_pool
    pool = drivers.load("pools", pool_name, choices=conf.drivers)
    conf.declare(pool.settings, f"the pool {pool_name}")
    processes, slots = layout(pool.capabilities, options, conf)
    broker = app.broker_config(read=True)
    driver = drivers.load("brokers", broker.url, choices=conf.drivers)
    if processes and not driver.capabilities.crosses_processes:
        raise errors.ImproperlyConfigured(
            f"the broker {broker.url.partition(':')[0]!r} lives in one process, and this worker would run tasks in "
            f"{processes} child process(es); use --processes 0 with the threads pool, or another broker"
        )
    topology, hostname = Topology(conf), node_name(options.hostname)
    Router(conf.task_routes)  # a route that cannot be is found here, and not at the end of a task
    queues = topology.consumed(options.queues or app.amqp.queues.selected, options.exclude_queues)
    atomic = _one_transaction(app, driver, broker)
    return Manifest(
        app_name=app.main or "kernel",
        hostname=hostname,
        pool=pool_name,
        processes=processes,
        slots=slots,
        consuming=consuming(topology, queues, hostname, driver.capabilities, direct=conf.worker_direct),
        tasks={name: _facts(task, conf) for name, task in app.tasks.items()},
        settings=_plain(conf),
        broker={
            "url": broker.url,
            "options": _plain(broker.options),
            "settings": _plain(broker.settings),
            "timeout": broker.timeout,
            "app_name": broker.app_name,
        },
        atomic_end=atomic,
        atomic_chords=atomic and driver.capabilities.atomic_chords,
        shortcuts=atomic and driver.capabilities.shortcuts and processes > 0 and not pool.capabilities.runs_coroutines,
        plugins=[name for name in conf.plugins or () if isinstance(name, str)],
        pool_settings=_plain(conf.driver_values(pool.settings)),
        warnings=_import_warnings(),
        backend_url=app.addresses.backend_url or "",
    )


def layout(capabilities: Any, options: WorkerOptions, conf: Any) -> tuple[int, int]:
    """How many processes, with how many slots each."""
    concurrency = options.concurrency or conf.worker_concurrency
    if concurrency == "auto":
        concurrency = len(os.sched_getaffinity(0))
    concurrency = concurrency or capabilities.default_concurrency or len(os.sched_getaffinity(0))
    if concurrency < 1:
        raise errors.ImproperlyConfigured(f"a concurrency of {concurrency}; 1 at least is needed")
    processes = options.processes if options.processes is not None else conf.worker_processes
    if capabilities.slots_are_processes:
        if processes == 0:
            raise errors.ImproperlyConfigured(
                "this pool runs each task slot in a child process; --processes 0 needs 'threads', 'solo' or 'asyncio'"
            )
        return processes or concurrency, 1
    if processes is None:
        processes = 1
    return processes, concurrency


def node_name(name: str) -> str:
    """``name@host`` with %h, %n and %d expanded as Celery does; the default is ``celery@<host>``."""
    host = socket.gethostname()
    short, _, domain = host.partition(".")
    expanded = (name or "celery@%h").replace("%h", host).replace("%n", short).replace("%d", domain)
    return expanded if "@" in expanded else f"{expanded}@{host}"


def _facts(task: Any, conf: Any) -> TaskFacts:
    def option(name: str, setting: str) -> Any:
        value = getattr(task, name, None)
        return conf[setting] if value is None else value

    return TaskFacts(
        acks_late=bool(option("acks_late", "task_acks_late")),
        reject_on_worker_lost=option("reject_on_worker_lost", "task_reject_on_worker_lost"),
        time_limit=option("time_limit", "task_time_limit"),
        soft_time_limit=option("soft_time_limit", "task_soft_time_limit"),
        rate_limit=option("rate_limit", "task_default_rate_limit"),
    )


def _one_transaction(app: Kernel, broker_driver: Any, broker_config: BrokerConfig) -> bool:
    """Whether result, successors and settlement can be one transaction. Opens nothing: this runs where
    children are forked."""
    backend_config = app.addresses.backend_config()
    if backend_config is None or not broker_driver.capabilities.atomic_end:
        return False
    backend_driver = drivers.load("backends", backend_config.url, choices=app.conf.drivers)
    domain = broker_driver(broker_config).transaction_domain
    return domain is not None and domain == backend_driver(backend_config).transaction_domain


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that JSON can carry; the engine acts on no others."""
    return {name: value for name in values if _is_plain(value := values[name])}


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, str | int | float | bool):
        return True
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return False


def _import_warnings() -> list[str]:
    """What the import of the app left behind that a fork does not copy well."""
    warnings = []
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads:
        warnings.append(
            f"the app started threads while it was imported ({', '.join(threads[:5])}): they do not live on in forked "
            "children, and locks that they hold stay locked; start them in kernel_child_start, or set "
            "worker_start_method='spawn'"
        )
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("socket"):
        warnings.append(
            "the app patches the standard library with gevent: this pool runs one task after the other in each slot "
            "all the same"
        )
    return warnings
