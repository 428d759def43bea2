"""`Attributes`: the options of a task, as attributes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernel.call import NO_OPTIONS
from kernel.options import CALL_DEFAULTS

if TYPE_CHECKING:
    from kernel.app import Kernel
    from kernel.options import Expiry


class FromSetting:
    """An option that follows a setting of the app for as long as the task does not set it."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def __get__(self, task: Attributes | None, owner: type) -> Any:
        # Not a data descriptor: what an instance or a subclass sets comes first.
        return None if task is None or task._app is None else getattr(task._app.conf, self.setting)


class Attributes:
    """What `Task` is a subclass of. Options that are not set follow their settings, or have the values given here."""

    _app: Kernel | None = None

    name: str = ""
    typing: bool | None = None
    bind: bool = False
    max_retries: int | None = 3
    default_retry_delay: float = 180.0
    rate_limit: str | float | None = None
    trail: bool = True
    send_events: bool = True
    throws: tuple[type[BaseException], ...] = ()
    expires: Expiry | None = None
    resultrepr_maxsize: int = 1024
    queue: str | None = None
    exchange: str | None = None
    exchange_type: str | None = None
    routing_key: str | None = None
    delivery_mode: int | str | None = None
    retry_on_worker_lost: bool | None = None

    autoretry_for: Sequence[type[BaseException]] = ()
    dont_autoretry_for: Sequence[type[BaseException]] = ()
    retry_kwargs: Mapping[str, Any] = NO_OPTIONS
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600.0
    retry_jitter: bool = True

    if TYPE_CHECKING:
        serializer: str
        compression: str | None
        priority: int | None
        ignore_result: bool
        store_errors_even_if_ignored: bool
        store_eager_result: bool
        time_limit: float | None
        soft_time_limit: float | None
        track_started: bool
        acks_late: bool
        acks_on_failure_or_timeout: bool
        acks_on_failure: bool | None
        acks_on_timeout: bool | None
        reject_on_worker_lost: bool | None
    else:
        serializer = FromSetting("task_serializer")
        compression = FromSetting("task_compression")
        priority = FromSetting("task_default_priority")
        ignore_result = FromSetting("task_ignore_result")
        store_errors_even_if_ignored = FromSetting("task_store_errors_even_if_ignored")
        store_eager_result = FromSetting("task_store_eager_result")
        time_limit = FromSetting("task_time_limit")
        soft_time_limit = FromSetting("task_soft_time_limit")
        track_started = FromSetting("task_track_started")
        acks_late = FromSetting("task_acks_late")
        acks_on_failure_or_timeout = FromSetting("task_acks_on_failure_or_timeout")
        acks_on_failure = FromSetting("task_acks_on_failure")
        acks_on_timeout = FromSetting("task_acks_on_timeout")
        reject_on_worker_lost = FromSetting("task_reject_on_worker_lost")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # None means "as the setting says", and would hide the descriptor that does so.
        for name in FROM_SETTINGS:
            if name in cls.__dict__ and cls.__dict__[name] is None:
                delattr(cls, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if value is None and name in FROM_SETTINGS:
            self.__dict__.pop(name, None)
        else:
            object.__setattr__(self, name, value)
        if name in CALL_DEFAULTS and self._app is not None:
            # What its calls have in common was worked out with the old value.
            self._app.forget_plan(self.name)


FROM_SETTINGS: Final = frozenset(name for name, value in vars(Attributes).items() if isinstance(value, FromSetting))
"""Options that follow a setting while they are not set."""
