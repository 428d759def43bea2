"""The settings of the kernel itself: what it serves, under Celery's names where Celery has them.

Defaults are Celery's, save for those whose sentence says "unlike Celery". What Celery has and nobody here
serves yet is in `config_unserved.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kernel.interfaces.setting import Setting

LOG_FORMAT: Final = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
TASK_LOG_FORMAT: Final = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


def _at_least(least: float) -> Any:
    def check(value: Any) -> None:
        if value is not None and value < least:
            raise ValueError(f"the least is {least:g}")

    return check


def _finite_lease(value: float) -> None:
    if not 1 <= value < float("inf"):
        raise ValueError("a lease is at least 1 second, and ends")


def _concurrency(value: Any) -> None:
    if value is None or value == "auto":
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("a number of 1 or more, 'auto', or None")


def _prefetch(value: int | None) -> None:
    if value is not None and value < 0:
        raise ValueError("0 (no limit) or more, or None to adapt")


def _url(value: Any) -> None:
    items = value if isinstance(value, list | tuple) else [value]
    if not items or not all(isinstance(item, str) for item in items if item is not None):
        raise ValueError("a URL, a list of URLs, or URLs joined by ;")


def _delivery_mode(value: Any) -> None:
    if value not in (1, 2, "transient", "persistent"):
        raise ValueError("1 or 'transient', 2 or 'persistent'")


def _retries(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError("a number from 0, or infinity")


def _timezone(value: Any) -> None:
    if value is None or (not isinstance(value, str) and hasattr(value, "utcoffset")):
        return
    if not isinstance(value, str):
        raise ValueError("the name of a time zone, or a tzinfo object")
    if value.upper() in ("", "UTC", "LOCAL"):
        return
    import zoneinfo  # here, because most apps keep UTC and need not load it

    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("no time zone of that name, such as 'Europe/Berlin'; tzdata may be missing") from None


def _driver_choices(value: Mapping[Any, Any]) -> None:
    for key, dist in value.items():
        if not isinstance(dist, str) or not isinstance(key, str) or not key.startswith("kernel.") or ":" not in key:
            raise ValueError('entries look like {"kernel.brokers:redis": "name-of-the-distribution"}')


def _retry_policy(value: Mapping[str, Any]) -> None:
    known = {"max_retries", "interval_start", "interval_step", "interval_max", "retry_errors"}
    for key in value:
        if key not in known:
            raise ValueError(f"{key!r} is none of {', '.join(sorted(known))}")


def _max_priority(value: int | None) -> None:
    if value is not None and not 0 <= value <= 255:
        raise ValueError("0 to 255")


def _queues(value: Any) -> None:
    if value is not None and not isinstance(value, list | tuple | set | frozenset | Mapping):
        raise ValueError("a list of queues, or a dictionary of them by name")


def _routes(value: Any) -> None:
    if value is None or isinstance(value, str | list | tuple | Mapping) or callable(value):
        return
    if not callable(getattr(value, "route_for_task", None)):
        raise ValueError("a dictionary, a list, a function, the path of one, or an object with route_for_task")


def _annotations(value: Any) -> None:
    if value is None or isinstance(value, str | list | tuple | Mapping) or callable(value):
        return
    if not hasattr(value, "annotate") and not hasattr(value, "annotate_any"):
        raise ValueError("a dictionary, a list, the path of one, or an object with annotate")


_QUEUE_TYPES: Final = ("classic", "quorum")

PLUGINS: Final = (
    Setting("plugins", "list", (), "Hook plugins to load besides those found by entry point: `module:attribute`."),
    Setting("disable_plugins", "list", (), "Names or distributions of hook plugins that are not to be loaded."),
    Setting("required_plugins", "list", (), "Hook plugins without which the app refuses to start."),
    Setting(
        "drivers",
        "dict",
        {},
        "Which distribution wins when two offer one driver: `{'kernel.brokers:redis': 'distribution'}`.",
        check=_driver_choices,
    ),
)

GENERAL: Final = (
    Setting("accept_content", "list", ("json",), "Serializers (names or content types) that messages may use."),
    Setting("result_accept_content", "list", None, "The same for results; None: as `accept_content`.", True),
    Setting("enable_utc", "bool", True, "Times in messages are UTC."),
    Setting(
        "timezone",
        "any",
        None,
        "Time zone of naive times; None: UTC, or local without `enable_utc`.",
        True,
        (),
        _timezone,
    ),
    Setting("imports", "list", (), "Modules that a worker imports at start, in order."),
    Setting("include", "list", (), "More modules, imported after `imports`."),
    Setting("max_body", "bytes", 16 * 1024 * 1024, "Largest body, once decompressed, that is decoded."),
    Setting(
        "data", "str", None, "File of the embedded default; None: `.kernel/<app>.db` beside the app's module.", True
    ),
)

TASKS: Final = (
    Setting(
        "task_annotations",
        "any",
        None,
        "Changes to options of tasks by name or `'*'`: a dictionary, an object with `annotate`, or a list of these.",
        True,
        (),
        _annotations,
    ),
    Setting("task_acks_late", "bool", True, "Acknowledge after the task has ended (True, unlike Celery), not before."),
    Setting("task_acks_on_failure_or_timeout", "bool", True, "Acknowledge late tasks that fail or time out."),
    Setting(
        "task_acks_on_failure", "bool", None, "The same for failures; None: `task_acks_on_failure_or_timeout`.", True
    ),
    Setting(
        "task_acks_on_timeout", "bool", None, "The same for time limits; None: `task_acks_on_failure_or_timeout`.", True
    ),
    Setting(
        "task_allow_error_cb_on_chord_header", "bool", False, "Error callbacks of a chord are linked to its header too."
    ),
    Setting("task_always_eager", "bool", False, "Run `delay` and `apply_async` at once in the caller."),
    Setting("task_compression", "str", None, "Compression of task messages, such as `gzip`.", True),
    Setting("task_create_missing_queues", "bool", True, "Create queues that are not defined."),
    Setting(
        "task_create_missing_queue_type",
        "str",
        "classic",
        "Type of queues that are created, where the server has types.",
        choices=_QUEUE_TYPES,
    ),
    Setting(
        "task_create_missing_queue_exchange_type",
        "str",
        None,
        "Type of the exchange of queues that are created; None: direct.",
        True,
    ),
    Setting("task_default_delivery_mode", "any", 2, "2 or `persistent`; 1 or `transient`.", check=_delivery_mode),
    Setting("task_default_priority", "int", None, "Priority of messages that name none.", True),
    Setting("task_default_exchange", "str", None, "Exchange of the default queue; None: of the queue's name.", True),
    Setting("task_default_exchange_type", "str", "direct", "Its type: direct, topic, fanout, headers, x-..."),
    Setting("task_default_queue", "str", "celery", "Queue of tasks that name none."),
    Setting(
        "task_default_queue_type",
        "str",
        "classic",
        "Type of the default queue, where the server has types.",
        choices=_QUEUE_TYPES,
    ),
    Setting("task_default_routing_key", "str", None, "Routing key of the default queue; None: its name.", True),
    Setting(
        "task_delivery_limit",
        "int",
        10,
        "Starts that never ended after which a task is a dead letter.",
        True,
        (),
        _at_least(1),
    ),
    Setting("task_eager_propagates", "bool", False, "Errors of eager tasks are raised in the caller."),
    Setting("task_ignore_result", "bool", False, "Store no results."),
    Setting("task_inherit_parent_priority", "bool", False, "A task called by a task has its priority."),
    Setting(
        "task_on_commit_session",
        "any",
        None,
        "Session whose commit `delay_on_commit` waits for: a callable that returns it, such as a `scoped_session` of "
        "SQLAlchemy, or `module:attribute` (`kernel[sqlalchemy]`).",
        True,
    ),
    Setting("task_publish_retry", "bool", True, "Try again when publishing fails."),
    Setting(
        "task_publish_retry_policy",
        "dict",
        {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2},
        "How often and after how many seconds publishing is tried again.",
        check=_retry_policy,
    ),
    Setting(
        "task_queue_max_priority",
        "int",
        None,
        "`x-max-priority` of queues that say none, where the server needs it.",
        True,
        (),
        _max_priority,
    ),
    Setting("task_queues", "any", None, "Queues: a list of `kernel.Queue`, or a dictionary.", True, (), _queues),
    Setting("task_reject_on_worker_lost", "bool", None, "Put a late task back when its process dies.", True),
    Setting(
        "task_repr_maxlevels", "int", 3, "Depth to which arguments are shown in events and logs.", check=_at_least(1)
    ),
    Setting(
        "task_routes",
        "any",
        None,
        "Where calls go by task: a dictionary, pairs, a function, its path, or a list of these.",
        True,
        (),
        _routes,
    ),
    Setting("task_serializer", "str", "json", "Serializer of task messages."),
    Setting(
        "task_soft_time_limit", "seconds", None, "`SoftTimeLimitExceeded` is raised in a task after this time.", True
    ),
    Setting("task_store_eager_result", "bool", False, "Store results of eager tasks too."),
    Setting("task_store_errors_even_if_ignored", "bool", False, "Store failures of tasks that ignore results."),
    Setting("task_time_limit", "seconds", None, "A task is ended by force after this time.", True),
    Setting("task_track_started", "bool", False, "Store the state STARTED."),
)

RESULTS: Final = (
    Setting(
        "result_backend", "any", None, "URL or name of the result backend; None: no results are kept.", True, (), _url
    ),
    Setting("result_compression", "str", None, "Compression of stored results.", True),
    Setting("result_expires", "seconds", 86400, "Age at which results are deleted; None or 0: never.", True),
    Setting(
        "result_chord_expires",
        "seconds",
        None,
        "Age at which what is known of a chord is deleted; None: `result_expires`.",
        True,
    ),
    Setting(
        "result_failure_expires",
        "seconds",
        None,
        "Age at which failures are deleted, on Redis; None: `result_expires`.",
        True,
    ),
    Setting("result_chord_retry_interval", "seconds", 1.0, "Pause between looks at an unfinished chord of Celery's."),
    Setting("result_extended", "bool", False, "Store name, arguments, worker, retries and queue with the result."),
    Setting("result_serializer", "str", "json", "Serializer of results."),
    Setting("result_backend_transport_options", "dict", {}, "Options of the result backend's driver."),
    Setting(
        "result_backend_always_retry",
        "bool",
        False,
        "Read a result again that could not be read for a reason that may pass.",
    ),
    Setting("result_backend_max_retries", "any", float("inf"), "How often; infinity: for ever.", check=_retries),
    Setting(
        "result_backend_base_sleep_between_retries_ms", "int", 10, "First pause between them; each next is double."
    ),
    Setting("result_backend_max_sleep_between_retries_ms", "int", 10000, "Longest pause between them."),
    Setting("result_backend_thread_safe", "bool", False, "Accepted: a backend is always shared between threads."),
    Setting(
        "result_cache_max",
        "int",
        -1,
        "Results of tasks that ended well that a process remembers; -1: none, 0 or None: all.",
        True,
    ),
)

DATABASE: Final = (
    Setting("database_url", "str", None, "URL of the database backend when `result_backend` is `database`.", True),
    Setting(
        "database_engine_options",
        "dict",
        {"pool_pre_ping": True, "pool_recycle": 3600},
        "Options of the database engine.",
    ),
    Setting("database_engine_callback", "any", None, "Callable, or its path, that is given each new engine.", True),
    Setting("database_short_lived_sessions", "bool", False, "A new session for each call."),
    Setting("database_table_schemas", "dict", None, "`{'task': schema, 'group': schema}`.", True),
    Setting("database_table_names", "dict", None, "`{'task': name, 'group': name}`.", True),
    Setting("database_create_tables_at_setup", "bool", True, "Create tables at start, not at first use."),
)

REDIS: Final = (
    Setting("redis_backend_use_ssl", "any", None, "TLS of the Redis backend: True, or its options.", True),
    Setting(
        "redis_backend_health_check_interval",
        "seconds",
        None,
        "Idle connections are checked before use after so long; 25 s by default, 0: never.",
        True,
    ),
    Setting(
        "redis_backend_credential_provider",
        "any",
        None,
        "A `redis.CredentialProvider`, its class, or the path of either.",
        True,
    ),
    Setting("redis_client_name", "str", None, "Name of the connections, as `CLIENT LIST` shows it.", True),
    Setting("redis_host", "str", None, "Host when the URL names none.", True),
    Setting("redis_port", "int", None, "Port when the URL names none.", True),
    Setting("redis_db", "int", None, "Database when the URL names none.", True),
    Setting("redis_username", "str", None, "User when the URL has no login.", True),
    Setting("redis_password", "str", None, "Password when the URL has no login.", True, secret=True),
    Setting(
        "redis_max_connections", "int", None, "Most connections in use at once; without, as many as threads.", True
    ),
    Setting(
        "redis_socket_timeout",
        "seconds",
        None,
        "Longest wait for an answer; `broker_connection_timeout` without.",
        True,
    ),
    Setting(
        "redis_socket_connect_timeout",
        "seconds",
        None,
        "Longest wait for a connection; `broker_connection_timeout` without.",
        True,
    ),
    Setting(
        "redis_retry_on_timeout",
        "bool",
        False,
        "Kept without effect: what may be repeated is repeated after a timeout anyway.",
    ),
    Setting("redis_socket_keepalive", "bool", None, "TCP keepalive; on unless it is False.", True),
)

BROKER: Final = (
    Setting(
        "broker_url",
        "any",
        None,
        "URL of the broker, a list, or several joined by `;`; None: the embedded default.",
        True,
        (),
        _url,
    ),
    Setting(
        "broker_pool_limit",
        "int",
        10,
        "Most connections of `app.pool`; 0 or None: no limit, and none is kept.",
        True,
        (),
        _at_least(0),
    ),
    Setting(
        "broker_pool_acquire_timeout",
        "seconds",
        None,
        "Time to wait for a connection of `app.pool`; None: 60 s (unlike Celery, which waits for ever).",
        True,
    ),
    Setting("broker_read_url", "any", None, "URL for workers; None: `broker_url`.", True, (), _url),
    Setting("broker_write_url", "any", None, "URL for publishing; None: `broker_url`.", True, (), _url),
    Setting(
        "broker_transport_options",
        "dict",
        {},
        "Options of the broker driver; `visibility_timeout` means `worker_lease`.",
    ),
    Setting("broker_use_ssl", "any", False, "TLS: True, or its options."),
    Setting("broker_connection_timeout", "seconds", 4, "Time to connect, and the deadline of one call."),
    Setting("broker_connection_retry", "bool", True, "Connect again when the connection is lost."),
    Setting(
        "broker_connection_retry_on_startup", "bool", None, "The same for the first connection; None: as above.", True
    ),
    Setting(
        "broker_connection_max_retries", "int", 100, "Attempts to connect; None or 0: for ever.", True, (), _at_least(0)
    ),
)

WORKER: Final = (
    Setting(
        "worker_concurrency",
        "any",
        None,
        "Tasks at once; None or `auto`: as the pool says, mostly the number of processors.",
        True,
        (),
        _concurrency,
    ),
    Setting("worker_direct", "bool", False, "The worker consumes a queue of its own, too: `<node name>.dq2`."),
    Setting(
        "worker_enable_soft_shutdown_on_idle", "bool", False, "Keep to `worker_soft_shutdown_timeout` even when idle."
    ),
    Setting("worker_hijack_root_logger", "bool", True, "The worker replaces the handlers of the root logger."),
    Setting(
        "worker_hook_deadline",
        "seconds",
        60,
        "Time a plugin may hold up the worker's engine before it stops claiming and exits.",
        check=_at_least(1),
    ),
    Setting(
        "worker_lease", "seconds", 30, "Time a worker may be silent before its tasks go to others.", check=_finite_lease
    ),
    Setting(
        "worker_limit_grace", "seconds", 5, "Time for neighbours of a task that is ended by force in a shared process."
    ),
    Setting("worker_log_color", "bool", None, "Colours in logs; None: on a terminal.", True),
    Setting("worker_log_datefmt", "str", None, "Format of dates in logs.", True),
    Setting("worker_log_format", "str", LOG_FORMAT, "Format of log lines."),
    Setting("worker_log_json", "bool", False, "Logs are JSON lines."),
    Setting(
        "worker_max_memory_per_child",
        "int",
        None,
        "Resident memory in KiB at which a child is replaced.",
        True,
        (),
        _at_least(1),
    ),
    Setting(
        "worker_max_tasks_per_child", "int", None, "Tasks after which a child is replaced.", True, (), _at_least(1)
    ),
    Setting("worker_pool", "str", "prefork", "Pool driver: how tasks run inside a process."),
    Setting(
        "worker_prefetch_multiplier",
        "int",
        None,
        "Messages claimed ahead for each slot; None (unlike Celery): adapts.",
        True,
        (),
        _prefetch,
    ),
    Setting("worker_proc_alive_timeout", "seconds", 4.0, "Time for a child to start."),
    Setting(
        "worker_processes",
        "int",
        None,
        "Child processes; 0: run tasks in the worker itself; None: as the pool says.",
        True,
        (),
        _at_least(0),
    ),
    Setting("worker_redirect_stdouts", "bool", True, "What tasks print goes to the log."),
    Setting("worker_redirect_stdouts_level", "str", "WARNING", "Level at which it is logged.", choices=LEVELS),
    Setting(
        "worker_soft_shutdown_timeout", "seconds", 0.0, "Time for running tasks between the warm and the cold stage."
    ),
    Setting("worker_start_method", "str", "fork", "How the fork server comes to be.", choices=("fork", "spawn")),
    Setting("worker_task_log_datefmt", "str", None, "Format of dates in log lines of tasks.", True),
    Setting("worker_task_log_format", "str", TASK_LOG_FORMAT, "Format of log lines of tasks."),
)

SERVED: Final = PLUGINS + GENERAL + TASKS + RESULTS + DATABASE + REDIS + BROKER + WORKER

FIXED_WHILE_OPEN: Final = frozenset(
    {
        *(setting.name for setting in PLUGINS),
        *(setting.name for setting in BROKER),
        *(setting.name for setting in DATABASE),
        *(setting.name for setting in REDIS),
        "accept_content",
        "data",
        "max_body",
        "result_accept_content",
        "result_backend",
        "result_backend_transport_options",
        "result_expires",
    }
)
"""Read once, when drivers are opened: a later change would be without effect, so it is refused."""
